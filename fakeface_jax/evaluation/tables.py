"""The results of a protocol as rows of estimates: a table for people, JSON for programs.

Example:
    >>> print(robustness(scorers, clean, "test").only(source="all sources").table())
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from fakeface_jax.evaluation.metrics import Estimate
from fakeface_jax.evaluation.paired_bootstrap import Draws, Scored, estimates
from fakeface_jax.labels import Label

UNKNOWN = Estimate(value=None, low=None, high=None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a protocol's table.

    Attributes:
        names: the subject of the row, by column: source, model, degradation, ...
        counts: `reals`, `fakes` and `groups` behind the estimates.
        estimates: estimates by their keys; a missing one is unknown.
    """

    names: Mapping[str, str]
    counts: Mapping[str, int]
    estimates: Mapping[str, Estimate]

    @classmethod
    def of(cls, names: Mapping[str, str], scored: Scored, draws: Draws) -> Row:
        """Makes the row of some faces that a model scored."""
        return cls(names=names, counts=counts(scored), estimates=estimates(scored, draws))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProtocolResult:
    """The results of a protocol.

    Attributes:
        protocol: its name on the command line.
        title: heading of the table.
        caption: description of the procedure, in sentences.
        columns: shown estimates, key to heading; a key that ends in `_change` is a difference.
        rows: the rows, in the order of the table.
    """

    protocol: str
    title: str
    caption: str
    columns: Mapping[str, str]
    rows: tuple[Row, ...]

    def only(self, **names: str) -> ProtocolResult:
        """Returns the same result with only the rows that have these names."""
        kept = [row for row in self.rows if all(row.names.get(key) == value for key, value in names.items())]
        return dataclasses.replace(self, rows=tuple(kept))

    def table(self) -> str:
        """Returns the rows as a Markdown table, `value [low, high]` or a dash; empty text if there are none."""
        if not self.rows:
            return ""
        header = [*self.rows[0].names, *self.rows[0].counts, *self.columns.values()]
        lines: list[Sequence[str]] = [header, ["---"] * len(header)]
        for row in self.rows:
            shown = [_text(key, row.estimates.get(key, UNKNOWN)) for key in self.columns]
            lines.append([*row.names.values(), *map(str, row.counts.values()), *shown])
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON-able values without NaN; estimates are rounded to 6 decimals, so that machines agree on it."""
        rows = []
        for row in self.rows:
            shown = {key: row.estimates.get(key, UNKNOWN) for key in self.columns}
            figures = {
                key: {part: _rounded(value) for part, value in dataclasses.asdict(estimate).items()}
                for key, estimate in shown.items()
            }
            rows.append({**row.names, **row.counts, **figures})
        return {
            "protocol": self.protocol,
            "title": self.title,
            "caption": self.caption,
            "columns": dict(self.columns),
            "rows": rows,
        }


def counts(scored: Scored) -> dict[str, int]:
    """Counts reals, fakes and independent groups."""
    faces = scored.predictions
    return {
        "reals": int((faces.labels == Label.REAL).sum()),
        "fakes": int((faces.labels == Label.FAKE).sum()),
        "groups": len(set(faces.groups.tolist())),
    }


def _text(key: str, estimate: Estimate) -> str:
    if estimate.value is None:
        return "–"
    # A difference is read by its sign; -0.000 would look like one.
    sign = "+" if key.endswith("_change") else ""
    shown = [
        f"{round(number, 3) + 0.0:{sign}.3f}"
        for number in (estimate.value, estimate.low, estimate.high)
        if number is not None
    ]
    return shown[0] if len(shown) < 3 else f"{shown[0]} [{shown[1]}, {shown[2]}]"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
