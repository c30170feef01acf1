"""`relisten.ask`: one question or many, and answers that show themselves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import relisten
from relisten import records
from relisten.models.base import AudioLM

EXAMPLES = Path(__file__).parent.parent / "examples"
QUESTION, CHOICES = "Which sound is heard just before the kick?", ["choir", "seven", "tabla", "guitar"]


@pytest.fixture(scope="module")
def nano() -> AudioLM:
    return relisten.load("nano")


def test_the_recording_that_comes_with_relisten_is_answered(nano: AudioLM) -> None:
    answer = relisten.ask(nano, relisten.EXAMPLE, QUESTION, CHOICES)
    assert answer.choice == "choir" and answer.name == "example.flac" and answer.notice is None
    assert repr(answer).startswith("Answer('choir'; heard again: ")


def test_many_questions_give_the_answers_of_each_alone(nano: AudioLM) -> None:
    examples = records.read_examples(EXAMPLES / "questions.jsonl")
    together = relisten.ask(nano, examples)
    assert sum(answer.choice == example.answer for answer, example in zip(together, examples, strict=True)) >= 5
    for example, answer in zip(examples, together, strict=True):
        assert isinstance(example.audio, Path)
        alone = relisten.ask(nano, example.audio, example.question, example.choices)
        assert (alone.trace.token_ids, alone.choice, alone.notice) == (
            answer.trace.token_ids, answer.choice, answer.notice
        )  # fmt: skip


def test_an_answer_is_a_page_in_a_notebook_and_in_a_file(nano: AudioLM, tmp_path: Path) -> None:
    answer = relisten.ask(nano, relisten.EXAMPLE, QUESTION, CHOICES)
    frame = answer._repr_html_()
    assert frame.startswith("<iframe srcdoc=") and "sandbox" in frame and "&lt;svg" in frame and QUESTION in frame
    page = answer.save(tmp_path / "answer.html").read_text(encoding="utf-8")
    assert QUESTION in page and page.count("<audio") == 1 and "choir" in page
    [one] = relisten.ask(nano, [relisten.Example("mine", relisten.EXAMPLE, QUESTION, tuple(CHOICES))])
    assert "mine" in one.save(tmp_path / "one.html").read_text(encoding="utf-8")


def test_mistakes_are_one_line_that_names_the_question(nano: AudioLM, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="what do you ask"):
        relisten.ask(nano, relisten.EXAMPLE)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="leave yours out"):
        relisten.ask(nano, [], QUESTION)  # type: ignore[call-overload]
    bad = relisten.Example("broken one", tmp_path / "none.wav", QUESTION, tuple(CHOICES))
    with pytest.raises(ValueError, match=r"broken one: .*none\.wav"):
        relisten.ask(nano, [replace(bad, id="fine", audio=relisten.EXAMPLE), bad])


def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cells = json.loads((EXAMPLES / "ask.ipynb").read_text(encoding="utf-8"))["cells"]
    names: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], "outputs are not committed"
            exec(compile(cell["source"], "ask.ipynb", "exec"), names)
    assert names["answer"].choice == "choir" and (tmp_path / "answer.html").stat().st_size > 10_000
