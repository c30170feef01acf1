"""The tables of `relisten eval` and `relisten score`."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from relisten.reports.text import printable
from relisten.types import Format

_GROUP_NAMES = {"sub_category": "sub-category", "length_type": "length"}
_COUNTS = ("unparsed", "refused", "errors")


def shown(result: dict[str, Any], title: str, format: Format = "interleaved") -> Group:
    """The paper's columns on one line, then accuracy by group beside chance."""
    parts = [_line(result, title), _by_group(result, format)]
    if result["samples"] is not None:
        parts.append(_samples(result["samples"]))
    return Group(*parts)


def _line(result: dict[str, Any], title: str) -> Table:
    """Accuracy over questions and over groups, length and latency: what the paper's tables have."""
    table = Table(title=Text(printable(title), style="table.title"), box=box.SIMPLE_HEAD)
    whole = result["rows"]["all"]
    cells = {"accuracy": _share(whole["accuracy"]), "exact": _share(whole["exact"])}
    cells |= {f"mean of {_plural(name)}": _share(value) for name, value in list(result["macro"].items())[:2]}
    cells |= {
        "words": _number(result["words"], 1),
        "s/answer": _number(result["seconds"], 2),
        "named": _number(result["segments_per_answer"], 2),
        "heard": _number(result["listens_per_answer"], 2),
    }
    for name in cells:
        table.add_column(name, justify="right")
    table.add_row(*cells.values())
    return table


def _by_group(result: dict[str, Any], format: Format) -> Table:
    rows = list(result["rows"].items())
    every = [row for _, row in rows] + [row for found in result["groups"].values() for row in found.values()]
    # Columns of nothing but zeros would make the table wider than a terminal: they are a word in the caption.
    told = [name for name in _COUNTS if any(row[name] for row in every)]
    table = Table(caption=_caption(result, format, [name for name in _COUNTS if name not in told]), box=box.SIMPLE_HEAD)
    for column in ("questions", "n", "accuracy", "95 % interval", "answered", "chance", *told):
        table.add_column(column, justify="left" if column == "questions" else "right", no_wrap=column != "questions")
    _add(table, rows[:1], told)
    _add(table, rows[1:], told)
    for group, found in result["groups"].items():
        table.add_row(Text(_GROUP_NAMES.get(group, group), style="dim italic"))
        _add(table, list(found.items()), told)
    return table


def _caption(result: dict[str, Any], format: Format, zero: list[str]) -> str:
    parts = ["answered: accuracy over the answers that could be read"]
    if result["mean_iou"] is not None:
        over = "answers that name some" if format == "conditioned" else "all answers, none named is 0"
        parts.append(f"mean IoU with the events {result['mean_iou']:.2f} (over {over})")
    if result["well_formed"] is not None:
        parts.append(f"well formed {result['well_formed']:.0%}")
    if zero:
        parts.append("no " + ", no ".join(zero))
    if result["failed_are"] != "wrong":
        parts.append("what failed counts as choices[0], as in the paper's release: free points")
    return "; ".join(parts)


def _add(table: Table, rows: list[tuple[str, dict[str, Any]]], told: list[str]) -> None:
    for i, (name, row) in enumerate(rows):
        low, high = row["interval"] or (None, None)
        table.add_row(
            Text(printable(name)), str(row["n"]), _share(row["accuracy"]),
            "-" if low is None else f"{low:.3f} to {high:.3f}", _share(row["over_answered"]),
            f"{row['chance']:.3f}", *(str(row[name]) for name in told), end_section=i == len(rows) - 1,
        )  # fmt: skip


def _samples(samples: dict[str, Any]) -> Table:
    """Several answers to each question."""
    k = samples["k"]
    cells = {
        f"avg@{k}": _share(samples["avg"]),
        f"majority@{k}": _share(samples["majority"]),
        f"any@{k}": _share(samples["any"]),
        "pairs that agree": _share(samples["agreement"]),
        "all agree": _share(samples["unanimous"]),
    }
    if samples["shuffled"]:
        cells["chose the choice shown first"] = _share(samples["chose_shown_first"])
    how = "choices in another order each" if samples["shuffled"] else "choices in the file's order"
    table = Table(title=f"{k} answers to each question, {how}", box=box.SIMPLE_HEAD)
    for name in cells:
        table.add_column(name, justify="right")
    table.add_row(*cells.values())
    return table


def _plural(group: str) -> str:
    name = _GROUP_NAMES.get(group, group)
    return f"{name[:-1]}ies" if name.endswith("y") else f"{name}s"


def _share(value: float | None) -> str:
    return _number(value, 3)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
