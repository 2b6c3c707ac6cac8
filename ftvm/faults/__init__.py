"""Faults as people write them: the notation of one fault, plans of many, and what a run with faults came to.

The values themselves, which cross into the modules, are in ftvm/module/fault.py.
"""
