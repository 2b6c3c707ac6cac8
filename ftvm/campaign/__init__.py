"""Campaigns: thousands of experiments with one fault each, planned, run once each, kept, counted.

plan.py says what, space.py draws the faults, rig.py runs one experiment on warm machines, pool.py and dask_pool.py
spread them over processes, store.py keeps them, campaign.py puts it together, report.py shows it.
"""
