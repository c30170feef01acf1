"""Checks by code, the leakage filter, near-duplicates, even positions, the blind guesser."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relisten.data import checks, leakage
from relisten.data.blind import guess
from relisten.data.compose import Draft
from relisten.data.near import Near, jaccard, runs
from relisten.data.route import Funnel, route
from relisten.types import Clip, Event, Example

GOOD = Draft(
    "What is heard after the bell?",
    ("a dog", "a cat", "rain", "a horn"),
    "a dog",
    "First the bell <seg>1.0, 2.0</seg>: a bell. Then what follows <seg>2.5, 3.5</seg>, and that is a dog.",
)
EVENTS = (Event("bell", 1.0, 2.0), Event("Dog, barking (one)", 2.5, 3.4), Event("male speech", 3.0, 6.0))
CLIP = Clip("clip", Path("clip.wav"), 6.0, EVENTS)


def test_a_good_draft_has_no_fault() -> None:
    assert checks.question_fault(GOOD) == checks.cot_fault(GOOD, CLIP) == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"choices": ("a dog",)}, "1 choices"),
        ({"choices": ("a dog", "A Dog ", "rain", "a horn")}, "two choices are the same"),
        ({"answer": "an owl"}, "not among"),
        ({"choices": ("a dog", "", "rain", "a horn")}, "empty"),
        ({"question": "Is /m/053hz1 heard?"}, "identifier"),
        ({"question": "What is the sound of a dog after the bell?"}, "tells the answer"),
        ({"question": "What is at <seg>1, 2</seg>?"}, "tags"),
        ({"choices": ("a dog", "<seg>1, 2</seg>", "rain", "a horn")}, "tags"),
        ({"question": "Q" * 5000}, "too long"),
    ],
)
def test_faults_of_questions(change: dict[str, Any], said: str) -> None:
    assert said in checks.question_fault(replace(GOOD, **change))


def test_choices_that_all_stand_in_the_question_give_nothing_away() -> None:
    both = Draft("Which is longer, the one before the bell or the one after it?", ("before", "after"), "after", "")
    assert checks.question_fault(both) == ""


@pytest.mark.parametrize(
    ("cot", "said"),
    [
        ("", "empty"),
        ("I just know.", "0 segments"),
        ("Here <seg>1.0 - 2.0</seg>: a bell.", "cannot be read"),
        ("Here <seg>2.0, 1.0</seg>: a bell.", "cannot be read"),
        ("<think>Here</think> <seg>1.0, 2.0</seg>: a bell.", "cannot be read"),
        ("Here <seg>1.0, 7.5</seg>: a bell.", "after the recording"),
        ("Here <seg>1.0, 1.1</seg>: a bell.", "shorter"),
        ("Here <seg>0.0, 0.5</seg>: something.", "nothing is known"),
        ("Here <seg>1.0, 2.0</seg>: a dog barks.", "speaks of Dog"),
        ("Here <seg>1.0, 2.0</seg>. This is male speech.", "speaks of male speech"),
        ("Here <seg>1.0, 2.0</seg>: a bell, so option B.", "by letter"),
        ("Here <seg>1.0, 2.0</seg>: a bell, so (C) it is.", "by letter"),
        ("That is /m/0bt9lr <seg>1.0, 2.0</seg>.", "identifier"),
        ("Here <seg>1.0, 2.0</seg> a bell. " * 9, "9 segments"),
    ],
)
def test_faults_of_chains(cot: str, said: str) -> None:
    assert said in checks.cot_fault(replace(GOOD, cot=cot), CLIP)


def test_a_sentence_that_goes_on_to_other_sounds_is_fine() -> None:
    cot = "Here <seg>1.0, 2.0</seg>: a bell, and the dog only later. The male speech is last <seg>3, 4</seg>: a voice."
    assert checks.cot_fault(replace(GOOD, cot=cot), CLIP) == ""
    assert checks.cot_fault(GOOD, replace(CLIP, events=())) == ""  # nothing is known to contradict


def test_labels_as_listeners_say_them() -> None:
    said = ["Male speech, man speaking", "Dog", "TV", "Bark (one)", "power_tool"]
    assert [checks.said(label) for label in said] == ["male speech", "dog", "TV", "bark", "power tool"]


def test_benchmark_recordings_are_kept_out_by_id_in_all_variants_and_by_hash(tmp_path: Path) -> None:
    rows = [{"id": "qx8hrhBZJ98_00-01-32_00-02-02", "audio_path": "./audio/qx8hrhBZJ98_00-01-32_00-02-02.wav"},
            {"id": "1", "url": "https://www.youtube.com/watch?v=-_aB3dEfGh1&t=4"}]  # fmt: skip
    (tmp_path / "meta.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "ids.txt").write_text("ckOe-8qdaew\n" + hashlib.sha256(b"sound").hexdigest() + "\n")
    (tmp_path / "same.wav").write_bytes(b"sound")
    known = leakage.read_benchmarks([tmp_path / "meta.jsonl", tmp_path / "ids.txt"])
    assert known.ids == {"qx8hrhBZJ98", "-_aB3dEfGh1", "ckOe-8qdaew"}
    for name in ("qx8hrhBZJ98_30000", "Y-_aB3dEfGh1", "AudioSet_-_aB3dEfGh1_20000", "ckOe-8qdaew_pitch2_speed0.9"):
        assert "benchmark" in known.leak(Clip(name, Path("x.wav"), 1.0)), name
        assert "benchmark" in known.leak(Clip("x", Path(f"data/{name}.wav"), 1.0)), name
    assert "file" in known.leak(Clip("other", tmp_path / "same.wav", 1.0))
    assert known.leak(Clip("aaaaaaaaaaa_30000", Path("x.wav"), 1.0)) == ""
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "one.wav").write_bytes(b"sound")
    assert leakage.read_benchmarks([tmp_path / "audio"]).leak(Clip("other", tmp_path / "same.wav", 1.0))
    with pytest.raises(ValueError, match="no such file"):
        leakage.read_benchmarks([tmp_path / "nothing"])


def outcome(question: str, answer: str = "b", route: str = "sft", cot: str = "so <seg>1, 2</seg>") -> dict[str, Any]:
    draft = {"question": question, "choices": ["a", "b", "c", "d"], "answer": answer, "cot": cot, "kind": "k",
             "prompt": "compose"}  # fmt: skip
    return {"draft": draft, "route": route, "cot_fault": "", "number": 0}


def routed(outcomes: list[list[dict[str, Any]]]) -> tuple[list[Any], Funnel]:
    funnel = Funnel()
    rows = [
        (f"clip{n}", {"duration": 4.0, "audio": f"{n}.wav", "events": [],
                      "questions": [q | {"number": m} for m, q in enumerate(questions)]})
        for n, questions in enumerate(outcomes)
    ]  # fmt: skip
    return list(route(rows, "test", 0, funnel)), funnel


def test_near_duplicates_go_and_are_counted() -> None:
    same = "What is heard right after the old bell?"
    found, funnel = routed(
        [
            [outcome(same), outcome("What is heard right after the old bell then?"), outcome(same, answer="c")],
            [outcome(same, cot="so <seg>3, 4</seg>")],
            [outcome(same, cot="quite another way <seg>3, 4</seg>")],
        ]
    )
    assert [one.set for one in found] == ["sft", "", "sft", "", "sft"]
    assert (funnel.asked, funnel.judged, funnel.sft) == (5, 5, 3) and sum(funnel.reasons.values()) == 2


def test_near_duplicates_are_found_over_all_recordings() -> None:
    rng = np.random.default_rng(5)
    bank = [f"w{n}" for n in range(400)]

    def chain(num: int) -> list[str]:
        return [str(word) for word in rng.choice(bank, num)]

    chains = [chain(80) for _ in range(300)]
    changed = [[*one[:40], "changed", *one[41:]] for one in chains]  # 75 of 81 runs are shared
    other = [[*one[:40], *chain(40)] for one in chains]  # less than half of them
    near = Near(0.8)
    assert not any(map(near.again, chains))
    assert sum(map(near.again, changed)) >= 297
    assert not any(map(near.again, other))
    assert near.again(chains[0]) and not near.again(["short"]) and near.again(["short"])
    for one, two in ((chains[0], changed[0]), (chains[0], other[0]), (chains[0], chains[1])):
        sets = [{tuple(w[n : n + 3]) for n in range(len(w) - 2)} for w in (one, two)]
        exact = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
        assert jaccard(runs(one), runs(two)) == pytest.approx(exact, abs=0.02)


def test_one_small_change_in_another_recording_is_no_new_question() -> None:
    told = "first the bell <seg>1, 2</seg> rings in the yard and then a dog answers it from far away so it is the dog"
    one, other = (outcome("What follows the bell?", cot=cot) for cot in (told, told + " b"))
    found, _ = routed([[one], [other]])
    assert [one.set for one in found] == ["sft", ""] and "nearly the same" in found[1].reason


def test_right_answers_are_spread_evenly_and_an_rl_example_has_no_chain() -> None:
    many = [[outcome(f"Question {n} about thing {n}?", route="rl" if n % 2 else "sft")] for n in range(400)]
    found, _ = routed(many)
    for name in ("sft", "rl"):
        places = Counter(one.example.choices.index("b") for one in found if one.set == name)
        assert set(places.values()) == {50}
    assert all((one.example.cot is None) == (one.set == "rl") for one in found)
    order = [one.example.choices.index("b") for one in found if one.set == "sft"]
    assert order != sorted(order) and order[:4] != order[4:8]


def examples(num: int, tell: bool) -> list[Example]:
    """Questions with a right answer at random; `tell`: its word goes with the question's more often than not."""
    rng = np.random.default_rng(3)
    words = np.array(["ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen"])
    made = []
    for n in range(num):
        choices = [str(word) for word in rng.permutation(words)[:4]]
        answer = choices[int(rng.integers(4))]
        hint = f"the friend of {answer}" if tell and rng.random() < 0.6 else f"number {int(rng.integers(9))}"
        made.append(Example(str(n), Path(f"{n // 2}.wav"), f"Which is {hint}?", tuple(choices), answer))
    return made


def test_the_blind_guesser_finds_what_the_text_tells_and_nothing_else() -> None:
    blind = guess(examples(600, tell=False), 0.05)
    assert blind.passed and blind.chance == 0.25 and blind.interval[0] < 0.29
    telling = guess(examples(600, tell=True), 0.05)
    assert not telling.passed and telling.accuracy > 0.5
    assert guess(examples(10, tell=True), 0.05).passed  # too few to say
