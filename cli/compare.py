"""`fakeface compare`: compares two evaluations of the same faces."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from fakeface_jax.cli import NEEDS_TRAINING_EXTRA
from fakeface_jax.errors import ConfigError, printable


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compare:
    """Compares two evaluations of the same faces: gain and loss per source, with intervals of the difference.

    Attributes:
        old: report directory of `fakeface evaluate`.
        new: report directory of the model that may replace it, for the same split of the same data.
        output: file to which the comparison is also written as JSON.
        resamples: number of bootstrap resamples.
    """

    old: Annotated[Path, tyro.conf.Positional]
    new: Annotated[Path, tyro.conf.Positional]
    output: Path | None = None
    resamples: int = 1000

    def run(self) -> int:
        """Compares the evaluations and returns the exit code."""
        try:
            from fakeface_jax.evaluation.comparison import compare, read_report
        except ImportError as error:
            raise ConfigError(f"{error.name} is missing; {NEEDS_TRAINING_EXTRA}") from error
        import json

        from fakeface_jax.atomic_files import whole_file

        comparison = compare(read_report(self.old), read_report(self.new), resamples=self.resamples)
        if self.output is not None:
            with whole_file(self.output) as temporary:
                text = json.dumps(comparison.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
                temporary.write_text(text + "\n", encoding="utf-8")
        print(printable(comparison.result.caption))
        print(f"\n{comparison.table()}")
        return 0
