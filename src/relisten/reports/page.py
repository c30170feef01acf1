"""The report on some runs: one self-contained page, and the same as Markdown with its charts beside it.

Question files and model output are untrusted: everything is escaped, and the page's policy runs no script but its own.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from relisten import __version__, records
from relisten.evals.analysis import Analysis, AttentionCurve, Run, analyse, questions_of
from relisten.evals.comparison import Change, compare
from relisten.files import make_folder
from relisten.reports import charts
from relisten.reports.examples import CLASSES, Sounds, draw_lots, example_html
from relisten.reports.tables import (
    PaperRow,
    Row,
    Table,
    attention_table,
    bins_table,
    changes_table,
    groups_table,
    html_table,
    listening_table,
    markdown_table,
    paper_table,
    results_table,
    row,
)
from relisten.reports.text import printable


@dataclass(frozen=True)
class Chart:
    """A picture with a name for its file and a sentence under it."""

    name: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Section:
    """A heading, a paragraph, then tables and charts in order."""

    title: str
    text: str
    parts: list[Table | Chart] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """What is written, before it is HTML or Markdown."""

    title: str
    lead: str
    sections: list[Section]
    runs: list[Run]
    command: str


def build(
    runs: Sequence[Run],
    title: str,
    command: str = "",
    papers: dict[str, PaperRow] | None = None,
    curves: Sequence[AttentionCurve] = (),
) -> Report:
    """Everything but the examples. papers: a run's name -> the paper's row that it repeats."""
    rows = [row(run, (papers or {}).get(run.name)) for run in runs]
    analyses = [analyse(run) for run in runs if run.answered]
    sections = [_results(rows), *_groups(rows), *_changes(runs), *_listening(analyses), *_attention(curves)]
    sections.append(Section("The paper's figures", "For orientation, as published.", [paper_table()]))
    num = sorted({r.num for r in rows})
    counted = f"{num[0]:,}" if len(num) == 1 else f"{num[0]:,} to {num[-1]:,}"
    lead = f"{len(runs)} run{'s' * (len(runs) > 1)}, {counted} answers each. Intervals are 95\u00a0%."
    return Report(title, lead, [s for s in sections if s.parts], list(runs), command)


def _results(rows: Sequence[Row]) -> Section:
    caption = "Accuracy of each run with Wilson's interval; the tick is what guessing among the choices gives"
    caption += ", the ring the paper's row." if any(r.paper for r in rows) else "."
    text = "Unparsed: an answer that means none of the choices. Errors: questions that could not be asked."
    chart = Chart("accuracy", caption, charts.svg(charts.accuracy_figure(rows)))
    return Section("Results", text, [results_table(rows), chart])


def _groups(rows: Sequence[Row]) -> list[Section]:
    found = []
    for dimension in dict.fromkeys(name for r in rows for name in r.groups):
        name = dimension.replace("_", "-")
        chart = Chart(f"by-{name}", f"Accuracy by {name}.", charts.svg(charts.groups_figure(rows, dimension)))
        found.append(Section(f"By {name}", "", [groups_table(rows, dimension), chart]))
    return found


def _changes(runs: Sequence[Run]) -> list[Section]:
    """Every run against the first, over the questions that both have; those with other questions are left out."""
    changes, unlike = [], []
    for other in runs[1:]:
        try:
            changes.append(Change(other.name, compare(runs[0], other).total.paired))
        except ValueError as error:
            unlike.append(f" {other.name} is not compared: {error}.")
    if not changes:
        return [Section(f"Against {runs[0].name}", "".join(unlike).strip(), [])] if unlike else []
    caption = f"Change in accuracy from {runs[0].name}, paired by question: orange is worse, blue better, grey unsure."
    chart = Chart("changes", caption, charts.svg(charts.changes_figure(changes, runs[0].name, "the run named")))
    text = f"A is {runs[0].name}, B the run named, over the questions that both answered." + "".join(unlike)
    return [Section(f"Against {runs[0].name}", text, [changes_table(changes, "A", "B"), chart])]


def _listening(analyses: Sequence[Analysis]) -> list[Section]:
    if not analyses:
        return []
    parts: list[Table | Chart] = [listening_table(analyses)]
    if any(a.references > 0 for a in analyses):
        caption = "Segments per answer, and where their middles lie in the recording."
        parts.append(Chart("listening", caption, charts.svg(charts.listening_figure(analyses))))
    found = [Section("How it listens", "Segments: heard again if interleaved, else named in the text.", parts)]
    for which, title, caption in (
        ("by_iou", "Finding the event, and being right", "Accuracy by how well the named segments meet the events."),
        ("by_seconds", "By the recording's length", "Accuracy by the recording's length; the paper trains on 10 s."),
    ):
        if len({b.name for a in analyses for b in getattr(a, which)}) > 1:
            chart = Chart(which.replace("_", "-"), caption, charts.svg(charts.bins_figure(analyses, which)))
            found.append(Section(title, "", [bins_table(analyses, which), chart]))
    return found


def _attention(curves: Sequence[AttentionCurve]) -> list[Section]:
    if not curves:
        return []
    caption = "Share of attention on audio when each token was chosen, mean over heads, layers and answers."
    chart = Chart("attention", caption, charts.svg(charts.attention_figure(curves)))
    return [Section("Attention to audio", "", [attention_table(curves), chart])]


def write(report: Report, out: Path, num_examples: int = 2) -> list[Path]:
    """Write OUT (.html), the Markdown beside it and its charts in a folder; what was written."""
    markdown, folder = out.with_suffix(".md"), out.with_name(f"{out.stem}_charts")
    written = [out, markdown]
    for chart in (part for s in report.sections for part in s.parts if isinstance(part, Chart)):
        written.append(make_folder(folder) / f"{chart.name}.svg")
        records.write_atomic(written[-1], chart.svg)
    records.write_atomic(markdown, markdown_report(report, folder.name))
    records.write_atomic(out, html_report(report, num_examples), follow=True)
    return written


def markdown_report(report: Report, folder: str) -> str:
    """The report as Markdown. folder: where its charts lie, relative to it."""
    parts = [f"# {_plain(report.title)}", report.lead]
    for section in report.sections:
        parts += [f"## {_plain(section.title)}", section.text]
        for part in section.parts:
            if isinstance(part, Table):
                parts.append(markdown_table(part))
            else:
                parts.append(f"![{_plain(part.caption)}]({folder}/{part.name}.svg)")
    parts += ["## How this was made", *(_origin_markdown(run) for run in report.runs)]
    if report.command:
        parts.append(f"This report: `{report.command}`")
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def html_report(report: Report, num_examples: int = 2) -> str:
    """The page. num_examples: answers shown of each class, for each run."""
    web = files("relisten.reports") / "web"
    script = (web / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(f"\n{script}".encode()).digest()).decode()
    examples, sounds = _examples(report.runs, num_examples)
    style = "".join((web / name).read_text(encoding="utf-8") for name in ("answer.css", "report.css"))
    return Template((web / "report.html").read_text(encoding="utf-8")).substitute(
        script_hash=f"sha256-{digest}",
        version=__version__,
        title=_safe(report.title),
        date=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        lead=_safe(report.lead),
        style=style,
        script=script,
        sections="\n".join(_section_html(section) for section in report.sections),
        examples=examples,
        origin=_origin_html(report),
        sounds=sounds,
    )


def _section_html(section: Section) -> str:
    html = f"<section><h2>{_safe(section.title)}</h2>"
    html += f"<p>{_safe(section.text)}</p>" if section.text else ""
    for part in section.parts:
        if isinstance(part, Table):
            html += html_table(part)
        else:
            address = f"data:image/svg+xml;base64,{base64.b64encode(part.svg.encode()).decode()}"
            caption = _safe(part.caption)
            html += f'<figure><img src="{address}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'
    return html + "</section>"


def _examples(runs: Sequence[Run], num: int) -> tuple[str, str]:
    """The examples of every run, those after the first folded away; and the sounds they share."""
    if not num:
        return "", ""
    html = (
        "<section><h2>Examples</h2><p>Drawn by lot, by the question's id alone. A filled number was heard again, an"
        " outlined one only named; the line under a waveform is the labelled event. Sounds are the recording's own,"
        " whatever a control put in their place.</p>"
    )
    sounds = Sounds({})
    for place, run in enumerate(runs):
        try:
            sounds.examples = {example.id: example for example in questions_of(run)}
        except ValueError as error:
            sounds.examples = {}
            html += f"<p class='caption'>{_safe(str(error))}</p>"
        lots = draw_lots(run, num)
        shown = "".join(example_html(record, sounds) for name in CLASSES for record in lots[name])
        missing = [name for name in CLASSES if not lots[name]]
        shown += f"<p class='caption'>There is none that is {' or '.join(missing)}.</p>" if missing else ""
        html += f"<details{' open' if place == 0 else ''}><summary>{_safe(run.name)}</summary>{shown}</details>"
    return html + "</section>", "".join(sounds.elements)


def _origin(run: Run) -> dict[str, str]:
    """Settings, hashes, versions and commands of a run."""
    versions = ", ".join(f"{name} {value}" for name, value in (run.origin.get("versions") or {}).items())
    git = run.origin.get("git") or {}
    starts = run.origin.get("starts") or []
    changed = " with changes" if git.get("dirty") else ""
    return {
        "Folder": run.folder.name,
        "Started": ", ".join(str(start.get("time")) for start in starts),
        "Command": "\n".join(" ".join(_short_command(start.get("command") or [])) for start in starts[-1:]),
        "Versions": versions,
        "Commit": f"{git['commit']}{changed}" if git.get("commit") else "",
        **{name: str(value) for name, value in run.config.items() if value is not None},
    }


def _short_command(command: Sequence[str]) -> list[str]:
    return [Path(command[0]).name, *command[1:]] if command else []


def _origin_html(report: Report) -> str:
    html = f"<p>This page: <code>{_safe(report.command)}</code></p>" if report.command else ""
    for run in report.runs:
        rows = "".join(f"<dt>{_safe(k)}</dt><dd>{_safe(v)}</dd>" for k, v in _origin(run).items() if v)
        html += f"<details><summary>{_safe(run.name)}</summary><dl>{rows}</dl></details>"
    return html


def _origin_markdown(run: Run) -> str:
    listed = "\n".join(f"- {name}: `{_plain(value)}`" for name, value in _origin(run).items() if value)
    return f"### {_plain(run.name)}\n\n{listed}"


def _plain(text: str) -> str:
    """On one line, without HTML."""
    return " ".join(printable(text).split()).replace("<", "&lt;").replace("`", "'")


def _safe(text: str) -> str:
    return escape(printable(text))
