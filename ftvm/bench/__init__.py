"""Running the benchmarks: scripts that each measure one thing and write one JSON object (benchmarks/measure.py).

A benchmark is a file NAME.py with NAME.md beside it, which says what it measures; other files there are what they
share.
"""
