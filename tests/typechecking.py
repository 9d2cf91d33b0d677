"""The run-time check of shapes and dtypes in signatures, for tests alone: jaxtyping's import hook calls `checked`."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""An int is a float, as in PEP 484."""
