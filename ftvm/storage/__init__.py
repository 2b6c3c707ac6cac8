"""Disks: N raw files that are one disk. See docs/mirror.md for the format, the rules and why a crash loses nothing."""
