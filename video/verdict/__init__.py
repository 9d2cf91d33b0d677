"""From scores to a verdict: aggregation, roles of people, thresholds, calibration of videos."""
