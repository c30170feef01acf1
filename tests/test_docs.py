"""The documents: every page is in the site, what the reference shows exists, and old riddles do not come back."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), *DOCS.glob("reference/*.md")])
CODE = sorted(path for name in ("src", "studies", "benchmarks", "runs") for path in (ROOT / name).rglob("*.py"))
RIDDLES = (
    "segments count that would be",
    "one that has no other in its batch",
    "so manieth",
    "only theirs stands",
    "these are other models",
    "its times are others",
    "is forgiven more",
    "is said to be",
    "processor does for all",
    "Of the sampling.",
    "such as would be heard",
)
"""Parts of sentences that nobody understood at first reading. CONTRIBUTING.md says how to write instead."""


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_riddle_comes_back(path: Path) -> None:
    text = " ".join(path.read_text(encoding="utf-8").split())
    assert not [riddle for riddle in RIDDLES if riddle in text]


def test_no_riddle_comes_back_in_help_and_docstrings() -> None:
    found = {path: riddle for path in CODE for riddle in RIDDLES if riddle in path.read_text(encoding="utf-8")}
    assert not found


def test_every_page_is_in_the_site() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    trees = re.findall(r"^```\{toctree\}\n(.*?)^```$", index, re.DOTALL | re.MULTILINE)
    shown = {
        re.sub(r".*<(.*)>", r"\1", line) for tree in trees for line in tree.splitlines() if line and line[0] != ":"
    }
    there = {str(path.relative_to(DOCS).with_suffix("")) for path in DOCS.rglob("*.md")} - {"index"}
    assert shown == there


def test_what_the_reference_shows_exists() -> None:
    text = (DOCS / "reference" / "python.md").read_text(encoding="utf-8")
    named = re.findall(r"^\.\. auto(module|class|function):: ([\w.]+)$", text, re.MULTILINE)
    assert len(named) > 10
    for kind, name in named:
        module, _, attribute = (name, "", "") if kind == "module" else name.rpartition(".")
        found = importlib.import_module(module)
        assert (getattr(found, attribute) if attribute else found).__doc__, name


def test_the_checks_of_ci_are_those_of_the_house() -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert ".ci/run" in workflow
    for version in ("3.11", "3.13"):
        assert f'"{version}"' in workflow
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for target in ("test", "check", "site"):
        assert f"make {target}\n" in run


def test_contributing_shows_the_house_as_it_is() -> None:
    """The table of packages is that of test_architecture, and the walks name files that are there."""
    from tests.test_architecture import MAY_IMPORT

    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `?([a-z]+)`?(?: \(.*?\))? \| .* \| ([a-z, -]+) \|$", text, re.MULTILINE))
    del rows["package"]  # the header
    assert {name: set(allowed.split(", ")) - {"-"} for name, allowed in rows.items()} == MAY_IMPORT
    walks = text.partition("walks through the house")[2].partition("\n## ")[0]
    named = set(re.findall(r"`((?:[a-z_]+/)*[a-z_]+(?:\.py|/))`", walks))
    assert len(named) > 30
    assert not [name for name in named if not (ROOT / "src" / "relisten" / name).exists()]
