"""The subcommands of `fakeface`, one module each."""

import logging

NEEDS_TRAINING_EXTRA = "this command needs the training extra: pip install '.[train]'"


def quiet_libraries() -> None:
    """Silences Orbax and TFDS, which log every save and every missing optional part through absl.

    The library leaves logging to the program that uses it; a command is such a program, and these lines would hide its
    own output.
    """
    logging.getLogger("absl").setLevel(logging.ERROR)
