"""Media decoded in processes that can do nothing else."""
