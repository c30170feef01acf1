"""A table of texts, and the one way in which every table is written: for a terminal, as Markdown, HTML and CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from relisten.reports.text import broken, console, printable, safe

_BRACKETS, _SMALL = re.compile(r"^(\S+) (\(.+\))$"), r"\1 <small>\2</small>"
_LONG = 24
"""Characters; a longer cell may be broken into lines."""
_FIRST, _HEAD = 14, 10
"""Characters to which the first column, and headings that are wider than their cells, may be narrowed."""


@dataclass(frozen=True)
class Table:
    """Texts in rows and columns. The first column and columns of words are set left, the others right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    """How to read the table, for the line under it."""
    title: str = ""
    rules: Sequence[int] = ()
    """Rows (counted from 0) before which a terminal draws a line."""

    def is_left(self, column: int) -> bool:
        """Whether a column is set left: the first one, and those of words."""
        cells = [text for row in self.rows if (text := row[column].strip(" -"))]
        return not column or (bool(cells) and all(text[0].isalpha() for text in cells))


def terminal_table(table: Table, title: str = "", width: int | None = None) -> RenderableType:
    """For a console of `width` columns (None: as wide as it is).

    Nothing is shortened: names are broken into lines, and columns that do not fit side by side go into a second block
    below, which repeats the first column.
    """
    width = (width or console().width) - 2
    least = _need(table)
    gap = 2 if sum(least) + 2 * len(least) <= width else 1
    need = [n + gap for n in least]
    parts: list[RenderableType] = [Text(printable(title or table.title), "italic")] if title or table.title else []
    for block in _blocks(need, width):
        first = max(width - sum(need[column] for column in block[1:]) - gap, _FIRST)
        rich = RichTable(box=box.SIMPLE_HEAD, padding=(0, gap - 1, 0, 0))
        for column in block:
            most = first if not column else max(_width(table, column, head=False), _HEAD)
            head = "\n".join(broken(printable(table.columns[column]), most))
            rich.add_column(Text(head), justify="left" if table.is_left(column) else "right", overflow="fold",
                            no_wrap=column > 0 and need[column] - gap <= _LONG)  # fmt: skip
        for place, cells in enumerate(table.rows):
            texts = [printable(cells[column]).replace("\n", " ") for column in block]
            texts[0] = "\n".join(broken(texts[0], first))
            rich.add_row(*map(Text, texts), end_section=place + 1 in table.rules)
        parts.append(rich)
    return Group(*parts, *([Text(printable(table.note) + "\n", "dim")] if table.note else []))


def _width(table: Table, column: int, head: bool = True) -> int:
    texts = [row[column] for row in table.rows] + ([table.columns[column]] if head else [])
    return max((cell_len(printable(text)) for text in texts), default=0)


def _need(table: Table) -> list[int]:
    """Characters that each column needs at least, the first one and long headings broken into lines."""
    first, *others = range(len(table.columns))
    heads = [max((len(part) for part in broken(printable(table.columns[c]), max(_width(table, c, False), _HEAD))),
                 default=0) for c in others]  # fmt: skip
    cells = [n if (n := _width(table, c, False)) <= _LONG else _LONG // 2 for c in others]
    return [min(_width(table, first), _FIRST), *map(max, heads, cells)]


def _blocks(need: Sequence[int], width: int) -> list[list[int]]:
    """Columns that fit side by side on a terminal, the first one in every block."""
    blocks: list[list[int]] = [[0]]
    for column in range(1, len(need)):
        if len(blocks[-1]) > 1 and sum(need[c] for c in [*blocks[-1], column]) > width:
            blocks.append([0])
        blocks[-1].append(column)
    return blocks


def markdown_table(table: Table) -> str:
    """GitHub's pipes, with the note under the table."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(one_line(cell).replace("|", "\\|") for cell in cells) + " |"

    rule = "|" + "".join("---|" if table.is_left(column) else "--:|" for column in range(len(table.columns)))
    lines = [line(table.columns), rule, *map(line, table.rows)]
    return "\n".join(lines) + (f"\n\n{one_line(table.note)}" if table.note else "") + "\n"


def html_table(table: Table) -> str:
    """A <table> that scrolls by itself where it is too wide. What a figure has in brackets goes under it."""
    left = [table.is_left(column) for column in range(len(table.columns))]

    def cell(text: str, column: int) -> str:
        kind = " ".join(name for name, holds in (("long", len(text) > 16), ("left", left[column])) if holds)
        opened = f"<td class='{kind}'>" if kind else "<td>"
        return f"{opened}{_BRACKETS.sub(_SMALL, safe(text))}</td>"

    head = "".join(
        f"<th scope='col'{' class=left' * left[n]}>{safe(name)}</th>" for n, name in enumerate(table.columns)
    )
    body = ""
    for first, *rest in table.rows:
        cells = "".join(cell(text, column) for column, text in enumerate(rest, start=1))
        body += f"<tr><th scope='row'>{safe(first)}</th>{cells}</tr>"
    note = f"<p class='caption'>{safe(table.note)}</p>" if table.note else ""
    return f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{note}"


def csv_table(table: Table) -> str:
    """Comma-separated values with a header line; the note is left out."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([[printable(cell).strip() for cell in cells] for cells in (table.columns, *table.rows)])
    return file.getvalue()


def one_line(text: str) -> str:
    """Text for Markdown: on one line, and without HTML."""
    return " ".join(printable(text).split()).replace("<", "&lt;")
