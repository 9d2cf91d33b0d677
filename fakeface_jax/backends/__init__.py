"""The backends that run a network: JAX, or on a CPU a runtime that starts sooner and computes faster (`choice.py`)."""
