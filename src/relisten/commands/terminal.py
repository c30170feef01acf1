"""Output on the terminal while a model answers: the reasoning as it is written, and each segment that is heard."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from relisten.engine.operations import phrase
from relisten.reports.strip import colour, draw
from relisten.reports.text import FINISHES, named_seconds, printable, span
from relisten.tags import EVERY
from relisten.types import Audio, Listen, Refusal

if TYPE_CHECKING:
    from relisten.engine.answer import Answer

LONGEST_TAG = 16
"""Characters. If a text that starts with `<` is longer, it is no tag, and is printed at once."""


class Typist:
    """Prints a stream. Tags are dim; segments have their colour on the strip, and a mark if they were heard.

    On a terminal, lines break between words. Otherwise the text is not changed.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.num_heard = 0
        self._held = ""
        self._inside = False
        self._word: list[tuple[str, str]] = []  # pieces and their styles since the last blank
        self._column = 0

    def text(self, piece: str) -> None:
        """Print new text; the start of a tag is held back until the tag is whole."""
        self._held += piece
        while self._held:
            before, opened, after = self._held.partition("<")
            if not opened or before:
                self._print(before)
                self._held = opened + after
                continue
            tag = re.match(r"</?\w*>", self._held)
            if tag is None and len(self._held) < LONGEST_TAG and re.fullmatch(r"</?\w*", self._held):
                return
            end = tag.end() if tag else 1
            self._tag(self._held[:end]) if tag else self._print("<")
            self._held = self._held[end:]

    def heard(self, listen: Listen) -> None:
        """Mark a segment that was heard again just now."""
        self.flush()
        way = phrase(listen.operation, listen.segment)
        self._write(f" ♪ heard {span(listen.segment)}{way and f', {way}'}", f"bold {colour(self.num_heard)}")
        self.num_heard += 1
        self._end_word()

    def refused(self, refusal: Refusal) -> None:
        """Mark a tag that was not heard."""
        self.flush()
        self._write(f" ({refusal.reason}: not heard)", "dim")
        self._end_word()

    def flush(self) -> None:
        """Print all text that was held back."""
        self._print(self._held)
        self._held = ""
        self._end_word()

    def _tag(self, tag: str) -> None:
        if tag.strip("</>") in EVERY:
            self._inside = tag[1] != "/"
            self._write(tag, f"dim {colour(self.num_heard)}")
        else:
            self._write(tag, "dim")

    def _print(self, text: str) -> None:
        self._write(text, colour(self.num_heard) if self._inside else "")

    def _write(self, text: str, style: str) -> None:
        for piece in re.split(r"(\s+)", printable(text)):
            if piece.isspace():
                self._end_word()
                blank = "\n" if self._overflows(cell_len(piece)) else piece
                self._column = 0 if "\n" in blank else self._column + cell_len(piece)
                self._out(blank, style)
            elif piece:
                self._word.append((piece, style))
                if cell_len(piece) > len(piece):  # Chinese, Japanese: no blanks to wait for
                    self._end_word()

    def _end_word(self) -> None:
        """Print the word, on a new line where it would not fit."""
        length = sum(cell_len(piece) for piece, _ in self._word)
        if self._column and self._overflows(length):
            self._out("\n", "")
            self._column = 0
        for piece, style in self._word:
            self._out(piece, style)
        self._column += length
        if self._column > self.console.width:  # longer than a line: the terminal has broken it
            self._column %= self.console.width
        self._word.clear()

    def _overflows(self, length: int) -> bool:
        return self.console.is_terminal and self._column + length > self.console.width

    def _out(self, text: str, style: str) -> None:
        self.console.print(Text(text, style), end="", soft_wrap=True)


def show_answer(console: Console, answer: Answer, choices: tuple[str, ...]) -> None:
    """Print the answer in bold, and a note if a limit has ended it."""
    console.print()
    if answer.answer is None:
        console.print(Text("No answer: the model wrote none between <answer> and </answer>.", "bold yellow"))
    else:
        line = Text.assemble("Answer: ", (printable(answer.choice or answer.answer), "bold"))
        if choices and answer.choice is None:
            line.append("  (none of the choices; --only-choices allows no other answer)", "yellow")
        console.print(line, soft_wrap=True)
    if answer.trace.finish in FINISHES:
        console.print(Text(FINISHES[answer.trace.finish], "dim"))


def show_strip(console: Console, audio: Audio, listens: list[Listen]) -> None:
    """Print the waveform with the segments that were heard again."""
    width = max(min(console.width, 120), 20)
    console.print()
    console.print(draw(audio, [listen.segment for listen in listens], width))


def show_seconds(console: Console, seconds: dict[str, float], path: Path | None) -> None:
    """Print the times on one dim line."""
    console.print()
    console.print(Text(" · ".join(f"{name} {value:.1f} s" for name, value in named_seconds(seconds).items()), "dim"))
    if path is not None:
        console.print(Text(f"Page: {path}", "dim"), soft_wrap=True)
