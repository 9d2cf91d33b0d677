"""How good a model is, and what its scores mean: predictions -> calibration -> metrics -> report."""
