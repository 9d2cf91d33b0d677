"""Renders a report as one self-contained HTML file: no script, no other host, no second file.

The content is given as chapters of Markdown paragraphs and tables, figures and faces, so that the HTML and the
Markdown of a report cannot differ. All text from outside is escaped; in addition, the page's own policy forbids scripts
and the network. The page follows the system's light or dark mode and is usable on a phone, with a keyboard, on paper
and with a screen reader.

Example:
    >>> page = html_page("Report CNN", {"bundle": bundle.id}, [Chapter(title="Per source", blocks=(table, figure))])
"""

from __future__ import annotations

import base64
import dataclasses
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from fakeface_jax.errors import printable
from fakeface_jax.labels import Label

LONG_TABLE = 24
"""Rows above which a table is folded by the values of its first column."""

_NUMBER = re.compile(r"[+-]?\d[\d.,%]*|–")
_ESTIMATE = re.compile(r"([+-]?\d[^\[]*?) (\[.*\])")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure of a report.

    Attributes:
        name: name of its PNG file, without the ending.
        png: the file's bytes.
        caption: text below the figure.
        alt: description of the figure for people who do not see it.
    """

    name: str
    png: bytes = dataclasses.field(repr=False)
    caption: str
    alt: str


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FaceCard:
    """One face with its score.

    Attributes:
        id: name of the face.
        label: real or fake.
        method: how a fake was made; empty for reals and if unknown.
        p_fake: the model's score, in [0, 1].
        picture: RGB picture; None shows none.
    """

    id: str
    label: Label
    method: str
    p_fake: float
    picture: UInt8[np.ndarray, "h w 3"] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Faces:
    """A row of faces under a heading of their own."""

    title: str
    faces: tuple[FaceCard, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Chapter:
    """A part of a report with a heading.

    Attributes:
        title: the heading.
        blocks: paragraphs and tables in Markdown (of which only tables and `code` are supported), figures, faces; empty
            text is skipped.
    """

    title: str
    blocks: tuple[str | Drawing | Faces, ...]


def html_page(title: str, facts: Mapping[str, str], chapters: Sequence[Chapter]) -> str:
    """Renders the whole file; the same arguments give the same text.

    Args:
        title: heading and title of the page.
        facts: the measured model and data, shown first.
        chapters: the content, for which there is a table of contents.
    """
    parts = [(chapter.title, [_block(block) for block in chapter.blocks if block]) for chapter in chapters]
    return _PAGE.render(title=title, facts=facts, chapters=parts, style=Markup(_STYLE))


def _block(block: str | Drawing | Faces) -> dict[str, Any]:
    """Returns the template's values for a block."""
    if isinstance(block, Drawing):
        with Image.open(io.BytesIO(block.png)) as image:
            size = image.size
        return {"kind": "figure", "drawing": block, "source": _data_uri("png", block.png), "size": size}
    if isinstance(block, Faces):
        return {"kind": "faces", "title": block.title, "faces": [_face(face) for face in block.faces]}
    return _table(block) if block.startswith("|") else {"kind": "text", "text": block}


def _face(face: FaceCard) -> dict[str, Any]:
    source = None
    if face.picture is not None:
        file = io.BytesIO()
        Image.fromarray(face.picture).save(file, format="JPEG", quality=92)
        source = _data_uri("jpeg", file.getvalue())
    return {"card": face, "label": str(face.label), "source": source}


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _table(text: str) -> dict[str, Any]:
    """Splits a Markdown table into cells; its rows are one group or, if there are many, grouped by their first cell."""
    lines = [
        [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
        for line in text.strip().splitlines()
    ]
    header, rows = lines[0], lines[2:]
    numeric = [
        # The first column names a row, even if it looks like a number.
        column > 0 and all(_NUMBER.fullmatch(row[column]) or _ESTIMATE.fullmatch(row[column]) for row in rows)
        for column in range(len(header))
    ]
    groups = {"": rows}
    folded: dict[str, list[list[str]]] = {}
    for row in rows:
        folded.setdefault(row[0], []).append(row[1:])
    # Many groups of one or two rows would be a tedious list to open.
    if len(rows) > LONG_TABLE and len(rows) > 2 * len(folded):
        header, numeric, groups = header[1:], numeric[1:], folded
    # The leading columns name a row; they end at the first number.
    names = next((index for index, one in enumerate(numeric) if one), len(header))
    return {"kind": "table", "header": header, "groups": groups, "numeric": numeric, "names": names}


def _inline(text: str) -> Markup:
    """Escapes a text and renders its Markdown `code`."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(printable(text)))))


def _estimate(text: str) -> Markup:
    """Renders a cell with its interval set apart."""
    found = _ESTIMATE.fullmatch(text)
    return _inline(text) if found is None else Markup("<b>{}</b> <small>{}</small>").format(found[1], found[2])


def _shown(value: Any) -> Any:
    """Escapes text for display: names from foreign data sets must not change the direction of writing or hide."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


# No dates and no random ids: the same evaluation gives the same file.
_TEMPLATE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<meta http-equiv="Content-Security-Policy" \
content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<title>{{ title }}</title>
<style>{{ style }}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the results</a>
<header>
<h1>{{ title }}</h1>
<dl>
{% for key, value in facts.items() %}
<div><dt>{{ key }}</dt><dd>{{ value }}</dd></div>
{% endfor %}
</dl>
<nav aria-label="Contents"><ol>
{% for title, _ in chapters %}
<li><a href="#part-{{ loop.index }}">{{ title }}</a></li>
{% endfor %}
</ol></nav>
</header>
<main id="content">
{% for title, blocks in chapters %}
<section aria-labelledby="part-{{ loop.index }}">
<h2 id="part-{{ loop.index }}">{{ title }}</h2>
{% for block in blocks %}
{% if block.kind == "text" %}
<p>{{ block.text | inline }}</p>
{% elif block.kind == "figure" %}
<figure{% if block.size[0] <= 800 %} class="half"{% endif %}>
<div class="wide" role="region" tabindex="0" aria-label="{{ block.drawing.caption }}">\
<img class="drawn" src="{{ block.source }}" width="{{ block.size[0] }}" height="{{ block.size[1] }}" \
alt="{{ block.drawing.alt }}"></div>
<figcaption>{{ block.drawing.caption }}</figcaption></figure>
{% elif block.kind == "faces" %}
<h3>{{ block.title }}</h3>
<ul class="faces">
{% for face in block.faces %}
<li>{% if face.source %}<img src="{{ face.source }}" alt="the face {{ face.card.id }}, which is {{ face.label }}">\
{% endif %}
<span><b class="{{ face.label }}">{{ face.label }}</b>{% if face.card.method %} ({{ face.card.method }}){% endif %}, \
P(fake) {{ "%.3f" | format(face.card.p_fake) }}</span> <small>{{ face.card.id }}</small></li>
{% endfor %}
</ul>
{% else %}
{% for name, rows in block.groups.items() %}
{% if name %}<details{% if loop.first %} open{% endif %}><summary>{{ name }} \
<small>({{ rows | length }} rows)</small></summary>{% endif %}
<div class="wide" role="region" tabindex="0" aria-label="{{ title }}{% if name %}, {{ name }}{% endif %}"><table>
<thead><tr>
{% for cell in block.header %}
<th scope="col"{% if block.numeric[loop.index0] %} class="number"{% endif %}>{{ cell }}</th>
{% endfor %}
</tr></thead>
<tbody>
{% for row in rows %}
<tr>
{% for cell in row %}
{% if loop.index0 < block.names %}
<th scope="row">{{ cell }}</th>
{% else %}
<td{% if block.numeric[loop.index0] %} class="number"{% endif %}>{{ cell | estimate }}</td>
{% endif %}
{% endfor %}
</tr>
{% endfor %}
</tbody></table></div>
{% if name %}</details>{% endif %}
{% endfor %}
{% endif %}
{% endfor %}
</section>
{% endfor %}
</main>
</body>
</html>
"""

_STYLE = """
:root { --ink: #1c1f23; --soft: #586069; --line: #d5d9de; --ground: #fff; --band: #f4f6f8; --link: #0a58a6;
  --real: #0072b2; --fake: #b34700; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7ea; --soft: #a3abb3; --line: #3a4047; --ground: #14171a; --band: #1d2126; --link: #7db8f0;
    --real: #5fb4e6; --fake: #ff9a57; }
  /* White paper becomes the page's ground; turning the hues back keeps the blue of real and the orange of fake. */
  img.drawn { filter: invert(1) hue-rotate(180deg); mix-blend-mode: lighten; }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body { margin: 0 auto; max-width: 84rem; padding: 1.5rem clamp(1rem, 4vw, 3rem) 4rem; background: var(--ground);
  color: var(--ink); font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: clamp(1.4rem, 4vw, 2rem); line-height: 1.2; margin: .5rem 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; line-height: 1.25; margin: 3rem 0 .75rem; padding-top: 1rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.75rem 0 .5rem; }
p { max-width: 46rem; margin: .75rem 0; text-wrap: pretty; }
a { color: var(--link); }
code { font: .92em ui-monospace, "SF Mono", Menlo, Consolas, monospace; background: var(--band); padding: .1em .3em;
  border-radius: .25em; }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
.skip { position: absolute; left: -100vw; }
.skip:focus { position: static; }
dl { margin: 0 0 1rem; background: var(--band); border-radius: .5rem; padding: .75rem 1rem; }
dl div { display: grid; grid-template-columns: 9rem 1fr; gap: .75rem; padding: .15rem 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
nav ol { columns: 20rem; column-gap: 2.5rem; margin: 0; padding-left: 1.4rem; }
nav li { break-inside: avoid; }
.wide { overflow-x: auto; margin: 1rem 0; }
figure .wide { margin: 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
thead th { color: var(--soft); font-weight: 600; vertical-align: bottom; line-height: 1.3; min-width: 4.5rem; }
tbody th { font-weight: 600; white-space: nowrap; }
tbody th:first-child, thead th:first-child { position: sticky; left: 0; background: var(--ground); }
tbody tr:last-child > * { border-bottom-color: var(--soft); }
.number { text-align: right; }
td { white-space: nowrap; }
td b { font-weight: 600; }
td small { display: block; color: var(--soft); font-size: .8rem; }
details { border: 1px solid var(--line); border-radius: .5rem; margin: .5rem 0; padding: 0 .75rem; }
summary { cursor: pointer; padding: .6rem 0; font-weight: 600; }
summary small { color: var(--soft); font-weight: 400; }
figure { margin: 1.5rem 0; }
.half { display: inline-block; width: 36rem; max-width: 100%; margin-right: 1.5rem; vertical-align: top; }
img { max-width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: .9rem; margin-top: .4rem; max-width: 46rem; }
.faces { list-style: none; margin: 0; padding: 0; display: grid; gap: .75rem;
  grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); }
.faces li { background: var(--band); border-radius: .5rem; padding: .6rem; font-size: .9rem; line-height: 1.35; }
.faces img { width: 100%; border-radius: .3rem; margin-bottom: .4rem; }
.faces small { display: block; color: var(--soft); overflow-wrap: anywhere; margin-top: .2rem; }
b.real { color: var(--real); }
b.fake { color: var(--fake); }
@media (max-width: 40rem) {
  dl div { grid-template-columns: 1fr; gap: 0; padding: .25rem 0; }
  th, td { padding: .35rem .5rem; }
  .faces { grid-template-columns: repeat(2, 1fr); }
  figure:not(.half) img { max-width: none; width: 44rem; }
}
@media print { nav, .skip { display: none; } tr, figure, .faces li { break-inside: avoid; } }
"""


def _environment() -> Environment:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_shown
    )
    environment.filters |= {"inline": _inline, "estimate": _estimate}
    return environment


_PAGE = _environment().from_string(_TEMPLATE)
