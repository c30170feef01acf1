"""docs/paper-and-release.md: every defect of the release has its row, and every test that is named is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "paper-and-release.md").read_text(encoding="utf-8")
TESTS = sorted(set(re.findall(r"`(test_\w+\.py)::(test_\w+)`", PAGE)))


@pytest.mark.parametrize("file", sorted({file for file, _ in TESTS}))
def test_the_tests_that_are_named_are_there(file: str) -> None:
    there = set(re.findall(r"^def (test_\w+)\(", (ROOT / "tests" / file).read_text(encoding="utf-8"), re.MULTILINE))
    assert not {name for where, name in TESTS if where == file} - there


def test_every_defect_and_every_trap_names_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")]
    defects = [int(row.split("|")[1]) for row in rows if row.split("|")[1].strip().isdigit()]
    assert defects == list(range(1, 29))
    traps = [line for line in PAGE.partition("## Traps")[2].splitlines() if line.startswith("| ")][1:]
    assert traps
    for row in [row for row in rows if row.split("|")[1].strip().isdigit()] + traps:
        assert "`test_" in row.split("|")[-2], row


def test_nothing_in_runs_waits_to_be_filled_in() -> None:
    """Release 27: `/path/to/...`, a cluster's variables and somebody's own folders stood in its scripts."""
    files = [path for folder in ("runs", "examples") for path in (ROOT / folder).rglob("*") if path.is_file()]
    texts = {path: path.read_text(encoding="utf-8") for path in files if path.suffix in (".py", ".sh", ".yaml")}
    assert len(texts) > 10
    for path, text in texts.items():
        found = re.search(r"/path/to|/home/|/mnt/|/root/|\bTODO\b|set_trace|CUDA_LAUNCH_BLOCKING", text)
        assert not found, f"{path}: {found}"
