"""What `scripts/benchmark.py` measures: one module per section, and what they share.

`contenders/` holds the programs that do the work, ours and the peers'; each runs in a process of its own.
"""
