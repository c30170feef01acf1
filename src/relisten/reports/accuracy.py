"""The tables of `relisten eval` and `relisten score`: the paper's columns on one line, then accuracy by group."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Group

from relisten.reports.table import Table, terminal_table
from relisten.reports.text import interval, number, percent, share
from relisten.types import Format

_GROUP_NAMES = {"sub_category": "sub-category", "length_type": "length"}
_COUNTS = ("unparsed", "refused", "errors")


def shown(result: dict[str, Any], title: str, format: Format = "interleaved") -> Group:
    """What `figures.summary` found, for a terminal."""
    return Group(*(terminal_table(table) for table in tables(result, title, format)))


def tables(result: dict[str, Any], title: str, format: Format = "interleaved") -> Iterator[Table]:
    """One line of what the paper's tables have, accuracy by group, and what several answers to a question give."""
    yield _line(result, title)
    yield _by_group(result, format)
    if result["samples"] is not None:
        yield _samples(result["samples"])


def flat_table(result: dict[str, Any], format: Format = "interleaved") -> Table:
    """Accuracy by group for a spreadsheet: a column for the kind of group, one for each end of the interval."""
    rows = [[group, name, str(row["n"]), share(row["accuracy"]), *map(share, row["interval"] or (None, None)),
             share(row["over_answered"]), share(row["exact"]), share(row["chance"]), *(str(row[n]) for n in _COUNTS)]
            for group, name, row in _groups(result)]  # fmt: skip
    columns = ["group", "questions", "n", "accuracy", "low", "high", "answered", "exact", "chance", *_COUNTS]
    return Table(columns, rows, f"low, high: 95 % interval; {_note(result, format, [])}")


def _groups(result: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(kind of group, its name, its row), all questions first."""
    for place, (name, row) in enumerate(result["rows"].items()):
        yield "kind" if place else "", name, row
    for group, found in result["groups"].items():
        for name, row in found.items():
            yield _GROUP_NAMES.get(group, group), name, row


def _line(result: dict[str, Any], title: str) -> Table:
    """Accuracy over questions and over groups, length and latency."""
    whole = result["rows"]["all"]
    cells = {"accuracy": share(whole["accuracy"]), "exact": share(whole["exact"])}
    cells |= {f"mean of {_plural(name)}": share(value) for name, value in list(result["macro"].items())[:2]}
    cells |= {
        "words": number(result["words"], 1),
        "s/answer": number(result["seconds"]),
        "named": number(result["segments_per_answer"]),
        "heard": number(result["listens_per_answer"]),
    }
    return Table(list(cells), [list(cells.values())], title=title)


def _by_group(result: dict[str, Any], format: Format) -> Table:
    every = [row for _, _, row in _groups(result)]
    # Columns that hold nothing but zeros would make the table too wide; the note names them instead.
    told = [name for name in _COUNTS if any(row[name] for row in every)]
    rows: list[list[str]] = []
    rules, before = [], ""
    for group, name, row in _groups(result):
        if group != before:
            rules.append(len(rows))
            rows += [] if group == "kind" else [[group, *[""] * (5 + len(told))]]
        cells = [share(row["accuracy"]), interval(row["interval"]), share(row["over_answered"]), share(row["chance"])]
        indent = "" if group in ("", "kind") else "  "
        rows.append([f"{indent}{name}", str(row["n"]), *cells, *(str(row[n]) for n in told)])
        before = group
    columns = ["questions", "n", "accuracy", "95 % interval", "answered", "chance", *told]
    return Table(columns, rows, _note(result, format, [n for n in _COUNTS if n not in told]), rules=rules)


def _note(result: dict[str, Any], format: Format, zero: list[str]) -> str:
    parts = ["answered: accuracy over the answers that could be read"]
    if result["mean_iou"] is not None:
        over = "answers that name some" if format == "conditioned" else "all answers; one that names none counts as 0"
        parts.append(f"mean IoU with the events {result['mean_iou']:.2f} (over {over})")
    if result["well_formed"] is not None:
        parts.append(f"well formed {percent(result['well_formed'])}")
    if zero:
        parts.append("no " + ", no ".join(zero))
    if result["failed_are"] != "wrong":
        parts.append("what failed counts as choices[0], as in the paper's release, which gives points for nothing")
    return "; ".join(parts)


def _samples(samples: dict[str, Any]) -> Table:
    """Several answers to each question."""
    k = samples["k"]
    cells = {
        f"avg@{k}": share(samples["avg"]),
        f"majority@{k}": share(samples["majority"]),
        f"any@{k}": share(samples["any"]),
        "pairs that agree": share(samples["agreement"]),
        "all agree": share(samples["unanimous"]),
    }
    if samples["shuffled"]:
        cells["chose the choice shown first"] = share(samples["chose_shown_first"])
    how = "in a different order each time" if samples["shuffled"] else "in the order of the file"
    return Table(list(cells), [list(cells.values())], title=f"{k} answers to each question, its choices {how}")


def _plural(group: str) -> str:
    name = _GROUP_NAMES.get(group, group)
    return f"{name[:-1]}ies" if name.endswith("y") else f"{name}s"
