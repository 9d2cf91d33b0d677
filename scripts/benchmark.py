"""Measures speed as ratios within one run: our code and that of peers alternate; medians and ranges over rounds.

    make benchmark
    python scripts/benchmark.py training --peers --rounds 7 --output docs/performance.json
    python scripts/benchmark.py table docs/performance.json --into docs/performance.md

Sections: `training` (one step), `pipeline` (training from end to end), `inference`, `video`, `startup`, `memory` and
`gpu`; each module of `scripts/benchmarks/` says what it compares and how. `all` runs them one after another. All
contenders have the same two cores. Only one contender runs at a time, and the order rotates from round to round.
`--peers` needs the environment that `make peers` builds. Progress goes to standard error, results to standard output
and, with `--output`, to a file, whose other sections are kept.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from benchmarks.results import ROOT, Settings, section
from benchmarks.table import put_between_markers, read, table
from benchmarks.workers import use_cores

SECTIONS = ("training", "pipeline", "inference", "video", "startup", "memory", "gpu")

PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"


def main() -> None:
    """Runs the requested sections."""
    options = parse()
    if options.what == "table":
        text = table(read(options.files))
        if options.into is None:
            print(text)
        else:
            put_between_markers(options.into, text)
        return
    if options.peers is not None and not options.peers.exists():
        raise SystemExit(f"{options.peers} does not exist; build it with `make peers`")
    use_cores()
    failed = []
    for name in SECTIONS if options.what == "all" else (options.what,):
        try:
            results = {name: measure(name, options)}
        except Exception:  # the other sections are still measured
            traceback.print_exc()
            failed.append(name)
            continue
        if options.output is not None:
            write(options.output, results)
        print(table({"sections": results}) if options.text else json.dumps(results, indent=2))
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description="Measures our speed and memory and those of peers, as ratios in one run."
    )
    commands = parser.add_subparsers(dest="what", required=True)
    for name in (*SECTIONS, "all"):
        one = commands.add_parser(name)
        one.add_argument("--rounds", type=int, default=5, help="number of measurements of each contender")
        one.add_argument(
            "--peers", type=Path, nargs="?", const=PEERS_PYTHON, help="also measure the peers that this Python has"
        )
        one.add_argument("--output", type=Path, help="write the results to this JSON file and keep its other sections")
        one.add_argument("--profile", action="store_true", help="print where the time is spent")
        one.add_argument(
            "--quick", action="store_true", help="run as little as possible to test the benchmark; ignore the numbers"
        )
        one.add_argument("--text", action="store_true", help="print a table instead of JSON")
    one = commands.add_parser("table")
    one.add_argument("files", type=Path, nargs="+", help="result files; if several have a section, the last one counts")
    one.add_argument("--into", type=Path, help="Markdown file in which the text between the markers is replaced")
    return parser.parse_args()


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measures one section with its module."""
    load, started = os.getloadavg()[0], time.time()

    def tell(text: str) -> None:
        print(f"{time.time() - started:6.0f} s  {name}: {text}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="fakeface-") as folder:
        settings = Settings(
            rounds=options.rounds,
            peers=options.peers,
            folder=Path(folder),
            quick=options.quick,
            profile=options.profile,
            tell=tell,
        )
        rows = importlib.import_module(f"benchmarks.{name}").measure(settings)
    tell("done")
    return section(rows, settings, started=started, ended=time.time(), load=load)


def write(path: Path, sections: dict[str, Any]) -> None:
    """Replaces sections in a result file."""
    kept = read([path])["sections"] if path.exists() else {}
    kept |= sections
    ordered = {name: kept[name] for name in SECTIONS if name in kept}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"sections": ordered}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
