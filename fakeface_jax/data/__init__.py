"""Training data: sources are merged into a manifest, audited, cut into face crops (ArrayRecord) and read in batches."""
