"""A study's report from answers that lie there: what is paired, what is left out, what stands in which table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_analysis import answer

from relisten import records
from studies.echo import report as study_report
from studies.echo.rows import ARMS
from studies.echo.study import StudyConfig, arm_folder, arms_of, located_file, stages_of

HEARD = {"heard": [[0.5, 1.0]], "named": [[0.5, 1.0]], "gold": [[0.4, 1.0]], "duration": 2.0, "seconds": 0.5}


def study(folder: Path, config: StudyConfig, located: bool = True) -> list[Path]:
    """Answers to eight questions for every row: from D on, more of them are right, by one more in the second seed."""
    folders = [folder / f"seed-{seed}" for seed in range(config.seeds)]
    for seed, place in enumerate(folders):
        for key, arm in arms_of(config, seed).items():
            rights = 6 + seed if arm.model.startswith(("rl-echo", "rl-mixed")) else 3
            out = arm_folder(place, key)
            for n in range(8):
                records.append(out / "answers.jsonl", answer(f"q{n}", n < rights, **HEARD) | {"kind": "word"})
            records.write_atomic(out / "config.json", json.dumps({"format": arm.format}))
        for name in stages_of(config, seed):
            line = {"step": 1, "reward": 0.5, "segments": 1.0, "train_runtime": 60.0}
            records.append(place / "models" / name / "metrics.jsonl", line)
        if located:
            records.write_atomic(place / "located.json", '{"located": 0.8}')
    return folders


def section(markdown: str, title: str) -> str:
    return markdown.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_rows_differences_and_seeds(tmp_path: Path) -> None:
    config = StudyConfig(output=tmp_path, seeds=2, side_seeds=1, gentle={"steps": 1})
    html, *_ = study_report.write(config, study(tmp_path, config), "python -m studies.echo x")
    text = html.with_suffix(".md").read_text()
    rows = section(text, "Rows")
    assert all(f"| {key} | {arm.title}" in rows for key, arm in ARMS.items() if not arm.control)
    assert "| D | P, then RL, interleaved (Echo) | 16 | 0.812 |" in rows
    assert "D: 0.700, 107, 2.12" in rows  # the paper's own
    decides = section(text, "What decides")
    assert "B' to D: hearing again, after RL (the paper's claim) | +0.375 | +0.500 | +0.438" in decides
    # One seed alone has D': it is compared with the same seed's D.
    assert "D to D': other questions for RL | 8 |" in decides
    assert "D to D': other questions for RL | +0.000 |  | +0.000 | - |" in decides
    assert "BF fine" in section(text, "Controls") and "BF fine" not in rows
    made = section(text, "How it was made")
    assert "| base-fine |" in made and "0.80, 0.80" in made


def test_a_study_of_some_rows_has_no_empty_sections(tmp_path: Path) -> None:
    config = StudyConfig(output=tmp_path, seeds=1, rows=("A", "CF"))
    html, *_ = study_report.write(config, study(tmp_path, config), "python -m studies.echo x")
    text = html.with_suffix(".md").read_text()
    assert "## Rows" in text and "## By kind of question" in text
    assert "## Controls" not in text and "## What decides" not in text and "## During RL" not in text


def test_rows_for_which_nothing_is_trained(tmp_path: Path) -> None:
    config = StudyConfig(output=tmp_path, seeds=2, rows=("nano", "nano grounded"))
    html, *_ = study_report.write(config, study(tmp_path, config, located=False), "python -m studies.echo x")
    text = html.with_suffix(".md").read_text()
    assert "nano was made beside the study" in section(text, "Rows") and "## How it was made" not in text


def test_a_study_on_the_other_base_alone(tmp_path: Path) -> None:
    config = StudyConfig(output=tmp_path, rows=("B mid", "D gentle"), gentle={"steps": 1})
    assert [*stages_of(config, 0)] == ["clips", "base-mid", "cold-mid", "rl-echo-gentle"]
    [folder] = study(tmp_path, config, located=False)
    records.write_atomic(located_file(folder, "base-mid"), '{"located": 0.7}')
    html, *_ = study_report.write(config, [folder], "python -m studies.echo x")
    assert "Events that base-mid locates by name, within 0.2 s: 0.70." in html.with_suffix(".md").read_text()
    assert "D gentle" not in arms_of(StudyConfig(), 0) and "D mid" in arms_of(StudyConfig(), 0)


@pytest.mark.parametrize(("seeds", "expected"), [([0.1], None), ([0.1, 0.3], (0.2 - 1.2706, 0.2 + 1.2706))])
def test_the_interval_over_seeds_is_students(seeds: list[float], expected: tuple[float, float] | None) -> None:
    found = study_report.over_seeds(seeds)
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-3))
