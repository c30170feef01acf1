"""`relisten data sources`: which corpora can be read, where to get them, and which of them are in a folder."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table
from rich.text import Text

from relisten.data import sources
from relisten.reports.text import console


def list_sources(*, root: Path | None = None) -> None:
    """List the corpora that can be read: what each holds, where to get it, its licence, and whether a folder has it.

    Parameters
    ----------
    root
        A folder to search, together with the folders in it.
    """
    if root is not None and not root.is_dir():
        raise ValueError(f"{root}: no such folder; name the folder that holds your corpora")
    shown = Table(show_lines=True)
    shown.add_column("source", no_wrap=True)
    shown.add_column("what it is · where to get it · licence", overflow="fold")
    if root is not None:
        shown.add_column("found", overflow="fold")
    for name, about in sources.about().items():
        told = Text.assemble(about.what, "\n", about.where, "\n", (about.licence, "italic"))
        place = None if root is None else found(root, about)
        place_shown = (
            Text("-", "dim") if place is None else Text("here" if place == root else place.name + "/", "green")
        )
        shown.add_row(Text(name, "bold"), told, *([] if root is None else [place_shown]))
    console().print(shown)


def found(root: Path, about: sources.About) -> Path | None:
    """The root, or the first folder in it, that holds the source's files."""
    if about.found(root):
        return root
    folders = (path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith("."))
    return next((folder for folder in folders if about.found(folder)), None)
