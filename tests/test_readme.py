"""The README and the documents say what is so: their commands and their Python run, their links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

import relisten
from relisten import cli

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_relative_link_leads_to_a_file(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    missing = [link for link in links if link and not (path.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize(
    ("path", "code"),
    [(path, code) for path in DOCUMENTS for code in blocks(path, "python")],
    ids=lambda value: value.name if isinstance(value, Path) else "",
)
def test_python_lines_run(
    path: Path, code: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Against nano, as they stand."""
    monkeypatch.chdir(ROOT)
    names = {"Engine": relisten.Engine, "load": relisten.load} if path != README else {}
    exec(compile(code, str(path), "exec"), names)
    if path == README:
        assert "Segment(start=" in capsys.readouterr().out


def test_commands_of_the_readme_run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    text = "\n".join(blocks(README, "sh"))
    commands = [shlex.split(line, comments=True) for line in text.splitlines() if line]
    asked = [command for command in commands if command[0] == "relisten"]
    assert asked
    for _, *tokens in asked:
        assert cli.run(tokens) == 0
        out = capfd.readouterr().out
        assert "Answer: " in out
        assert "♪ heard" in out
    for name, *targets in (command for command in commands if command[0] == "make"):
        # What they do is tested by doing it; that they exist, and parse, is tested here.
        assert run(name, "--dry-run", *targets).returncode == 0


def test_flags_in_the_readme_exist(capfd: pytest.CaptureFixture[str]) -> None:
    for command in ([], ["ask"], ["serve"]):
        cli.run([*command, "--help"])
    helps = capfd.readouterr().out
    for flag in set(
        re.findall(r"--[a-z][a-z-]+", "\n".join(re.findall(r"`(relisten[^`]*|--[^`]*)`", README.read_text())))
    ):
        assert flag in helps, flag
    for name in re.findall(r"`relisten ([a-z]+)", README.read_text(encoding="utf-8")):
        assert f"│ {name} " in helps, name


def test_the_default_of_make_ask_is_what_the_readme_asks() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    values = dict(re.findall(r"^([A-Z]+) \?= (.*)$", makefile, re.MULTILINE))
    line = f'relisten ask {values["AUDIO"]} "{values["QUESTION"]}" {values["CHOICES"]}'
    assert line in README.read_text(encoding="utf-8")


def test_constraints_pin_every_dependency() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", pin) for pin in pins)
    pinned = {re.sub(r"[-_.]+", "-", pin.split("==")[0]).lower() for pin in pins}
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    # ms-swift has an environment of its own, because it wants an older transformers than the one that is pinned.
    project = re.sub(r"^swift = .*$", "", project, flags=re.MULTILINE)
    wanted = re.findall(r'"([A-Za-z0-9_-]+)>=', project)
    assert {re.sub(r"[-_.]+", "-", name).lower() for name in wanted} <= pinned
