"""What each subcommand of `fakeface` does."""
