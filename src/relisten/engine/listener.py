"""Decides when a model hears a segment again: a pure state machine on the text of one answer, with all limits.

Text is fed in as it is written, one token's text at a time. The listener answers with the few actions that must happen
before the next token. Each character is read a bounded number of times, so the time is linear in the answer's length.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache

from relisten.tags import marks, parse_segment
from relisten.types import Format, Refusal, Segment

SLACK = 1e-6
"""Seconds. In floating point 3.4 - 3.2 is a little less than 0.2, and a segment of that length is accepted."""
MAX_INSIDE = 200
"""Characters kept between the opening and the closing tag. Anything longer is unreadable."""
MAX_QUOTED = 80
"""How many characters of a refused tag are recorded."""


@dataclass(frozen=True, slots=True)
class Force:
    """Write this text next. It completes a closing tag, so that the audio starts on a token boundary."""

    text: str


@dataclass(frozen=True, slots=True)
class Hear:
    """Insert the audio of this segment here. The segment is ordered, clamped to the recording, and long enough."""

    segment: Segment
    operation: str
    tag: str
    """The whole tag as written, cut to 80 characters."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """A tag was closed, but its segment is not heard again."""

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Stop:
    """The answer is complete."""


Action = Force | Hear | Refuse | Stop


class Listener:
    """Follows one answer. If it gives no action, the model goes on writing.

    All tags have one policy, whatever is done to their segments: the same reasons to refuse, and one budget of listens.
    In `conditioned` answers, tags are plain text. In `grounded` answers, a good tag is counted without an action, and a
    bad tag is refused for the same reasons as in `interleaved` answers, so that one policy holds for every format.
    """

    def __init__(
        self,
        duration: float,
        format: Format = "interleaved",
        names: Collection[str] = ("seg",),
        max_listens: int = 8,
        min_segment: float = 0.2,
        top: float = float("inf"),
        must_answer: bool = False,
    ) -> None:
        """duration: seconds of the recording. names: the tags that are obeyed. top: its highest frequency, in Hz.

        must_answer: whether </answer> is plain text as long as no answer is open, so that it cannot end without one.
        """
        self.duration = duration
        self.top = top
        self.format = format
        self.max_listens = max_listens
        self.min_segment = min_segment
        self.must_answer = must_answer
        self.num_heard = 0
        """Number of good tags so far (in `grounded` answers they are named, not heard)."""
        self.closed = False
        """True after a limit has closed the reasoning. Nothing is heard after that."""
        self._names = frozenset(names) if format != "conditioned" else frozenset()
        known = tuple(sorted(self._names))
        self._marks, self._starts = marks(known), _starts(known)
        self._pending = ""  # the end of the text, if it may be the start of a tag
        self._open: dict[str, str] = {}  # tag -> what was written since it was opened
        self._stage = "start"  # then think, between, answer, done

    @property
    def answering(self) -> bool:
        """Whether the model is between <answer> and </answer>."""
        return self._stage == "answer"

    def feed(self, text: str) -> Iterator[Action]:
        """Yield the actions for newly written text (including forced text), in order."""
        self._pending += text
        while self._stage != "done" and (mark := self._marks.search(self._pending)):
            self._write(self._pending[: mark.start()])
            self._pending = self._pending[mark.end() :]
            yield from self._mark(mark[0], bool(mark[1]), mark[2])
        keep = self._unfinished()
        self._write(self._pending[: len(self._pending) - keep])
        self._pending = self._pending[len(self._pending) - keep :]
        if self._pending[:2] == "</" and self._pending[2:] in self._open:
            yield Force(">")

    def close(self) -> str:
        """Stop hearing segments. Returns the text that leads from here to the answer."""
        self.closed = True
        wanted = {"think": "</think><answer>", "answer": ""}.get(self._stage, "<answer>")
        if self._open and self._stage != "done":
            wanted = f"</{next(reversed(self._open))}>" + wanted
        return self._rest(wanted)

    def finish(self) -> str:
        """The text that ends an open answer, or "" if no answer is open."""
        return self._rest("</answer>") if self._stage == "answer" else ""

    def _rest(self, wanted: str) -> str:
        """`wanted` without the part that is already written."""
        return wanted[len(self._pending) :] if self._pending and wanted.startswith(self._pending) else wanted

    def _write(self, text: str) -> None:
        for name, inside in self._open.items():
            self._open[name] = (inside + text)[: MAX_INSIDE + 1]

    def _unfinished(self) -> int:
        """How many characters at the end may be the start of a tag."""
        at = self._pending.rfind("<", -max(map(len, self._starts)))
        return len(self._pending) - at if at >= 0 and self._pending[at:] in self._starts else 0

    def _mark(self, mark: str, closing: bool, name: str) -> Iterator[Action]:
        if name not in self._names:
            yield from self._block(name, closing)
            self._write(mark)
            return
        inside = self._open.pop(name, None)
        self._write(mark)
        if not closing:
            self._open[name] = ""  # a tag that is opened again before it was closed starts over, as in tags.parse
        if inside is not None:
            yield from self._judge(f"<{name}>{inside}{mark}", inside if closing else None, name)

    def _block(self, name: str, closing: bool) -> Iterator[Action]:
        if name == "think" and self._stage in ("start", "think"):
            self._stage = "between" if closing else "think"
        elif name == "answer" and not closing:
            self._stage = "answer"
        elif name == "answer" and (self.answering or not self.must_answer):
            for tag, inside in self._open.items():
                yield self._refuse(f"<{tag}>{inside}", "unreadable")
            self._open.clear()
            self._stage = "done"
            yield Stop()

    def _judge(self, tag: str, inside: str | None, name: str) -> Iterator[Action]:
        segment = parse_segment(inside, name) if inside is not None and len(inside) <= MAX_INSIDE else None
        if segment is None:
            yield self._refuse(tag, "unreadable")
            return
        band = segment.band and (segment.band[0], min(segment.band[1], self.top))
        clamped = Segment(max(0.0, segment.start), min(segment.end, self.duration), band)
        if segment.start >= self.duration or (band and band[0] >= self.top):
            yield self._refuse(tag, "outside")
        elif not clamped.duration >= self.min_segment - SLACK:
            yield self._refuse(tag, "too short")
        elif self.closed:
            yield self._refuse(tag, "context")
        elif self.num_heard >= self.max_listens:
            yield self._refuse(tag, "too many")
        else:
            self.num_heard += 1
            if self.format == "interleaved":
                yield Hear(clamped, name, tag[:MAX_QUOTED])

    def _refuse(self, tag: str, reason: str) -> Refuse:
        return Refuse(Refusal(tag[:MAX_QUOTED], reason))


@lru_cache(maxsize=16)
def _starts(names: tuple[str, ...]) -> frozenset[str]:
    """Every text that a tag may start with."""
    whole = (tag for name in ("think", "answer", *names) for tag in (f"<{name}>", f"</{name}>"))
    return frozenset(tag[:n] for tag in whole for n in range(1, len(tag)))
