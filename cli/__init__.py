"""What each subcommand of `fakeface` does."""

import logging

NEEDS_TRAINING_EXTRA = "this needs the training extra: pip install 'fakeface-jax[train]'"


def quiet_libraries() -> None:
    """Programs configure logging, the library does not: Orbax and TFDS log every save and every optional part that is
    missing, through absl, and would drown what the user asked for."""
    logging.getLogger("absl").setLevel(logging.ERROR)
