"""Analyses: figures that can be checked by hand, runs as they lie on the disk, paired changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relisten import records
from relisten.cli import run as relisten
from relisten.evals import analysis
from relisten.evals.analysis import analyse, attention_curve, overlap_rate
from relisten.evals.comparison import compare
from relisten.evals.controls import controlled
from relisten.evals.predictions import read_runs
from relisten.evals.runs import Run, checked, read_run
from relisten.evals.scoring import wilson
from relisten.plotting import svg
from relisten.reports import controls
from relisten.reports.tables import dynamics_table, uses_table
from relisten.training.plots import Series, dynamics_figure, panels, read_metrics
from relisten.types import Segment


def answer(id: str, right: bool | None = True, **fields: Any) -> dict[str, Any]:
    """A record; right None: unparsed."""
    said = {True: "bell", False: "cow", None: None}[right]
    given: dict[str, Any] = {
        "id": id, "question": f"{id}?", "choices": ["bell", "cow"], "answer": "bell", "answer_prediction": said,
        "response": "<think>a <seg>1, 2</seg> b</think><answer>bell</answer>", "named": [], "heard": [],
        "refusals": [], "finish": "stop", "kind": "after", "gold": [], "duration": 10.0,
    }  # fmt: skip
    return given | fields


def make_run(answers: list[dict[str, Any]], name: str = "own", format: str = "interleaved") -> Run:
    return Run(name, Path(name), answers, {"format": format})


def write_run(folder: Path, answers: list[dict[str, Any]]) -> Path:
    for line in answers:
        records.append(folder / "answers.jsonl", line)
    records.write_atomic(folder / "config.json", json.dumps({"format": "interleaved", "questions": "gone.jsonl"}))
    return folder


@pytest.mark.parametrize("format", ["3", "[1]", '"sung"'])
def test_a_format_that_there_is_not_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str], format: str) -> None:
    run = write_run(tmp_path / "run", [answer("a")])
    records.write_atomic(run / "config.json", f'{{"format": {format}}}')
    for command in (["analyse", str(run)], ["report", str(run), "--out", str(tmp_path / "r.html")]):
        assert relisten(command) == 2
        assert "config.json: no format" in capsys.readouterr().err


def test_time_heard_twice_is_the_overlap() -> None:
    assert overlap_rate([Segment(0, 2), Segment(1, 3)]) == pytest.approx(1 - 3 / 4)
    assert overlap_rate([Segment(0, 2), Segment(0, 2)]) == 0.5
    assert overlap_rate([Segment(4, 5), Segment(0, 1)]) == 0.0
    assert overlap_rate([]) == 0.0


def test_every_figure_of_a_small_run_is_what_the_hand_gives() -> None:
    answers = [
        answer("a", heard=[[0, 2], [1, 3]], named=[[0, 2], [1, 3]], gold=[[0, 2]], seconds=1.0),
        answer("b", False, heard=[[9, 10]], named=[[9, 12]], gold=[[0, 2]], seconds=3.0),
        answer("c", None, refusals=[["<seg>1, 1.1</seg>", "too short"]], named=[[1, 1.1]], finish="length"),
        answer("d", None, error="no such file", finish="error"),
    ]
    found = analyse(make_run(answers))
    assert (found.num, found.errors) == (3, 1)
    assert found.references == 1.0 and found.named == pytest.approx(4 / 3)
    assert (found.with_one, found.with_two) == pytest.approx((2 / 3, 1 / 3))
    assert found.counts == {0: 1, 1: 1, 2: 1}
    assert found.seconds == pytest.approx(5 / 3) and found.overlap == pytest.approx(0.25)
    assert found.place is not None and found.place.median == 2.0
    assert found.timeline is not None and found.timeline[1:3] == pytest.approx([1 / 3, 1 / 3])
    assert found.timeline[9] == pytest.approx(1 / 3) and sum(found.timeline) == pytest.approx(1)
    assert found.iou == 0.5 and found.hit_rate == 0.5 and found.precision == pytest.approx(1 / 3)
    assert found.latency is not None and found.latency.mean == 2.0
    assert found.words is not None and found.words.mean == 5.0
    assert found.refusals == {"too short": 1} and found.finishes == {"stop": 2, "length": 1}
    assert [(name, t.num, t.right) for name, t in found.by_iou.items()] == [("0", 1, 0), ("0.75 to 1", 1, 1)]
    json.dumps(analysis.to_json(found), allow_nan=False)


def test_operations_are_counted_and_answers_with_and_without_them_compared() -> None:
    """Answers with <slow> and the like were counted as if every segment had been heard as it is."""
    ways = ["slow", "seg"], ["band 300 3400"], ["slow", "slow"], []
    answers = [
        answer(f"q{n}", n != 2, heard=[[0, k + 1] for k in range(len(names))], operations=names)
        for n, names in enumerate(map(list, ways))
    ]
    found = analyse(make_run(answers))
    assert list(found.uses) == ["seg", "slow", "band"]
    slow, band = found.uses["slow"], found.uses["band"]
    assert (slow.num, slow.seconds) == (3, pytest.approx(4 / 3)) and (band.num, band.seconds) == (1, 1.0)
    assert slow.used is not None and slow.others is not None
    assert [(t.num, t.right, t.interval) for t in (slow.used, slow.others)] == [
        (2, 1, wilson(1, 2)),
        (2, 2, wilson(2, 2)),
    ]
    assert uses_table([found]).rows[1] == ["slow", "0.500 (0.09–0.91; 2)", "1.000 (0.34–1.00; 2)", "3", "1.33"]
    [_, written, _] = json.loads(json.dumps(analysis.to_json(found)))["uses"]
    assert written["segments"] == 3 and written["others"] == {"n": 2, "accuracy": 1.0, "interval": [0.3424, 1.0]}
    alone = analyse(make_run([answer("a", heard=[[0, 1]], operations=["slow"])])).uses["slow"]
    assert alone.others is None
    assert analyse(make_run([answer("a", heard=[[0, 1]], operations=["seg"]), answer("b", heard=[[0, 1]])])).uses == {}


def test_groups_whose_accuracy_is_not_known_are_left_out() -> None:
    """A run whose right answers are withheld had accuracies of 0.000 by length, and a group that a model judges too."""
    withheld = [answer("a") | {"answer": None}, answer("b", heard=[[0, 1]], operations=["slow"]) | {"answer": None}]
    found = analyse(make_run(withheld))
    assert found.by_seconds == {} and found.uses["slow"].used is None
    judged = answer("a", kind="open", rule="judge")
    assert list(analysis.by([judged, answer("b")], "kind")) == ["after"]


@pytest.mark.parametrize(
    "ways", [["slow"], ["slow", "band"], ["slow", "band x y"], ["slow", ""], ["slow 1 2", "seg"], ["slow", 3]]
)
def test_operations_that_do_not_belong_to_what_was_heard_are_refused(ways: list[Any]) -> None:
    with pytest.raises(ValueError, match="line 1: 'operations' must"):
        checked("line 1", answer("a", heard=[[0, 1], [2, 3]], operations=ways))


def test_the_table_of_controls_says_which_questions_could_not_be_asked() -> None:
    """They count as wrong, so a change may come from them alone, and the table did not say so."""
    own, silent = make_run([answer("a"), answer("b")]), make_run([answer("a"), answer("b", None, error="gone")], "s")
    [table, *_] = controls.tables(controlled(own, {"silence": silent}), "t")
    assert table.note.endswith("count as wrong; from the first row to the last there are 0, 1.")
    assert "could not be asked" not in controls.tables(controlled(own, {"silence": own}), "t")[0].note


def test_grounded_answers_refer_to_what_they_name_within_the_recording() -> None:
    found = analyse(make_run([answer("a", named=[[8, 12], [11, 12]])], format="grounded"))
    assert found.references == 1.0 and found.seconds == 2.0


def test_accuracy_by_length_has_the_edge_in_the_lower_bin() -> None:
    answers = [answer("a", duration=10.0), answer("b", False, duration=10.5), answer("c", duration=500.0)]
    bins = analysis.by_seconds(make_run([*answers, answer("d", duration=None)]))
    found = {name: t.accuracy for name, t in bins.items()}
    assert found == {"5 to 10 s": 1.0, "10 to 20 s": 0.0, "over 120 s": 1.0}


def test_a_conditioned_answer_without_segments_has_no_overlap_to_count() -> None:
    assert analyse(make_run([answer("a", gold=[[0, 1]])], format="conditioned")).iou is None
    assert analyse(make_run([answer("a", gold=[[0, 1]])], format="grounded")).iou == 0.0


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / parent / "own", [answer("a")]) for parent in ("x", "y")]
    assert [run.name for run in read_runs(folders)] == ["x/own", "y/own"]
    with pytest.raises(ValueError, match="named twice"):
        read_runs([folders[0], folders[0]])
    with pytest.raises(ValueError, match=r"no answers\.jsonl"):
        read_run(tmp_path)


def test_changes_are_paired_by_question_and_sorted() -> None:
    first = [answer(f"q{n}", n % 2 == 0, kind="after" if n < 6 else "word") for n in range(10)]
    second = [answer(f"q{n}", n < 6, kind="after" if n < 6 else "word") for n in range(9, -1, -1)]
    found = compare(make_run(first), make_run([*second, answer("other")], "next"))
    assert [c.name for c in found.by["kind"]] == ["after", "word"]
    assert found.total.paired.accuracy == (0.5, 0.6) and found.total.paired.better == (2, 3)
    assert found.total.paired.p == pytest.approx(1.0)
    assert (found.only_a, found.only_b) == (0, 1)
    with pytest.raises(ValueError, match="another one"):
        compare(make_run(first), make_run([answer("q0", question="else?")]))
    withheld = make_run([answer("q0") | {"answer": None}])
    with pytest.raises(ValueError, match="withheld"):
        compare(withheld, withheld)
    with pytest.raises(ValueError, match="share no question"):
        compare(make_run(first), make_run([answer("z")]))


def test_attention_is_averaged_over_the_answers_that_are_as_long() -> None:
    long, short = np.array([[0.5, 0, 0.5, 0], [0.1, 0.1, 0.8, 0]]), np.array([[0.1, 0, 0.9, 0]])
    curve = attention_curve("own", [long, short])
    assert curve.num.tolist() == [2, 1]
    assert curve.shares[:, :2].sum(1) == pytest.approx([0.3, 0.2])
    assert curve.audio(0) == pytest.approx((0.5 + 0.2 + 0.1) / 3) and curve.audio(25) is None


def test_training_metrics_of_any_name_are_read_and_a_resumed_step_counts_once(tmp_path: Path) -> None:
    for step, value in ((0, 0.1), (1, 0.9), (1, 0.3)):
        line = {"step": step, "time": "now", "loss": 1.0, "reward/accuracy": value, "note": "x", "gap": None}
        records.append(tmp_path / "metrics.jsonl", line)
    series = read_metrics(tmp_path)
    assert [(s.name, s.values) for s in series] == [("reward/accuracy", [0.1, 0.3]), ("loss", [1.0, 1.0])]
    assert dynamics_table(series).rows[0][2:4] == ["0.1", "0.3"]
    assert "<svg" in svg(dynamics_figure(series))


def test_what_belongs_together_shares_a_panel_and_what_never_changes_has_none() -> None:
    steps, moving = [1, 2, 3], [0.1, 0.2, 0.3]
    names = ["epoch", "reward_b", "clipped", "reward_a", "heard_once", "mine", "heard_twice", "reward"]
    series = [Series(n, steps, [0.0] * 3 if n == "clipped" else moving) for n in names]
    drawn = panels([*series, Series("train_loss", [3], [0.5])])
    assert [(title, [s.name for s in found]) for title, found in drawn] == [
        ("reward", ["reward"]), ("rewards", ["reward_a", "reward_b"]),
        ("share of answers", ["heard_once", "heard_twice"]), ("mine", ["mine"]),
    ]  # fmt: skip


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = [answer("a", heard=[[0, 2]], named=[[0, 2]], gold=[[0, 2]]), answer("b", False, kind="word")]
    own = write_run(tmp_path / "own", answers)
    other = write_run(tmp_path / "other", [answer("a", False), answer("b", kind="word")])
    assert relisten(["analyse", str(own), str(other), "--out", str(tmp_path / "out")]) == 0
    assert "references per response" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "analysis.json").read_text())["runs"][0]["references"] == 0.5
    assert {"listening.svg", "by-iou.svg", "by-seconds.svg"} <= {p.name for p in (tmp_path / "out").iterdir()}
    assert relisten(["compare", str(own), str(other), "--out", str(tmp_path / "change")]) == 0
    assert "-1.000" in capsys.readouterr().out and (tmp_path / "change" / "changes-kind.svg").is_file()
    hidden = write_run(tmp_path / "hidden", [answer("a") | {"answer": None}])
    assert relisten(["analyse", str(hidden), "--out", str(tmp_path / "none")]) == 0
    said = capsys.readouterr().out
    assert "accuracy by" not in said and "the right answers are withheld" in said
    assert relisten(["analyse", str(tmp_path)]) == 2
    assert "no answers.jsonl" in capsys.readouterr().err
    assert relisten(["analyse"]) == 2
