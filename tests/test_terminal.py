"""What a person sees: text is printed whole, in order, harmless, and the strip fits."""

from __future__ import annotations

import subprocess
import sys
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from relisten.commands.terminal import Typist
from relisten.reports.strip import draw
from relisten.types import Audio, Listen, Refusal, Segment

ANSWER = "<think>The bell <seg>1.2, 1.9</seg>, a voice <seg>3.0, 3.5</seg>.</think><answer>green</answer>"


def typed(*pieces: str | Listen | Refusal, terminal: bool = False) -> str:
    """What a Typist prints."""
    screen = StringIO()
    wide = Console(
        file=screen, width=40, markup=False, emoji=False, highlight=False, force_terminal=terminal, color_system=None
    )
    typist = Typist(wide)
    for piece in pieces:
        if isinstance(piece, str):
            typist.text(piece)
        elif isinstance(piece, Listen):
            typist.heard(piece)
        else:
            typist.refused(piece)
    typist.flush()
    return screen.getvalue()


@pytest.mark.parametrize(
    "text", [ANSWER, "a < b <b> c << <<seg> </", "<" * 50, ":smile: [bold]x[/bold]", "x" * 100, "", "<think"]
)
def test_the_typist_prints_all_text_however_it_is_cut(text: str) -> None:
    assert typed(text) == text
    assert typed(*text) == text


def test_lines_break_between_words_on_a_terminal_alone() -> None:
    text = "one two three four five six seven eight nine ten eleven " + "x" * 50 + " end"
    lines = typed(*text, terminal=True).split("\n")
    assert lines == ["one two three four five six seven eight ", "nine ten eleven ", "x" * 50 + " end"]
    assert typed(*text) == text


def test_model_text_cannot_steer_the_terminal() -> None:
    assert typed("a\x1b[2Jb\r\x07\u202ec") == "a�[2Jb��\u202ec".replace("\u202e", "�")
    assert typed("é नमस्ते\n👩‍👧") == "é नमस्ते\n👩‍👧"


def test_the_strip_fits_any_recording() -> None:
    noise = Audio(np.random.default_rng(0).normal(size=16_000 * 3).astype(np.float32))
    for recording in (noise, Audio(np.zeros(0, np.float32)), Audio(np.ones(1, np.float32))):
        for width in (1, 20, 37, 120):
            segments = [Segment(0.0, 0.2), Segment(0.1, 3.0), Segment(2.9, 3.0), Segment(5.0, 9.0)]
            lines = draw(recording, segments, width).plain.splitlines()
            assert len({len(line) for line in lines[:3]} | {len(lines[-1])}) == 1
            assert max(map(len, lines)) <= max(width, 20)


def test_a_reader_that_has_gone_is_no_failure() -> None:
    """`| head -1`: the exit code is that of work done."""
    command = [sys.executable, "-m", "relisten.cli", "data", "sources"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_without_a_stdout_or_stderr_nothing_is_said() -> None:
    """`>&- 2>&-`: Python then has None in place of the two."""
    command = ["sh", "-c", '"$0" -m relisten.cli data sources >&- 2>&-', sys.executable]
    assert subprocess.run(command).returncode == 0
