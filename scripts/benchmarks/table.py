"""Formats results as Markdown: first every goal and its result, then all values, then machine, versions, commit, date.

Example:
    >>> text = table({"sections": {"startup": {...}}})
    >>> put_between_markers(Path("docs/performance.md"), text)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
"""Markers in a document; the program writes the text between them."""

_MET = {True: "yes", False: "**no**", None: "-"}


def read(files: Sequence[Path]) -> dict[str, Any]:
    """Reads the sections of several result files; if several have a section, the last one counts."""
    sections: dict[str, Any] = {}
    for path in files:
        sections |= json.loads(path.read_text(encoding="utf-8"))["sections"]
    return {"sections": sections}


def table(results: Mapping[str, Any]) -> str:
    """Formats all results."""
    sections = results["sections"]
    quick = [name for name, section in sections.items() if section["quick"]]
    parts = [f"**Run with --quick, so that these numbers mean nothing: {', '.join(quick)}.**"] if quick else []
    parts += ["### Goals", _goals(sections)]
    for name, section in sections.items():
        parts += [f"### {name.capitalize()}", *(_values(row) for row in section["rows"])]
    parts += ["### Machine, versions, commits", _circumstances(sections)]
    return "\n\n".join(parts) + "\n"


def put_between_markers(document: Path, text: str) -> None:
    """Replaces the text between the markers of a document.

    Raises:
        ValueError: the document has no markers.
    """
    before, begin, rest = document.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{document} has no lines {BEGIN} and {END}; add them where the results should be")
    document.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")


def _goals(sections: Mapping[str, Any]) -> str:
    lines = ["| what | goal | ratio, median [range] | against | reached |", "| --- | --- | --- | --- | --- |"]
    for section in sections.values():
        for row in section["rows"]:
            if not row["values"]:
                why = "; ".join(row["missing"].values())
                lines.append(f"| {row['what']} | - | - | {why} | - |")
            for goal in row["goals"] if row["values"] else ():
                if goal["against"] is None:
                    lines.append(f"| {row['what']} | {goal['goal']} | - | not measured | - |")
                    continue
                has_goal = goal["at_least"] is not None or goal["at_most"] is not None
                met = _MET[goal["met"] if has_goal else None]
                ratio = _range(goal["ratio"])
                lines.append(f"| {row['what']} | {goal['goal']} | {ratio} | {goal['against']} | {met} |")
    return "\n".join(lines)


def _values(row: Mapping[str, Any]) -> str:
    title = f"**{row['what']}**"
    if not row["values"]:
        return f"{title}: " + "; ".join(row["missing"].values())
    ours = row["ours"]
    lines = [f"| {row['unit']} | median [range] | {ours} / it |", "| --- | --- | --- |"]
    for name, spread in row["values"].items():
        ratio = _range(row["ratios"][name]) if name in row["ratios"] else ""
        lines.append(f"| {name} | {_range(spread)} | {ratio} |")
    lines += [f"| {name} | {_short(why)} | |" for name, why in row["missing"].items()]
    told = [row["note"]] if row["note"] else []
    told += [f"{name}: {value:g}" for name, value in row["checks"].items()]
    rounds = len(next(iter(row["values"].values()))["rounds"])
    told += ["1 round" if rounds == 1 else f"{rounds} rounds"]
    return f"{title}\n\n" + "\n".join(lines) + f"\n\n{'. '.join(_sentence(one) for one in told)}."


def _circumstances(sections: Mapping[str, Any]) -> str:
    lines = ["| section | date | commit | rounds | minutes | load before |", "| --- | --- | --- | --- | --- | --- |"]
    for name, section in sections.items():
        load = section["machine"]["load_at_start"]
        cells = (name, section["date"], section["commit"], section["rounds"], section["minutes"], load)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    told: dict[str, list[str]] = {}
    for name, section in sections.items():
        machine, versions = section["machine"], section["versions"]
        text = f"{machine['cpu']}, {machine['cores_used']} of {machine['cores']} cores used, "
        text += f"{machine['memory_gib']} GiB, {machine['system']}."
        for who, packages in versions.items():
            text += f" {who.capitalize()}: " + ", ".join(f"{package} {one}" for package, one in packages.items()) + "."
        told.setdefault(text, []).append(name)
    return "\n".join(lines) + "\n\n" + "\n\n".join(f"{', '.join(names)}: {text}" for text, names in told.items())


def _range(spread: Mapping[str, float]) -> str:
    return f"{_number(spread['median'])} [{_number(spread['min'])} - {_number(spread['max'])}]"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _short(text: str) -> str:
    return (text[:117] + "...") if len(text) > 120 else text.replace("|", "/")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".")
