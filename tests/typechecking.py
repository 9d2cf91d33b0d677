"""The run-time check of shapes and dtypes in signatures, only for tests: jaxtyping's import hook calls `checked`."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""The checker; it accepts an int for a float, as PEP 484 does."""
