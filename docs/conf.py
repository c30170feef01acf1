"""Settings of the documentation site (Sphinx). `make site` builds it into out/site; warnings are errors there."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cyclopts.docs import generate_markdown_docs
from sphinx.application import Sphinx
from sphinx.errors import SphinxError

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "src"))

from relisten import __version__  # noqa: E402
from relisten.cli import app  # noqa: E402

project = "relisten"
author = "the relisten authors"
project_copyright = "2026, the relisten authors"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
suppress_warnings = ["myst.strikethrough"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_type_aliases = {"Format": "Format"}
smartquotes = False  # "--flag" stays as it is
default_role = "code"  # docstrings write `name` as Markdown does
maximum_signature_line_length = 88
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "furo"
html_title = "relisten"
html_static_path = ["site"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False

# Pages of the repository that stand outside docs/ are pages of the site as well.
OUTSIDE = {"CONTRIBUTING.md": "contributing", "CHANGELOG.md": "changelog", "LAB.md": "lab"}
INTRODUCTION = "`relisten --help` and `relisten COMMAND --help` print the same texts in a terminal.\n"
FOLDERS = "src|tests|runs|examples|studies|benchmarks|README.md|NOTICE|LICENSE"


def read_page(site: Sphinx, name: str, source: list[str]) -> None:
    """Take the text of pages outside docs/ from there, and let links between the two lead to pages of the site."""
    up = "../" * name.count("/")
    text = source[0]
    for outside, inside in OUTSIDE.items():
        if name == inside:
            text = (ROOT / outside).read_text(encoding="utf-8")
            site.env.note_dependency(str(ROOT / outside))
            text = re.sub(r"\]\(docs/", "](", text)
            text = re.sub(rf"\]\(({FOLDERS})", r"](../\1", text)
            text = re.sub(r"\]\(((?!docs/)[A-Z]+\.md)", r"](../\1", text)
    for outside, inside in OUTSIDE.items():
        text = text.replace(f"](../{up}{outside}", f"]({up}{inside}.md")
    if name == "reference/commands":
        text = text.split("\n\n", 1)[0] + "\n\n" + INTRODUCTION + commands()
    # Other Markdown outside docs/ is no page of the site: its name is shown without a link.
    source[0] = re.sub(r"\[([^\]]+)\]\((?:\.\./)+(src/[^)]+\.md|README\.md)\)", r"\1 (`\2`)", text)


def commands() -> str:
    """Every command with its options, as Markdown."""
    text = "\n## " + generate_markdown_docs(app, generate_toc=False).partition("\n## ")[2]
    text = re.sub(r"^relisten ((?:[a-z]+ )+)\1", r"relisten \1", text, flags=re.MULTILINE)  # a usage names the command
    return re.sub(r"\*\[([a-z]+): (.*?)\]\*(?=\s|$)", r"(\1: `\2`)", text, flags=re.MULTILINE)


def plain_docstring(site: Sphinx, what: str, name: str, item: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with `code` in single backquotes: keep the signs that mean something to docutils."""
    text = inspect.cleandoc("\n".join(lines))
    pieces = re.split(r"(`[^`\n]+`)", text)
    for place, piece in enumerate(pieces):
        if place % 2:
            after = pieces[place + 1][:1]
            pieces[place] = f"``{piece.strip('`')}``" + ("\\ " if after.isalnum() else "")
        else:
            pieces[place] = re.sub(r"([*|\\])", r"\\\1", piece)
    text = "".join(pieces)
    text = re.sub(r"(?<=[A-Za-z0-9])_(?=[\s.,;:)]|$)", r"\\_", text)
    text = re.sub(r"^(\w+)\n-{3,}$", r"**\1**\n", text, flags=re.MULTILINE)  # a heading, as numpy writes them
    lines[:] = [*_sections(text.split("\n")), ""]


def _sections(lines: list[str]) -> Iterator[str]:
    """Sections such as "Args:", whose lines are "    name: what it is", become lists."""
    inside = False
    for line in lines:
        if re.fullmatch(r"(Args|Raises|Returns|Yields):", line):
            inside = True
            yield from (f"**{line[:-1]}**", "")
            continue
        inside = inside and (not line or line.startswith("    "))
        entry = re.match(r"    (\w+): (.*)", line) if inside else None
        if entry:
            yield f"- ``{entry[1]}``: {entry[2]}"
        else:
            yield re.sub(r"^ {8}", "  ", line) if inside else line


def nothing_from_elsewhere(site: Sphinx, error: Exception | None) -> None:
    """Whoever reads the site tells no other host: a page that would load anything from one is an error."""
    loads = re.compile(
        r"""<(?:script|img|iframe|audio|source|link(?! rel="canonical"))[^>]*(?:src|href)="(?:https?:)?//[^"]*"""
    )
    asks = re.compile(r"""(?:url\(|@import )["']?(?:https?:)?//""")
    for path in [] if error else sorted(Path(site.outdir).rglob("*.html")) + sorted(Path(site.outdir).rglob("*.css")):
        found = (loads if path.suffix == ".html" else asks).search(path.read_text(encoding="utf-8"))
        if found:
            raise SphinxError(f"{path} loads something from another host: {found[0]}")


def setup(site: Sphinx) -> None:
    """Sphinx calls this when it reads the settings."""
    site.connect("source-read", read_page)
    site.connect("autodoc-process-docstring", plain_docstring)
    site.connect("build-finished", nothing_from_elsewhere)
