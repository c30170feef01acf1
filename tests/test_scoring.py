"""Scores: the benchmarks' rule word for word, its quirks by name, reading answers, comparing runs, anybody's files."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relisten import records
from relisten.choices import read_choice
from relisten.cli import run
from relisten.evals import figures
from relisten.evals.benchmarks import BENCHMARKS, export
from relisten.evals.paired import bootstrap, mcnemar, paired
from relisten.evals.predictions import read_predictions
from relisten.evals.reading import answer_text, status
from relisten.evals.scoring import wilson, word_match
from relisten.same_text import is_right
from relisten.segments import iou
from relisten.types import Segment

# --- the rule ---------------------------------------------------------------------------------------------------------

LETTERS = "aAbB_ -'’.,:;3１Ⅷ²é\u0301İıßſΣς中国♪\n\t"
PHRASES = (
    "From near to far",
    "from far to near",
    "3:1",
    "1:3",
    "the dog",
    "A dog",
    "dog",
    "Dogs bark",
    "",
    " bell ",
    "♪",
)


def spelled_out(prediction: str, answer: str, choices: Sequence[str]) -> bool:
    """The rule again, character by character, from its description in words."""

    def tokens(text: str) -> list[str]:
        found, word = [], ""
        for character in text.lower() + " ":
            if character.isalnum() or character == "_":
                word += character
            elif word:
                found.append(word)
                word = ""
        return found

    said, gold = tokens(prediction), tokens(answer)
    if not said:
        return False
    forbidden = []
    for choice in choices:
        if sorted(set(tokens(choice))) != sorted(set(gold)):
            forbidden += [token for token in tokens(choice) if token not in gold]
    return all(token in said for token in gold) and not any(token in forbidden for token in said)


def cases(num: int, seed: int = 0) -> list[tuple[str, str, list[str]]]:
    """(prediction, answer, choices): soups of odd characters, and answers as models garble them."""
    rng = random.Random(seed)

    def soup() -> str:
        return "".join(rng.choice(LETTERS) for _ in range(rng.randrange(8)))

    def garbled(text: str) -> str:
        words = text.split()
        rng.shuffle(words)
        ways = [text, text.upper(), " ".join(words), f"The answer is {text}", f"(A) {text}", text[:3], text * 2, soup()]
        return rng.choice(ways)

    found = []
    for i in range(num):
        choices = [soup() if i % 2 else rng.choice(PHRASES) for _ in range(rng.randrange(5))]
        answer = rng.choice(choices) if choices and rng.random() < 0.8 else soup()
        found.append((garbled(rng.choice([*choices, answer])), answer, choices))
    return found


def test_the_rule_is_that_of_its_description_on_ten_thousand_cases() -> None:
    given = cases(10_000)
    verdicts = [word_match(*case) for case in given]
    assert verdicts == [spelled_out(*case) for case in given]
    assert 1_000 < sum(verdicts) < 9_000


@settings(max_examples=40, deadline=None)
@given(st.text(), st.text(), st.lists(st.text(), max_size=5))
def test_the_rule_is_that_of_its_description_on_any_text(prediction: str, answer: str, choices: list[str]) -> None:
    assert word_match(prediction, answer, choices) == spelled_out(prediction, answer, choices)


def checkout(name: str, script: str) -> Path:
    folder = os.environ.get(name)
    if folder is None:
        pytest.skip(f"set {name} to a checkout of the benchmark to run its own {script} beside relisten")
    return Path(folder) / script


def official(script: Path) -> Callable[[str, str, Sequence[str]], bool]:
    spec = importlib.util.spec_from_file_location("official", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.string_match  # type: ignore[no-any-return]


SCRIPTS = [("RELISTEN_MMAR", "code/evaluation.py", "mmar"), ("RELISTEN_MMAU", "evaluation.py", "mmau-mini")]


@pytest.mark.parametrize(("variable", "script", "name"), SCRIPTS)
def test_scores_equal_those_of_the_official_script(variable: str, script: str, name: str, tmp_path: Path) -> None:
    path = checkout(variable, script)
    rule = official(path)
    for prediction, answer, choices in cases(10_000, seed=1):
        assert word_match(prediction, answer, choices) == rule(answer, prediction, choices)
    benchmark = BENCHMARKS[name]
    questions = benchmark.file(Path(os.environ[variable]))
    rng, given = random.Random(2), tmp_path / "given.jsonl"
    for _, row in records.entries(questions):
        said = rng.choice([row["answer"], rng.choice(row["choices"]), "The answer is " + row["answer"], "A", ""])
        records.append(given, {"id": row["id"], "answer_prediction": said}) if rng.random() < 0.9 else None
    # What failed is written as an empty text, so that the script's denominator is ours.
    answers = read_predictions([given], questions).records
    out = tmp_path / f"predictions.{benchmark.form}"
    export(benchmark, questions, answers, out)
    said = subprocess.run([sys.executable, path, "--input", out], capture_output=True, text=True, check=True).stdout
    result = figures.summary(answers)
    rows = {"Total Accuracy": result["rows"]["all"], **result["groups"]["modality"], **result["groups"]["sub_category"]}
    t = figures.tally(answers)
    assert f"Total Accuracy: {t.right / t.num * 100:.2f}% over {t.num} samples" in said
    for group in ("modality", "sub_category"):
        for label in rows.keys() & result["groups"][group].keys():
            some = figures.tally(r for r in answers if r[group] == label)
            assert f"{label} : {some.accuracy * 100:.2f}% over {some.num} samples" in said


# --- the published quirks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "answer"),
    [("up then down", "down then up"), ("ratio 1:3", "ratio 3:1"), ("Ann beat Bob", "Bob beat Ann, Ann beat Bob")],
)
def test_quirk_a_wrong_choice_word_for_word_may_count_as_right(said: str, answer: str) -> None:
    assert word_match(said, answer, [said, answer]) and not is_right(said, answer)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(min_size=1), min_size=1, max_size=5), st.integers(0, 4))
def test_quirk_the_right_text_always_counts_as_right(choices: list[str], place: int) -> None:
    answer = choices[place % len(choices)] + " x"
    assert word_match(answer, answer, [*choices, answer])


def test_quirk_a_sentence_around_the_right_answer_may_make_it_wrong() -> None:
    choices = ("a cow", "the bell", "is it a horn", "no answer")
    assert word_match("bell", "bell", ("cow", "bell")) and word_match("The answer is bell", "bell", ("cow", "bell"))
    assert not word_match("The answer is a cow", "a cow", choices)  # "the" and "is" are words of wrong choices
    assert not word_match("Answer: a cow", "a cow", choices)


def test_quirk_a_letter_before_the_right_answer_may_make_it_wrong_and_alone_is_never_right() -> None:
    choices = ("a cow", "bell")
    assert word_match("(B) bell", "bell", choices) and not word_match("(A) bell", "bell", choices)
    assert not word_match("B", "bell", choices)
    assert read_choice("B", choices) == "bell", "the letter can be read all the same"


def test_quirk_always_the_first_choice_is_worth_what_the_answers_places_give() -> None:
    rows = [record("cow", answer="bell"), record("bell", answer="bell", choices=["bell", "cow"])]
    whole = figures.summary(rows)["rows"]["all"]
    assert (whole["first_choice"], whole["chance"]) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("said", "choices"),
    [
        ("Female", ["Male", "Female"]),
        ("dissatisfied", ["Satisfied", "Dissatisfied"]),
        ("20", ["2", "20"]),
        ("Impossible", ["Possible", "Impossible"]),
        ("Cm(add9)", ["Cm", "Cm(add9)"]),
    ],
)
def test_quirk_the_first_choice_that_is_part_of_the_answer_is_another_one(said: str, choices: list[str]) -> None:
    assert next(c for c in choices if c.lower() in said.lower()) != choices[1]  # what the paper's release does
    assert read_choice(said, choices) == choices[1] == read_choice(f"It is {said}.", choices)


def test_quirk_blanks_around_choices_and_choices_given_twice() -> None:
    assert read_choice("bell", ["cow ", " bell"]) == " bell" and is_right("bell", " bell")
    assert read_choice("it is a cow", ["cow", "cow", "bell"]) == "cow"
    assert word_match("bell", " bell", ["cow ", " bell"])


def test_quirk_rows_without_a_prediction_leave_the_official_denominator_and_not_ours(tmp_path: Path) -> None:
    rows = [question(1) | {"answer_prediction": "bell"}, question(2)]
    given = read_predictions([written(tmp_path / "p.jsonl", rows)])
    assert figures.tally(given.records).accuracy == 0.5
    assert figures.tally(given.records).counts["failed"] == 1 and "1 rows have no answer_prediction" in given.notes[0]


def test_quirk_no_prediction_at_all_divides_nothing_by_zero(tmp_path: Path) -> None:
    path = written(tmp_path / "p.jsonl", [question(1) | {"prediction": "bell"}])
    with pytest.raises(ValueError, match="no row has a prediction under answer_prediction, model_prediction"):
        read_predictions([path])
    assert figures.tally(read_predictions([path], key="prediction").records).right == 1


@pytest.mark.parametrize("key", ["answer_prediction", "model_prediction", "model_output"])
@pytest.mark.parametrize("form", ["jsonl", "json"])
def test_quirk_the_name_of_a_prediction_and_the_form_of_the_file_changed(tmp_path: Path, key: str, form: str) -> None:
    given = read_predictions([written(tmp_path / f"p.{form}", [question(1) | {key: "bell"}])])
    assert given.key == key and figures.tally(given.records).right == 1


def test_quirk_names_of_groups_that_the_scripts_do_not_know(tmp_path: Path) -> None:
    rows = [question(1) | {"answer_prediction": "bell", "modality": "silence", "category": "Newly Made"}]
    groups = figures.summary(read_predictions([written(tmp_path / "p.jsonl", rows)]).records)["groups"]
    assert groups["modality"]["silence"]["accuracy"] == groups["category"]["Newly Made"]["accuracy"] == 1


def test_quirk_the_mean_over_modalities_is_not_the_accuracy() -> None:
    rows = [record("bell", modality="speech") for _ in range(9)] + [record("cow", modality="mix-sound-music")]
    result = figures.summary([r | {"id": str(i)} for i, r in enumerate(rows)])
    assert result["rows"]["all"]["accuracy"] == 0.9 and result["macro"] == {"modality": 0.5}


def test_quirk_an_answer_without_words_is_right_whatever_is_said() -> None:
    assert word_match("anything", "♪", ["♪", "♫"]) and not word_match("♪", "♪", ["♪", "♫"])


# --- reading ----------------------------------------------------------------------------------------------------------

CHOICES = ["cow", "red cow", "bell", "a dog"]


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("bell", "bell"), (" BELL. ", "bell"), ("the red cow", "red cow"), ("(B) red cow", "red cow"),
        ("A dog", "a dog"), ("A", "cow"), ("(c)", "bell"), ("B.", "red cow"), ("Option D", "a dog"),
        ("The answer is C", "bell"), ("C) a ringing thing", "bell"), ("3", "bell"), ("option 2", "red cow"),
        ("(4).", "a dog"), ("E", None), ("5", None), ("A horse", None), ("cow or bell", None), ("", None),
        (None, None), ("I hear", None),
    ],
)  # fmt: skip
def test_the_choice_that_an_answer_means(said: str | None, meant: str | None) -> None:
    assert read_choice(said, CHOICES) == meant


def test_numbers_are_read_as_figures_and_as_words_and_not_as_places_among_numbers() -> None:
    assert (
        read_choice("three", ["2", "3"]) == "3"
        and read_choice("3 knocks", ["two knocks", "three knocks"]) == "three knocks"
    )
    assert read_choice("2", ["three", "four"]) is None and read_choice("1", ["10", "11"]) is None


def test_choices_with_labels_of_their_own() -> None:
    labelled = ["(B) cow", "(A) bell"]
    assert read_choice("A", labelled) == "(A) bell" == read_choice("bell", labelled) == read_choice("A. bell", labelled)
    assert read_choice("it was a cow", labelled) == "(B) cow"


def test_two_choices_equally_long_are_none() -> None:
    assert read_choice("cow and dog", ["cow", "dog"]) is None


@settings(max_examples=40, deadline=None)
@given(st.text(), st.lists(st.text(), max_size=6))
def test_reading_never_raises_and_gives_a_choice_or_none(said: str, choices: list[str]) -> None:
    assert read_choice(said, choices) in (*choices, None)


def test_a_letter_is_no_place_among_notes_and_keys() -> None:
    assert read_choice("B", ["C", "D", "G", "A"]) is None and read_choice("d.", ["C", "D", "G", "A"]) == "D"
    assert read_choice("A", ["C major", "G major", "F# minor"]) is None
    assert read_choice("B", ["A dog", "C-clamp", "An owl"]) == "C-clamp", "these are no notes"


def test_what_follows_a_thought_without_a_tag_is_the_answer() -> None:
    assert answer_text("<think>a cow?</think>\nbell") == "bell" == answer_text("a cow?</think> bell ")
    assert answer_text("<think>a cow?</think>\n") is None


def test_a_mere_thought_is_no_answer() -> None:
    assert answer_text("<think>cow</think><answer> bell </answer>") == "bell" == answer_text("bell")
    assert answer_text("<think>perhaps a cow") is None and answer_text("a <answer>bell") is None


@pytest.mark.parametrize("said", ["I'm sorry, I can't help with that", "It cannot be determined", "none of the above"])
def test_what_declines_to_answer_is_refused_and_not_unparsed(said: str) -> None:
    assert status(said, None, said, CHOICES) == "refused" and status("a horse", None, "a horse", CHOICES) == "unparsed"
    assert status(said, "bell", said, CHOICES) == "answered", "what can be read was answered"
    assert status(None, None, said, CHOICES) == "refused" and status("any", None, "any", []) == "answered"


# --- counting ---------------------------------------------------------------------------------------------------------


def question(n: int) -> dict[str, Any]:
    return {"id": f"q{n}", "question": "?", "choices": ["cow", "bell"], "answer": "bell"}


def record(
    said: str | None, answer: str = "bell", choices: Sequence[str] = ("cow", "bell"), **more: Any
) -> dict[str, Any]:
    given = {"id": "q", "choices": list(choices), "answer": answer, "answer_prediction": said, "kind": "", "gold": []}
    return given | {"status": "unparsed" if said is None else "answered"} | more


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_wilsons_interval_is_that_of_the_textbook() -> None:
    assert wilson(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-5)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 20)[0] == 0.0 and wilson(20, 20)[1] == 1.0


def test_overlap_of_segments() -> None:
    assert iou(Segment(1, 3), Segment(2, 4)) == pytest.approx(1 / 3)
    assert iou(Segment(1, 2), Segment(2, 3)) == 0.0
    assert iou(Segment(1, 2), Segment(1, 2)) == 1.0


def test_what_failed_is_wrong_or_the_first_choice_as_one_asks() -> None:
    rows = [record("bell"), record(None, answer="cow"), record(None), record(None, error="gone", status="failed")]
    wrong, first = (figures.tally(rows, how) for how in ("wrong", "first-choice"))
    assert (wrong.right, first.right) == (1, 2)
    assert wrong.counts == first.counts == {"answered": 1, "unparsed": 2, "refused": 0, "failed": 1}
    assert wrong.over_answered == first.over_answered == 1
    assert figures.summary(rows, failed="first-choice")["failed_are"] == "first-choice"


def test_several_answers_to_a_question_average_vote_and_agree() -> None:
    said = {"q1": ["bell", "bell", "cow"], "q2": ["cow", None, "bell"], "q3": [None, None, None]}
    rows = [record(s, id=name, sample=i) for name, all_said in said.items() for i, s in enumerate(all_said)]
    result = figures.summary(rows)
    assert result["samples"] == {
        "k": 3, "avg": pytest.approx(3 / 9), "majority": pytest.approx(1 / 3), "any": pytest.approx(2 / 3),
        "agreement": pytest.approx(1 / 9), "unanimous": 0.0, "shuffled": False, "chose_shown_first": None,
    }  # fmt: skip
    assert result["rows"]["all"]["interval"] == pytest.approx(wilson(1, 3), abs=1e-6), "three questions, not nine"


def test_two_runs_are_compared_on_the_same_questions() -> None:
    assert mcnemar(10, 2) == pytest.approx(2 * (1 + 12 + 66) / 4096) and mcnemar(5, 5) == mcnemar(0, 0) == 1.0
    first, second = [1.0] * 50 + [0.0] * 50, [1.0] * 70 + [0.0] * 30
    found = paired(first, second)
    assert (found.accuracy, found.better, found.p) == ((0.5, 0.7), (0, 20), pytest.approx(2 / 2**20))
    assert found.difference == pytest.approx(0.2)
    # The normal interval of a share of 0.2 among 100 is 0.12 to 0.28.
    assert found.interval == pytest.approx((0.12, 0.28), abs=0.015)
    assert bootstrap([0.25] * 7) == (0.25, 0.25)
    with pytest.raises(ValueError, match="same questions"):
        paired([1.0], [])


# --- anybody's predictions --------------------------------------------------------------------------------------------


def test_predictions_by_id_are_matched_to_their_questions(tmp_path: Path) -> None:
    questions = written(tmp_path / "q.json", [question(1), question(2), question(3)])
    rows = [{"id": "q2", "model_output": "(B)"}, {"id": "q1", "model_output": None}]
    given = read_predictions([written(tmp_path / "p.jsonl", rows)], questions)
    assert [(r["id"], r["status"], r.get("choice")) for r in given.records] == [
        ("q1", "failed", None), ("q2", "answered", "bell"), ("q3", "failed", None),
    ]  # fmt: skip
    t = figures.tally(given.records)
    assert (t.right, t.exact) == (0, 1), "a bare letter is wrong by the rule, and can be read"
    assert "q3 for one" in given.notes[-1]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"id": "q9", "model_output": "x"}], "has no question 'q9'"),
        ([{"id": "q1", "model_output": "x"}] * 2, "'q1' is that of"),
        ([{"model_output": "x"}], "has no id"),
        ([], "holds no predictions"),
    ],
)
def test_predictions_that_fit_no_question(tmp_path: Path, rows: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_predictions([written(tmp_path / "p.jsonl", rows)], written(tmp_path / "q.jsonl", [question(1)]))


def test_a_named_question_file_counts_and_not_what_the_predictions_say_of_it(tmp_path: Path) -> None:
    """MMAU's answers were revised: files of predictions often hold the older ones."""
    rows = [question(n) | {"model_output": "bell"} for n in (1, 2)]
    revised = written(tmp_path / "q.json", [question(1) | {"answer": "cow"}, question(2)])
    given = read_predictions([written(tmp_path / "p.json", rows)], revised)
    assert figures.tally(given.records).right == 1
    assert given.notes == [f"1 rows say another question, choices or answer than {revised}, which is counted"]


def test_predictions_under_two_names_that_disagree_are_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path / "p.json", [question(1) | {"model_output": "bell", "model_prediction": "cow"}])
    with pytest.raises(ValueError, match="name one with --key"):
        read_predictions([path])
    assert figures.tally(read_predictions([path], key="model_output").records).right == 1


def test_so_few_questions_that_no_test_can_tell_are_unsure() -> None:
    assert paired([0.0] * 5, [1.0] * 5).surely == 0 and paired([0.0] * 5, [1.0] * 5).interval == (1.0, 1.0)
    assert paired([0.0] * 6, [1.0] * 6).surely == 1 and paired([1.0] * 6, [0.0] * 6).surely == -1


def test_the_command_scores_and_exports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    questions = written(tmp_path / "q.jsonl", [question(1), question(2)])
    one = written(tmp_path / "1.jsonl", [{"id": f"q{n}", "model_prediction": "bell"} for n in (1, 2)])
    options = ["--questions", str(questions), "--out", str(tmp_path / "figures.json")]
    options += ["--export-as", "mmau-mini", "--export-to", str(tmp_path / "sent.json")]
    assert run(["score", str(one), *options]) == 0
    assert json.loads((tmp_path / "figures.json").read_text())["rows"]["all"]["accuracy"] == 1
    sent = json.loads((tmp_path / "sent.json").read_text())
    assert sent == [question(n) | {"model_output": "bell", "model_prediction": "bell"} for n in (1, 2)]
    assert run(["score", str(one)]) == 2 and "name the --questions" in capsys.readouterr().err
    assert run(["score", str(one), "--questions", str(questions), "--export-to", "x"]) == 2


def test_shards_are_scored_together_wherever_their_files_lay(tmp_path: Path) -> None:
    """Two machines have the same questions and weights in other places; other questions are another run."""
    folders = [tmp_path / str(which) for which in range(2)]
    for which, folder in enumerate(folders):
        folder.mkdir()
        traced = {"response": "bell", "named": [], "heard": [], "refusals": [], "finish": "stop"}
        written(folder / "answers.jsonl", [record("bell", id=f"q{which}", **traced)])
        settings = {"questions": f"/disk{which}/q.jsonl", "model": f"/disk{which}/m", "shard": f"{which}/2"}
        (folder / "config.json").write_text(json.dumps(settings | {"sha256 of q.jsonl": "1"}))
    assert len(read_predictions(folders).records) == 2
    for changed, words in (({"sha256 of q.jsonl": "2"}, "sha256 of q.jsonl differs"), ({}, "model differs")):
        (folders[1] / "config.json").write_text(json.dumps({"model": "m", "shard": "1/2"} | changed))
        with pytest.raises(ValueError, match=words):
            read_predictions(folders)


def test_both_files_of_a_comparison_have_their_predictions_under_the_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = (
        written(tmp_path / f"{said}.jsonl", [question(n) | {"mine": said} for n in (1, 2)]) for said in ("bell", "cow")
    )
    assert run(["compare", str(one), str(two), "--key", "mine", "--out", str(tmp_path / "out")]) == 0
    assert "-1.000" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())["total"]["paired"]
    assert found["better"] == [2, 0] and found["p"] == 0.5


def test_predictions_of_ids_alone_are_compared_with_a_run_by_their_questions_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = written(tmp_path / "q.jsonl", [question(1), question(2)])
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
    one, two = (
        written(tmp_path / folder / "p.jsonl", [{"id": f"q{n}", "model_output": "bell"} for n in range(1, last)])
        for folder, last in (("x", 3), ("y", 2))
    )
    assert run(["compare", str(one), str(two), "--questions", str(questions)]) == 0
    told = capsys.readouterr().out
    assert "1 questions have no prediction, q2 for one: counted as failed" in told and "-0.500" in told
    assert "x/p.jsonl" in told, "files of one name are told apart by their folders"
    assert run(["compare", str(one), str(one), "--questions", str(questions)]) == 2


def test_right_answers_that_are_no_choices_are_told(tmp_path: Path) -> None:
    """Answers given as letters made every prediction wrong, without a word."""
    rows = [
        {"id": "1", "choices": ["dog", "cat"], "answer": "B", "answer_prediction": "cat"},
        {"id": "2", "choices": ["dog", "cat"], "answer": "Cat ", "answer_prediction": "cat"},
        {"id": "3", "choices": ["dog", "cat"], "answer": None, "answer_prediction": "cat"},
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    [note] = read_predictions([tmp_path / "p.jsonl"]).notes
    assert note.startswith("1 questions have a right answer that is none of their choices, 1 for one: 'B'")
