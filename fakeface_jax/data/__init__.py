"""Training data: sources -> merged manifest -> audited -> face crops in ArrayRecord -> batches."""
