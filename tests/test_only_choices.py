"""With `only_choices`, the answer is one of the choices, and the reasoning stays as it was."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from bases import BASES
from conftest import make_audio
from test_engine import CONFIG

import relisten
from relisten.engine.engine import Engine
from relisten.engine.generation import GenerationConfig
from relisten.engine.row import Question, Row
from relisten.engine.words import Words
from relisten.models.qwen2_5_omni import Qwen2_5Omni
from relisten.records import read_examples
from relisten.types import Example
from tests.serving import EXAMPLES

CHOICES = ("dog", "doghouse", " two dogs, then a cat ", "狗", "9")


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_the_answer_is_one_of_the_choices(name: str, temperature: float) -> None:
    model: Any = BASES[name]()
    example = Example("e", make_audio(2.0), "Which?", CHOICES)
    config = replace(CONFIG, temperature=temperature, max_new_tokens=3, only_choices=True)
    [traces] = Engine(model).generate([example], config, num_samples=16)
    answers = [relisten.tags.parse(trace.text).answer for trace in traces]
    assert set(answers) <= {choice.strip() for choice in CHOICES}
    assert len(set(answers)) > 1 or temperature == 0


def answers(nano: Qwen2_5Omni, examples: list[Example], config: GenerationConfig) -> list[tuple[str, str]]:
    """The reasoning and the answer to each example, all in one batch."""
    found = Engine(nano).generate(examples, config)
    parts = [trace.text.partition("<answer>") for [trace] in found]
    return [(before, after.removesuffix("</answer>")) for before, _, after in parts]


def test_the_reasoning_stays_as_it_was() -> None:
    """Choices that no scene holds: the free answers name what is heard, the others one of them."""
    nano: Any = relisten.load("nano")
    open_one, *examples = read_examples(EXAMPLES / "questions.jsonl")
    wrong = [replace(example, choices=("moon", "seventh", "seven")) for example in examples]
    open_one = replace(open_one, choices=())
    free = answers(nano, [open_one, *wrong], GenerationConfig())
    bound = answers(nano, [open_one, *wrong], GenerationConfig(only_choices=True))
    assert bound[0] == free[0]
    assert [reasoning for reasoning, _ in bound] == [reasoning for reasoning, _ in free]
    assert {answer for _, answer in bound[1:]} <= {"moon", "seventh", "seven"}
    assert not {answer for _, answer in free[1:]} & {"moon", "seventh", "seven"}


def test_a_token_may_hold_the_end_of_a_tag_and_the_start_of_a_choice() -> None:
    """Then the choice is decided by the token that ends the tag, so that one is bound too."""
    model: Any = BASES["qwen2_audio"]()
    question = Question(model, Example("e", make_audio(2.0), "Which?", ("siren", "snow", "clap")), 0, "interleaved")
    row = Row(model, Words(model), {}, question, 0, GenerationConfig(only_choices=True), 1000)
    assert row.allowed is None
    for token_id in model.encode("<think></think><answer"):
        row.push(token_id, 0.0)
    assert {model.decode([token_id]) for token_id in row.allowed or ()} == {">s", ">"}
    row.push(model.encode("<answer>siren")[2], 0.0)
    assert {model.decode([token_id]) for token_id in row.allowed or ()} == {"iren", "n"}
