"""With `only_choices`, the answer is one of the choices, and the reasoning stays as it was."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from typing import Any

import pytest
from bases import BASES
from conftest import make_audio, make_model
from test_engine import CONFIG

import relisten
from relisten.engine.engine import Engine
from relisten.engine.generation import GenerationConfig
from relisten.engine.memory import bytes_per_token
from relisten.engine.question import Question
from relisten.engine.row import Row
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


def bound_row(model: Any, *choices: str) -> Row:
    example = Example("e", make_audio(2.0), "Which?", choices)
    question = Question(model, example, 0, "interleaved", only_choices=True)
    return Row(model, Words(model), {}, question, 0, GenerationConfig(only_choices=True), 4000)


def write(row: Row, model: Any, text: str) -> None:
    for token_id in model.encode(text):
        row.push(token_id, 0.0)


@pytest.mark.parametrize("choices", [("caté one", "dogé two"), ("5 kΩ", "5 Å")])
def test_characters_that_a_tokenizer_composes_are_bound_too(choices: tuple[str, ...]) -> None:
    """Qwen's tokenizer writes é as one character, however a choice has it; the answer then was free."""
    model = make_model(layers=1)
    config = replace(CONFIG, temperature=1.0, max_new_tokens=3, only_choices=True)
    for form in ("NFC", "NFD"):
        given = tuple(unicodedata.normalize(form, choice) for choice in choices)
        [traces] = Engine(model).generate([Example("e", make_audio(2.0), "Which?", given)], config, num_samples=8)
        answers = {unicodedata.normalize("NFC", relisten.tags.parse(t.text).answer or "") for t in traces}
        assert answers <= {unicodedata.normalize("NFC", choice) for choice in choices}


def test_a_choice_may_be_long_and_repeat_itself() -> None:
    """It was cut after 64 tokens, or as a loop."""
    model: Any = make_model(layers=1)
    choices = ("狗" * 90, "ha " * 200)
    config = replace(CONFIG, temperature=1.0, max_new_tokens=3, only_choices=True)
    [traces] = Engine(model).generate([Example("e", make_audio(2.0), "Which?", choices)], config, num_samples=4)
    assert {relisten.tags.parse(trace.text).answer for trace in traces} <= {choice.strip() for choice in choices}


@pytest.mark.parametrize("early", ["</answer>", ""])
def test_an_answer_that_would_end_before_it_began_is_asked_for(early: str) -> None:
    model: Any = BASES["qwen2_audio"]()
    row = bound_row(model, "siren", "snow")
    write(row, model, f"<think>a word{early}")
    row.push(model.end_token_id, 0.0)
    assert not row.done and row.written == f"<think>a word{early}</think><answer>" and row.allowed
    write(row, model, "snow</answer>")
    row.push(model.end_token_id, 0.0)
    assert row.done and row.trace.finish == "stop" and relisten.tags.parse(row.written).answer == "snow"
    assert row.trace.token_ids.count(model.end_token_id) == 1 + row.trace.token_ids[: row.trace.num_prompt].count(
        model.end_token_id
    )


@pytest.mark.parametrize("choice", ["a</answer>b", "<answer>a", "say <answer now", "<seg>1, 2</seg>", "<think>"])
def test_a_choice_with_a_tag_is_refused(choice: str) -> None:
    model: Any = BASES["qwen2_audio"]()
    with pytest.raises(ValueError, match="contains a tag that answers are read by"):
        bound_row(model, "dog", choice)
    Question(model, Example("e", make_audio(2.0), "Which?", (choice, "")), 0, "interleaved")  # free answers: as ever


@pytest.mark.parametrize("choice", ["", " "])
def test_an_empty_choice_is_refused(choice: str) -> None:
    with pytest.raises(ValueError, match="one of the choices is empty"):
        bound_row(BASES["qwen2_audio"](), "dog", choice)


def test_a_choice_that_leaves_no_place_for_a_thought_is_refused() -> None:
    """The answer was empty, and nothing said why."""
    model = make_model(layers=1)
    example = Example("e", make_audio(2.0), "Which?", ("x " * 150, "y"))
    room = len(Question(model, example, 0, "interleaved").token_ids) + 120
    engine = Engine(model, max_cache_bytes=room * bytes_per_token(model))
    with pytest.raises(ValueError, match="the longest choice takes"):
        engine.generate([example], replace(CONFIG, only_choices=True))
    engine.generate([example], replace(CONFIG, max_new_tokens=20))
