"""The report on some runs: their figures, how they differ and how they listened, with answers to listen to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from relisten.evals.analysis import Analysis, AttentionCurve, analyse
from relisten.evals.comparison import Change, compare
from relisten.evals.runs import Run
from relisten.reports import charts
from relisten.reports.examples import examples_of
from relisten.reports.page import Chart, Page, Section, chart
from relisten.reports.table import Table
from relisten.reports.tables import (
    PaperRow,
    Result,
    attention_table,
    bins_table,
    changes_table,
    groups_table,
    listening_table,
    paper_table,
    result,
    results_table,
    uses_table,
)


def build(
    runs: Sequence[Run],
    title: str,
    command: str = "",
    papers: Mapping[str, PaperRow] | None = None,
    curves: Sequence[AttentionCurve] = (),
    num_examples: int = 2,
) -> Page:
    """The page. papers: a run's name -> the paper's row that it repeats. num_examples: of each class for each run."""
    results = [result(run, (papers or {}).get(run.name)) for run in runs]
    analyses = [analyse(run) for run in runs if run.answered and run.traced]
    sections = [_results(results), *_groups(results), *_changes(runs), *_listening(analyses), *_attention(curves)]
    sections.append(Section("The paper's figures", "For orientation, as published.", [paper_table()]))
    num = sorted({r.tally.num for r in results})
    counted = f"{num[0]:,}" if len(num) == 1 else f"{num[0]:,} to {num[-1]:,}"
    lead = f"{len(runs)} runs, {counted} answers each." if len(runs) > 1 else f"1 run, {counted} answers."
    lead += " Intervals are 95\u00a0%."
    lead += "".join(f" Note: {note}." for run in runs for note in run.notes)
    examples, sounds = examples_of(runs, num_examples)
    made = {run.name: origin(run) for run in runs}
    return Page(title, lead, [s for s in sections if s.parts or s.text], made, command, examples, sounds)


def _results(results: Sequence[Result]) -> Section:
    caption = "Accuracy of each run with Wilson's interval; the tick is what guessing among the choices gives"
    caption += ", the ring the paper's row." if any(r.paper for r in results) else "."
    text = "Unparsed: an answer that means none of the choices. Errors: questions that could not be asked."
    picture = chart("accuracy", caption, charts.accuracy_figure, results)
    return Section("Results", text, [results_table(results), picture])


def _groups(results: Sequence[Result]) -> list[Section]:
    found = []
    for dimension in dict.fromkeys(name for r in results for name in r.groups):
        name = dimension.replace("_", "-")
        picture = chart(f"by-{name}", f"Accuracy by {name}.", charts.groups_figure, results, dimension)
        found.append(Section(f"By {name}", "", [groups_table(results, dimension), picture]))
    return found


def _changes(runs: Sequence[Run]) -> list[Section]:
    """Every run against the first, over the questions that both have; the text says which cannot be compared."""
    changes, unlike = [], []
    for other in runs[1:]:
        try:
            changes.append(Change(other.name, compare(runs[0], other).total.paired))
        except ValueError as error:
            unlike.append(f" {other.name} is not compared: {error}.")
    if not changes:
        return [Section(f"Against {runs[0].name}", "".join(unlike).strip())] if unlike else []
    caption = f"Change in accuracy from {runs[0].name}, paired by question: orange is worse, blue better, grey unsure."
    picture = chart("changes", caption, charts.changes_figure, changes, runs[0].name, "the run named")
    text = f"A is {runs[0].name}, B the run named, over the questions that both answered." + "".join(unlike)
    return [Section(f"Against {runs[0].name}", text, [changes_table(changes, "A", "B"), picture])]


def _listening(analyses: Sequence[Analysis]) -> list[Section]:
    if not analyses:
        return []
    parts: list[Table | Chart] = [listening_table(analyses)]
    if any(a.references > 0 for a in analyses):
        caption = "Segments per answer, and where their middles lie in the recording."
        parts.append(chart("listening", caption, charts.listening_figure, analyses))
    text = "Segments are those heard again in interleaved answers, and those named in the text in others."
    found = [Section("How it listens", text, parts)]
    for which, title, caption in (
        ("by_iou", "Finding the event, and being right", "Accuracy by how well the named segments meet the events."),
        ("by_seconds", "By the recording's length", "Accuracy by the recording's length; the paper trains on 10 s."),
    ):
        if len({name for a in analyses for name in getattr(a, which)}) > 1:
            picture = chart(which.replace("_", "-"), caption, charts.bins_figure, analyses, which)
            found.append(Section(title, "", [bins_table(analyses, which), picture]))
    if any(a.uses for a in analyses):
        text = "Accuracy of the answers that used an operation on a segment, and of the others."
        found.append(Section("By operation", text, [uses_table(analyses)]))
    return found


def _attention(curves: Sequence[AttentionCurve]) -> list[Section]:
    if not curves:
        return []
    caption = "Share of attention on audio when each token was chosen, mean over heads, layers and answers."
    picture = chart("attention", caption, charts.attention_figure, curves)
    return [Section("Attention to audio", "", [attention_table(curves), picture])]


def origin(run: Run) -> dict[str, str]:
    """Settings, hashes, versions and commands of a run."""
    git, starts = run.origin.get("git") or {}, run.origin.get("starts") or []
    command = [str(word) for start in starts[-1:] for word in start.get("command") or []]
    return {
        "Folder": run.folder.name,
        "Started": ", ".join(str(start.get("time")) for start in starts),
        "Command": " ".join([Path(command[0]).name, *command[1:]]) if command else "",
        "Versions": ", ".join(f"{name} {value}" for name, value in (run.origin.get("versions") or {}).items()),
        "Commit": f"{git['commit']}{' with changes' if git.get('dirty') else ''}" if git.get("commit") else "",
        **{name: _setting(value) for name, value in run.config.items() if value is not None},
    }


def _setting(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
