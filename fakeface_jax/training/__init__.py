"""Training: a configuration, a state, a jitted step, a loop with checkpoints, and a bundle at the end."""
