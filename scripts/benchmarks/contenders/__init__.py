"""Programs that are measured, ours and the peers', each in an environment of its own; `workers.py` starts them."""
