"""Evaluation: predictions, their calibration, metrics with intervals, and reports."""
