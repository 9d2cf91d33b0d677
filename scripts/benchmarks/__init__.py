"""The sections of `scripts/benchmark.py`, one module each, and the code that they share.

`contenders/` contains the programs that do the work, ours and the peers'; each runs in a process of its own.
"""
