"""The one template of all pages, and reports made of tables and charts: as a page and as Markdown with its charts.

Question files and model output are untrusted: everything is escaped, and the page's policy runs no script but its own
and asks nothing of the network.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from relisten import __version__, plotting, records
from relisten.files import make_folder
from relisten.reports.table import Table, html_table, markdown_table, one_line
from relisten.reports.text import safe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WEB = files("relisten.reports") / "web"
HALF = 4.8
"""Inches: the width of a chart of which two stand beside each other."""


@dataclass(frozen=True)
class Chart:
    """A picture with a name for its file and a sentence under it."""

    name: str
    caption: str
    svg: str
    narrow: str
    """The same chart as SVG, drawn anew for a phone."""
    half: bool = False
    """Whether two such charts stand beside each other where there is room."""


@dataclass(frozen=True)
class Section:
    """A heading, a paragraph, then tables and charts in order."""

    title: str
    text: str
    parts: Sequence[Table | Chart] = ()


@dataclass(frozen=True)
class Page:
    """A report before it is HTML or Markdown."""

    title: str
    lead: str
    sections: Sequence[Section]
    made: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """For each run or data set how it was made: a name and a text for each setting."""
    command: str = ""
    """The command that wrote the page."""
    examples: str = ""
    """HTML, for the page alone: answers or questions to look at."""
    sounds: str = ""
    """HTML: the <audio> elements that the examples play."""


def chart(name: str, caption: str, draw: Callable[..., Figure], *given: Any, half: bool = False) -> Chart:
    """Draw a chart for a wide page and for a phone. `draw` takes `given` and a `width` in inches."""
    wide = plotting.svg(draw(*given, width=HALF if half else plotting.WIDTH))
    return Chart(name, caption, wide, plotting.svg(draw(*given, width=plotting.NARROW)), half)


def template(title: str, meta: str, body: str, script: str = "", kind: str = "") -> str:
    """A whole page. `meta`, at its top right, and `body` are HTML; `script` names a file in web/."""
    code = (WEB / script).read_text(encoding="utf-8") if script else ""
    digest = base64.b64encode(hashlib.sha256(f"\n{code}".encode()).digest()).decode()
    return Template((WEB / "page.html").read_text(encoding="utf-8")).substitute(
        title=safe(title),
        meta=meta,
        body=body,
        kind=kind,
        version=__version__,
        style=(WEB / "page.css").read_text(encoding="utf-8"),
        script=f"<script>\n{code}</script>" if script else "",
        script_source=f"'sha256-{digest}'" if script else "'none'",
    )


def write(page: Page, out: Path) -> list[Path]:
    """Write OUT (.html), the same as Markdown beside it, and its charts in a folder. Returns what was written."""
    markdown, folder = out.with_suffix(".md"), out.with_name(f"{out.stem}_charts")
    written = [out, markdown]
    for part in (part for section in page.sections for part in section.parts):
        if isinstance(part, Chart):
            written.append(make_folder(folder) / f"{part.name}.svg")
            records.write_atomic(written[-1], part.svg)
    records.write_atomic(markdown, markdown_page(page, folder.name))
    records.write_atomic(out, html_page(page), follow=True)
    return written


def markdown_page(page: Page, folder: str) -> str:
    """The report as Markdown. folder: where its charts lie, relative to it."""
    parts = [f"# {one_line(page.title)}", page.lead]
    for section in page.sections:
        parts += [f"## {one_line(section.title)}", section.text]
        for part in section.parts:
            image = "" if isinstance(part, Table) else f"![{one_line(part.caption)}]({folder}/{part.name}.svg)"
            parts.append(markdown_table(part) if isinstance(part, Table) else image)
    parts.append("## How this was made")
    for name, settings in page.made.items():
        listed = (f"- {one_line(key)}: `{_code(value)}`" for key, value in settings.items() if value)
        parts.append(f"### {one_line(name)}\n\n" + "\n".join(listed))
    if page.command:
        parts.append(f"This report: `{_code(page.command)}`")
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def html_page(page: Page) -> str:
    """The report as a page that needs no other file."""
    made = f"<p>This page: <code>{safe(page.command)}</code></p>" if page.command else ""
    for name, settings in page.made.items():
        rows = "".join(f"<dt>{safe(key)}</dt><dd>{safe(value)}</dd>" for key, value in settings.items() if value)
        made += f"<details><summary>{safe(name)}</summary><dl>{rows}</dl></details>"
    body = f"<h1>{safe(page.title)}</h1>\n<p class='lead'>{safe(page.lead)}</p>\n"
    body += "\n".join(map(_section, page.sections)) + page.examples
    body += f"<section><h2>How this was made</h2>{made}</section>\n{page.sounds}"
    date = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    return template(page.title, date, body, "play.js" if page.sounds else "", "wide")


def _section(section: Section) -> str:
    html = f"<section><h2>{safe(section.title)}</h2>"
    html += f"<p>{safe(section.text)}</p>" if section.text else ""
    for half, parts in groupby(section.parts, lambda part: isinstance(part, Chart) and part.half):
        inner = "".join(html_table(part) if isinstance(part, Table) else _figure(part) for part in parts)
        html += f"<div class='pair'>{inner}</div>" if half else inner
    return html + "</section>"


def _figure(chart: Chart) -> str:
    wide, narrow = (f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
                    for svg in (chart.svg, chart.narrow))  # fmt: skip
    source = f'<source media="(max-width: 640px)" srcset="{narrow}">'
    picture = f'<picture>{source}<img src="{wide}" alt="{safe(chart.caption)}"></picture>'
    return f"<figure>{picture}<figcaption>{safe(chart.caption)}</figcaption></figure>"


def _code(text: str) -> str:
    return one_line(text).replace("`", "'")
