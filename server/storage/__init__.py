"""What outlives the service: jobs, reports, tokens."""
