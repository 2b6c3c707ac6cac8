"""Guests that can be booted by name: the project's own test kernels, and what was fetched from Debian.

``catalogue`` knows what is there; ``fetch`` gets more; the other files are what fetching needs.
"""
