"""The types that an editor shows for the public names. mypy reads this file in `make check`; nothing runs it."""

from typing import assert_type

import relisten
from relisten.asking import ShownAnswer

model = relisten.load("nano")
question = relisten.Example("a", relisten.EXAMPLE, "What?")
answer = relisten.ask(model, relisten.EXAMPLE, "What?", ["a"])
assert_type(answer, ShownAnswer)
assert_type(answer.segments[0].start, float)
assert_type(relisten.ask(model, [question]), list[ShownAnswer])
for event in relisten.Engine(model).stream(question):
    if isinstance(event, relisten.Heard):
        assert_type(event.listen.segment.end, float)
