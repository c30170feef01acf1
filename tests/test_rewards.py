"""Rewards: the paper's four on edge cases, and each fault of the authors' release that touches them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from conftest import make_example

from relisten.engine.generation import GenerationConfig
from relisten.engine.scripted import ScriptedEngine
from relisten.models.qwen2_5_omni import Qwen2_5Omni
from relisten.tags import parse
from relisten.training import rewards
from relisten.training.rewards import (
    TracedResponse,
    accuracy,
    confidence,
    consistency,
    find,
    format,
    located,
    score,
    segment,
    traced,
)
from relisten.types import Example, Format, Listen, Refusal, Segment, Trace

EXAMPLE = Example("a", make_example().audio, "What?", ("two knocks", "a dog"), "two knocks")
GOOD = "<think>At <seg>0.5, 1.5</seg>, two knocks.</think><answer>two knocks</answer>"


def said(
    model: Qwen2_5Omni,
    *parts: str | list[int],
    format: Format = "interleaved",
    finish: str = "stop",
    num_heard: int = 0,
) -> TracedResponse:
    """A trace made of texts that the model wrote, and (in lists) of forced tokens."""
    trace = Trace([], [], [], [Listen(0, 1, Segment(0.0, 4.0))], 0, finish=finish)  # type: ignore[arg-type]
    for part in parts:
        ids = model.encode(part) if isinstance(part, str) else part
        trace.token_ids += ids
        trace.sampled += [isinstance(part, str)] * len(ids)
        trace.logprobs += [-0.5 if isinstance(part, str) else 0.0] * len(ids)
        trace.text += model.decode(ids)
    trace.listens += [Listen(1, 1, Segment(0.5, 1.5))] * num_heard
    return traced(model, trace, GenerationConfig(format))


def total(model: Qwen2_5Omni, *parts: str | list[int], **fields: object) -> float:
    paper = find(("format", "consistency", "accuracy", "segment"))
    return sum(score(paper, said(model, *parts, **fields), EXAMPLE).values())  # type: ignore[arg-type]


def test_the_best_answer_earns_one_and_a_half(model: Qwen2_5Omni) -> None:
    assert total(model, GOOD, num_heard=1) == 1.5
    assert total(model, GOOD, format="grounded") == 1.5
    assert total(model, GOOD, format="conditioned") == 1.0, "where nothing can be heard, there is nothing to earn"


@pytest.mark.parametrize(
    ("text", "earned"),
    [
        ("", 0.0),
        ("<answer>two knocks</answer>", 0.5),
        ("<think>It knocks.</think><answer> Two Knocks </answer>", 1.0),
        ("<think>It knocks.</think><answer>a dog</answer>", 0.5),
        ("<think>It knocks.</think><answer>two knocks or a dog</answer>", 0.5),
        ("<answer>two knocks</answer><think>It knocks.</think>", 0.5),
        ("<think>1</think><think>2</think><answer>two knocks</answer>", 0.5),
        ("<think>It knocks.</think><answer>two knocks</answer> Human: more", 0.5),
        ("<think>At <seg>1.2.3, 2</seg>, so.</think><answer>two knocks</answer>", 0.5),
        ("<think>At <seg>1, , so.</think><answer>two knocks</answer>", 0.5),
        ("<think></think><answer></answer>", 0.5),
    ],
)
def test_form_and_answer(model: Qwen2_5Omni, text: str, earned: float) -> None:
    """Release 19: order, nesting, text outside and unreadable tags went unchecked; times such as 1.2.3 raised."""
    assert total(model, text) == pytest.approx(earned)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("two knocks.", True), ("Two knocks!", True), ("two knocks 。", True), ("two knocks, ", True),
        ("two. knocks", False), (".two knocks", False), ("two knocks)", False), ("", False), (".", False),
    ],
)  # fmt: skip
def test_punctuation_at_the_end_of_an_answer_costs_nothing(model: Qwen2_5Omni, answer: str, right: bool) -> None:
    """A full stop once made "two knocks." a wrong answer, in three rewards."""
    response = said(model, GOOD.replace("r>two knocks", f"r>{answer}"), num_heard=1)
    example = replace(EXAMPLE, labels={"segments": [[0.5, 1.5]]})
    found = score(find(["accuracy", "segment", "located"]), response, example)
    assert list(found.values()) == [0.5 * right] * 3
    assert (confidence(response, EXAMPLE) > 0) == right


def test_choices_that_differ_in_their_punctuation_stay_different() -> None:
    for choices, answer, wanted, right in (
        (("no", "no?"), "no?", "no", False),
        (("no", "no?"), "no?", "no?", True),
        (("no", "no?"), "no!", "no", True),
        (("?", "!"), "!", "?", False),
        (("?", "!"), "?", "?", True),
        ((), "at 9 p.m", "at 9 p.m.", True),
    ):
        assert rewards.says_right(answer, replace(EXAMPLE, choices=choices, answer=wanted)) == right, (choices, answer)
    chords = replace(EXAMPLE, choices=("Cm7", "CM7"), answer="Cm7")
    said = ("Cm7", "Cm7.", "CM7", "CM7.", "cm7")  # a full stop made the other chord right
    assert [rewards.says_right(answer, chords) for answer in said] == [True, True, False, False, False]
    assert not rewards.says_right(None, EXAMPLE) and not rewards.says_right("x", replace(EXAMPLE, answer=None))


def test_what_is_heard_can_be_limited_to_a_share_of_the_recording(model: Qwen2_5Omni) -> None:
    """The whole recording heard eight times earned as much as the second that mattered."""
    example = replace(EXAMPLE, labels={"segments": [[0.5, 1.5]]})
    once, often = said(model, GOOD, num_heard=1), said(model, GOOD, num_heard=8)
    assert once.duration == 4.0
    for share, earned in (
        (0.0, (0.5, 0.5)),
        (0.25, (0.5, 0.0)),
        (0.2, (0.0, 0.0)),
        (2.0, (0.5, 0.5)),
        (1.9, (0.5, 0.0)),
    ):
        functions = find(["accuracy", "segment", "located"], share)
        for response, value in zip((once, often), earned, strict=True):
            assert score(functions, response, example) == {"accuracy": 0.5, "segment": value, "located": value}, share
    with pytest.raises(ValueError, match="'located' failed for question 'b'"):
        rewards.try_out(find(["located"], 0.5), [example, replace(EXAMPLE, id="b")], "interleaved")


@pytest.mark.parametrize("tag", ["0, 0", "3, 1", "9, 12", "1.0, 1.1", "1.2.3, 2"])
def test_a_tag_that_is_not_heard_earns_nothing(model: Qwen2_5Omni, tag: str) -> None:
    """Release 17 and 8: the text of a tag was enough."""
    text = f"<think>At <seg>{tag}</seg>, so.</think><answer>two knocks</answer>"
    for format_ in ("grounded", "interleaved"):
        response = said(model, text, format=format_)  # type: ignore[arg-type]
        assert response.heard == () and segment(response, EXAMPLE) == 0.0
    assert segment(said(model, text, num_heard=1), EXAMPLE) == 0.5, "what was heard counts, whatever stands in the text"
    assert segment(said(model, text.replace("two knocks", "a dog"), num_heard=1), EXAMPLE) == 0.0


@pytest.mark.parametrize(
    ("after", "breaks"),
    [
        (", two knocks", 0), (" there", 0), ("", 1), ("The", 1), (" The", 1), ("\nThe", 1), (" 3 knocks", 0),
        ("<seg>2, 3</seg> and", 1), (" <seg>2, 3</seg> Then", 2), ("Élan", 1), ("一", 0),
    ],
)  # fmt: skip
def test_consistency_looks_at_the_next_text_blanks_skipped(model: Qwen2_5Omni, after: str, breaks: int) -> None:
    """Release 18: one blank or a line break hid the capital, and the second of two tags was lost."""
    response = said(model, f"<think>At <seg>0.5, 1.5</seg>{after}</think><answer>a dog</answer>")
    assert consistency(response, EXAMPLE) == pytest.approx(-0.1 * breaks)


def test_consistency_has_a_floor(model: Qwen2_5Omni) -> None:
    assert consistency(said(model, "<seg>1, 2</seg> A " * 9), EXAMPLE) == -0.5


def test_inserted_audio_and_forced_text_are_no_continuation(model: Qwen2_5Omni) -> None:
    audio = model.audio_tokens(8000)
    assert said(model, "<seg>0.5, 1.5</seg", model.encode(">"), audio, " The").continuations == ("T",)
    assert said(model, "<seg>0.5, 1.5</seg", model.encode(">"), audio, ", so").continuations == (",",)
    forced = said(model, "<seg>0.5, 1.5</seg", model.encode("></think><answer>"), "a dog", finish="listens")
    assert forced.continuations == ("",) and consistency(forced, EXAMPLE) == 0.0
    assert said(model, "<seg>0.5, 1.5</seg>").continuations == ("",)


def test_a_form_that_a_limit_completed_is_not_the_models_own(model: Qwen2_5Omni) -> None:
    """Release 6: at the limit a trace was ended for the model, which earned what it had not written."""
    lead = model.encode("</think><answer>")
    response = said(model, "<think>It knocks", lead, "two knocks</answer>", finish="length")
    assert response.well_formed and format(response, EXAMPLE) == 0.0 and accuracy(response, EXAMPLE) == 0.5


@pytest.mark.parametrize(
    ("labelled", "earned"),
    [([[0.5, 1.5]], 0.5), ([[1.0, 2.0]], 0.5 / 3), ([[0.5, 1.5], [2.0, 3.0]], 0.25), ([[2.0, 3.0]], 0.0)],
)
def test_located_is_worth_what_the_heard_segment_meets(
    model: Qwen2_5Omni, labelled: list[list[float]], earned: float
) -> None:
    example = replace(EXAMPLE, labels={"segments": labelled})
    assert located(said(model, GOOD, num_heard=1), example) == pytest.approx(earned)
    assert located(said(model, GOOD.replace("two knocks<", "a dog<"), num_heard=1), example) == 0.0, "wrong"
    assert located(said(model, GOOD), example) == 0.0, "named, not heard"


def test_located_says_which_question_has_no_labelled_segments(model: Qwen2_5Omni) -> None:
    with pytest.raises(ValueError, match=r"'located' failed for question 'a': it has no labels\.segments"):
        score({"located": located}, said(model, GOOD, num_heard=1), EXAMPLE)


def test_a_reward_is_tried_on_a_made_up_answer_and_named_with_its_question() -> None:
    def broken(response: TracedResponse, example: Example) -> float:
        return example.labels["gone"]  # type: ignore[no-any-return]

    labelled = replace(EXAMPLE, labels={"segments": [[0.5, 1.5]]})
    rewards.try_out(rewards.KNOWN, [labelled, labelled], "interleaved")
    with pytest.raises(ValueError, match=r"^reward 'broken' failed for question 'a': KeyError: 'gone'$"):
        rewards.try_out({"format": format, "broken": broken}, [EXAMPLE], "grounded")
    with pytest.raises(ValueError, match="'located' failed for question 'b'"):
        rewards.try_out({"located": located}, [labelled, replace(EXAMPLE, id="b")], "interleaved")
    with pytest.raises(ValueError, match="must give a finite number"):
        rewards.try_out({"own": lambda response, example: None}, [EXAMPLE], "interleaved")  # type: ignore[dict-item, return-value]


def test_confidence_as_the_release_has_it(model: Qwen2_5Omni) -> None:
    """Release 15 and 16: read at the answer's own tokens; nothing is read at a padding position."""
    p = math.exp(-0.5)
    right, wrong = said(model, GOOD), said(model, GOOD.replace("r>two knocks", "r>two dogs"))
    assert confidence(right, EXAMPLE) == pytest.approx(0.5 * (1 - (p - 1) ** 2))
    assert confidence(wrong, EXAMPLE) == pytest.approx(-0.5 * p * p)
    assert confidence(said(model, "<think>no answer"), EXAMPLE) == 0.0
    assert "".join(text for text, _ in right.answer_pieces) == "two knocks"


def test_what_the_engine_heard_and_refused_is_what_counts(model: Qwen2_5Omni) -> None:
    planned = model.encode("<think><seg>0.5, 1.5</seg")
    planned += [*model.encode(", so <seg>9, 12</seg"), *model.encode(" two.</think><answer>two knocks</answer>")]
    planned += [model.end_token_id]
    engine = ScriptedEngine(model, lambda i, s: dict(enumerate(planned)).get)
    for format_ in ("interleaved", "grounded"):
        config = GenerationConfig(format_, max_new_tokens=200)  # type: ignore[arg-type]
        [[trace]] = engine.generate([make_example()], config)
        response = traced(model, trace, config)
        assert response.heard == (Segment(0.5, 1.5),)
        assert [r.reason for r in trace.refusals] == ["outside"] and isinstance(trace.refusals[0], Refusal)
        assert response.continuations == (",", "t") and response.complete
        assert score(find(["segment", "accuracy"]), response, make_example()) == {"segment": 0.5, "accuracy": 0.5}


def brevity(response: TracedResponse, example: Example) -> float:
    return -0.01 * len(response.text)


def nothing(response: TracedResponse, example: Example) -> float:
    return float("nan")


def test_rewards_are_found_by_name_and_by_function(model: Qwen2_5Omni, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(find(["accuracy,format", "segment"])) == ["accuracy", "format", "segment"]
    own = find([f"accuracy, {__name__}:brevity"])
    assert score(own, said(model, "ab"), EXAMPLE) == {"accuracy": 0.0, "brevity": -0.02}
    for wrong, message in ((["acuracy"], "there are format"), ([","], "no rewards"), (["nowhere:x"], "no module")):
        with pytest.raises(ValueError, match=message):
            find(wrong)
    with pytest.raises(ValueError, match="nothing"):
        score(find([f"{__name__}:nothing"]), said(model, "ab"), EXAMPLE)


@pytest.mark.parametrize("tokens", [[], [0], list(range(40))])
def test_whatever_a_model_writes_is_judged(model: Qwen2_5Omni, tokens: Sequence[int]) -> None:
    text = model.decode(list(tokens)) + "</seg></answer><answer><think>"
    response = said(model, text)
    assert parse(response.text).answer == response.answer
    example = replace(EXAMPLE, labels={"segments": [[0.5, 1.5]]})
    assert all(math.isfinite(value) for value in score(rewards.KNOWN, response, example).values())


def test_two_rewards_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="another reward has that name"):
        rewards.find(["accuracy", "relisten.training.rewards:accuracy"])
