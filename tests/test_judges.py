"""Scores that a language model gives: what it is asked, how its replies are read, that none is paid for twice."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from teacher_server import COMPLETION_TOKENS, PROMPT_TOKENS, serving

from relisten import records
from relisten.cli import run
from relisten.evals import judges

RUBRIC = [
    {"name": "Cue: bell", "scoring_point": "1 if the bell is heard.", "note": "n", "choices": [0, 1]},
    {"name": "Order", "scoring_point": "Up to 2 for the order.", "note": "n", "choices": [0, 1, 2]},
]


def mmar_row(n: int, rubric: Any = RUBRIC) -> dict[str, Any]:
    return {
        "id": f"x{n}", "audio_path": f"./audio/{n}.wav", "question": f"Which of {n}?", "choices": ["cow", "bell"],
        "answer": "bell", "modality": "sound" if n % 2 else "music", "category": "Signal Layer", "sub-category": "a",
        "language": None, "thinking": "The GOLDEN bell.", "cue": ["bell"], "rubric": rubric,
    }  # fmt: skip


def answered(row: dict[str, Any], said: str = "bell", **more: Any) -> dict[str, Any]:
    """A line of answers.jsonl."""
    text = f"<think>I hear it <seg>1.0, 2.0</seg>, clearly.</think><answer>{said}</answer>"
    return {
        "id": row["id"], "sample": 0, "question": row["question"], "choices": row.get("choices") or [],
        "answer": row["answer"], "answer_prediction": said, "status": "answered", "response": text, "named": [],
        "heard": [], "refusals": [], "finish": "stop", "modality": row.get("modality") or "",
    } | more  # fmt: skip


def finished(folder: Path, rows: list[dict[str, Any]], lines: list[dict[str, Any]], name: str = "mmar") -> Path:
    """A finished run, with its questions beside it."""
    questions = folder / "MMAR-meta.jsonl"
    for path, some in ((questions, rows), (folder / "out/answers.jsonl", lines)):
        for each in some:
            records.append(path, each)
    (folder / "out/config.json").write_text(json.dumps({"questions": str(questions), "format": "interleaved"}))
    (folder / "out/run.json").write_text(json.dumps({"benchmark": name}))
    return folder / "out"


def graded(*scores: float) -> str:
    return json.dumps([{"name": r["name"], "score": s, "justification": "j"} for r, s in zip(RUBRIC, scores)])  # noqa: B905


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        (graded(1, 2), 1.0),
        (f"Here it is:\n```json\n{graded(0, 1)}\n```", 1 / 3),
        (graded(1), "a JSON list of 2 objects"),
        (graded(1, 3), "'Order' must be one of"),
        (graded(1, 2).replace("2", '"2"'), "'Order' must be one of"),
        ("I would give it full marks.", "no JSON list"),
        ("[" * 100_000, "no JSON list"),
    ],
)
def test_a_rubrics_score_is_the_points_over_the_most(reply: str, score: float | str) -> None:
    if isinstance(score, float):
        assert judges.read_rubric(reply, mmar_row(0)) == pytest.approx(score)
    else:
        with pytest.raises(ValueError, match=score):
            judges.read_rubric(reply, mmar_row(0))


def test_the_best_and_the_worst_of_five_are_dropped() -> None:
    assert judges.trimmed([0.0, 0.4, 1.0, 0.6, 0.8]) == pytest.approx(0.6)
    assert judges.trimmed([0.2, 0.4]) == pytest.approx(0.3) and judges.trimmed([]) == 0.0


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("CORRECTNESS: 5 - x\nRELEVANCE: 4\nCOMPLETENESS: 4\nCLARITY: 5\nOVERALL: 4.5 - good", 0.9),
        ("correctness: 2\nrelevance: 4\ncompleteness: 4\nclarity: 4", 0.7),
        ("OVERALL: 3 - middling\nCORRECTNESS: 1", 0.5),
        ("A fine answer.", None),
        ("CORRECTNESS: 9", None),
    ],
)
def test_an_open_answers_score_is_the_overall_one(reply: str, score: float | None) -> None:
    if score is None:
        with pytest.raises(ValueError, match="from 1 to 5"):
            judges.read_open(reply, {})
    else:
        assert judges.read_open(reply, {}) == pytest.approx(score)


def test_a_verdict_is_one_of_two_words() -> None:
    assert [judges.read_verdict(text, {}) for text in ("CORRECT", "incorrect.", "**Correct**")] == [1.0, 0.0, 1.0]
    for text in ("", "maybe", "CORRECT, or INCORRECT?"):
        with pytest.raises(ValueError, match="CORRECT or INCORRECT"):
            judges.read_verdict(text, {})


def test_a_judge_sees_the_reference_and_the_reasoning_and_only_right_answers() -> None:
    row = mmar_row(0, repr(RUBRIC))  # an older copy of the file holds the list as a text
    request = judges.ask_rubric(answered(row), row)
    assert request is not None
    text = request[1]["content"]
    for words in (
        "Which of 0?",
        "The GOLDEN bell.",
        "Cue: bell",
        "Possible scores: [0, 1, 2]",
        "I hear it <seg>1.0, 2.0",
    ):
        assert words in text
    assert judges.ask_rubric(answered(row, "cow"), row) is None
    with pytest.raises(ValueError, match="'x0' has no rubric; take MMAR-meta"):
        judges.ask_rubric(answered(row, "cow"), mmar_row(0, None))


# --- the command ------------------------------------------------------------------------------------------------------


def test_mmar_rubrics_are_judged_five_times_and_paid_for_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [mmar_row(n) for n in range(3)]
    out = finished(tmp_path, rows, [answered(rows[0]), answered(rows[1], "cow"), answered(rows[2])])
    asked: Counter[str] = Counter()
    grades = [(0, 0), (1, 2), (0, 1), (1, 1), (1, 0)]  # 0, 1, 1/3, 2/3, 1/3: the mean of the middle three is 4/9

    def say(body: dict[str, Any]) -> tuple[str, str]:
        text = str(body["messages"])
        asked[text] += 1
        if asked[text] == 2:
            return "no list", "stop"  # is asked for again
        return graded(*grades[(asked[text] - 1 - (asked[text] > 2)) % 5]), "stop"

    with serving(say=say) as server:
        options = ["--judge", "m", "--url", server.url, "--price-in", "1000", "--price-out", "1000", "--in-flight", "1"]
        assert run(["judge", str(out), *options]) == 0
        num = server.num
        assert num == 12, "two right answers, five times each, and one reply of each that could not be read"
        assert {body["temperature"] for body in server.bodies} == {0.0}
        assert run(["judge", str(out), *options]) == 0
        assert server.num == num, "every reply was found in the store"
    found = json.loads((out / "judged.json").read_text())
    assert found["score"] == "MMAR-Rubrics" and found["not_judged"] == 0 and found["spent"]["calls"] == 12
    assert found["spent"]["cost"] == pytest.approx(12 * (PROMPT_TOKENS + COMPLETION_TOKENS) / 1000)
    assert found["figures"]["all"]["all"]["score"] == pytest.approx(2 * (4 / 9) / 3)
    assert found["figures"]["all"]["all"]["accuracy"] == pytest.approx(2 / 3)
    assert found["figures"]["modality"]["sound"]["score"] == 0.0
    lines = list(records.read(out / "judged.jsonl"))
    assert [len(line["runs"]) for line in lines] == [5, 0, 5] and lines[0]["score"] == pytest.approx(4 / 9)
    assert "MMAR-Rubrics · judged by m" in " ".join(capsys.readouterr().out.split())


def test_a_recorded_judge_replays_and_what_it_lacks_is_not_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [mmar_row(n) for n in range(2)]
    out = finished(tmp_path, rows, [answered(row) for row in rows])
    records.append(
        tmp_path / "said.jsonl", {"messages": judges.ask_rubric(answered(rows[0]), rows[0]), "text": graded(1, 2)}
    )
    other = rows[1] | {"question": "And now?"}
    (tmp_path / "MMAR-meta.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (rows[0], other)))
    assert run(["judge", str(out), "--judge", f"recorded:{tmp_path / 'said.jsonl'}"]) == 1
    told = capsys.readouterr().out
    assert "not judged, and in no figure: 1 answers (no reply to these messages was recorded)" in told
    assert "5 replies" in told, "a call that failed is no reply"
    assert json.loads((out / "judged.json").read_text())["figures"]["all"]["all"]["score"] == 1.0
    assert [line.get("score") for line in records.read(out / "judged.jsonl")] == [1.0, None]


def test_a_budget_stops_the_judge_and_more_money_continues_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [mmar_row(n) for n in range(4)]
    out = finished(tmp_path, rows, [answered(row) for row in rows])
    with serving(say=lambda body: (graded(1, 2), "stop")) as server:
        options = ["--judge", "m", "--url", server.url, "--price-in", "1000", "--in-flight", "1"]
        assert run(["judge", str(out), *options, "--max-cost", "2"]) == 1
        assert "the budget of 2 is spent" in capsys.readouterr().out and 0 < server.num < 20
        assert run(["judge", str(out), *options]) == 0
        assert server.num == 20


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--in-flight", "0"], "must be at least 1"),
        (["--max-cost", "2"], "needs --price-in and --price-out"),
        (["--questions", "gone.jsonl"], "its questions, gone.jsonl, are not there"),
    ],
)
def test_mistakes_are_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], words: str
) -> None:
    out = finished(tmp_path, [mmar_row(0)], [answered(mmar_row(0))])
    assert run(["judge", str(out), "--judge", "recorded:none.jsonl", *more]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_a_run_that_no_model_judges_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = finished(tmp_path, [mmar_row(0)], [answered(mmar_row(0))], name="adqa")
    assert run(["judge", str(out), "--judge", "m"]) == 2
    assert "there are mmar, mmau-pro-open, bigbench-audio" in capsys.readouterr().err
