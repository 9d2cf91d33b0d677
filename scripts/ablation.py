"""Trains the recipe without each of its parts and measures the result on the validation split.

    make ablation
    python scripts/ablation.py --data runs/data/fake_faces/faces-160 --output runs/ablation --epochs 1 -- \
        --model efficientnet_lite0 --init-from imagenet ...

The options after `--` are those of `fakeface train`; together they are the whole recipe. A finished run is not
repeated, and an interrupted one is continued. Prints a Markdown table of AUC: over all sources with its interval, per
source, and for degraded crops.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

_NO_DEGRADATION = [
    word for name in ("colour", "blur", "noise", "scale", "jpeg", "erase") for word in (f"--{name}", "0")
]
_NO_BLEND, _NO_UP = ["--self-blended", "0"], ["--up-sampled", "0"]

VARIANTS: dict[str, list[str]] = {
    "the whole recipe": [],
    "without degradations": _NO_DEGRADATION,
    "without pseudo-fakes": [*_NO_BLEND, *_NO_UP],
    "without self-blended images": _NO_BLEND,
    "without up-sampled faces": _NO_UP,
    "without any of these": [*_NO_DEGRADATION, *_NO_BLEND, *_NO_UP],
}
"""Options that remove one part of the recipe; if an option is given twice, the last one counts."""

DEGRADATIONS = ("JPEG 40", "JPEG 10", "blur 2", "resize by half", "noise 0.05")


def main() -> None:
    """Trains the missing runs, measures all of them and prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("recipe", nargs="*")
    options = parser.parse_args()
    found = {}
    for name, changes in VARIANTS.items():
        run = options.output / name.replace(" ", "-")
        if not (run / "bundle").is_dir():
            resume = ["--resume"] if run.is_dir() else []
            words = ["--data", options.data, "--output", str(run), "--epochs", str(options.epochs)]
            _fakeface("train", *words, *options.recipe, *changes, *resume)
        figures = run / "validation" / "metrics.json"
        if not figures.is_file():
            words = ["--data", options.data, "--bundle", str(run / "bundle"), "--output", str(figures.parent)]
            _fakeface("evaluate", *words, "--split", "validation", "--protocol", "within", "robustness")
        found[name] = json.loads(figures.read_text(encoding="utf-8"))
    print(_table(found, options.epochs))


def _fakeface(*words: str) -> None:
    program = Path(sys.executable).with_name("fakeface")
    subprocess.run([str(program), *words], check=True, stdout=sys.stderr)


def _table(found: dict[str, Any], epochs: int) -> str:
    first = next(iter(found.values()))
    # A source that has only fakes has no AUC of its own.
    sources = [name for name, one in first["sources"].items() if one["metrics"]["auc"]["value"] is not None]
    columns = ["", "all sources", *sources, *DEGRADATIONS]
    lines = [
        f"AUC on the validation split ({first['faces']} faces), one seed, epochs: {epochs}\n",
        f"| {' | '.join(columns)} |",
        f"|{' --- |' * len(columns)}",
    ]
    for name, figures in found.items():
        whole = figures["overall"]["metrics"]["auc"]
        cells = [f"{whole['value']:.3f} [{whole['low']:.3f}, {whole['high']:.3f}]"]
        cells += [f"{figures['sources'][source]['metrics']['auc']['value']:.3f}" for source in sources]
        (section,) = [one for one in figures["protocols"] if one["protocol"] == "robustness"]
        rows = {row["degradation"]: row["auc"]["value"] for row in section["rows"] if row["source"] == "all sources"}
        cells += [f"{rows[degradation]:.3f}" for degradation in DEGRADATIONS]
        lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
