"""runs/reproduce.sh: each stage reads the files that the one before writes, and all of them run with nano."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "runs" / "reproduce.sh"


def settings(name: str) -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load((ROOT / "runs" / name).read_text(encoding="utf-8"))
    return found


def reproduce(*stages: str, **variables: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run([SCRIPT, *stages], capture_output=True, text=True, env=environment, cwd=ROOT)


def test_a_stage_reads_what_the_one_before_writes() -> None:
    """paper_sft.yaml read eaqa-sft.jsonl, a file that no stage wrote."""
    script = SCRIPT.read_text(encoding="utf-8")
    sft, grpo = settings("paper_sft.yaml"), settings("paper_grpo.yaml")
    assert "out=${OUT:-out/paper}" in script
    assert (sft["data"], grpo["data"]) == ("out/paper/data/all/sft.jsonl", "out/paper/data/all/rl.jsonl")
    assert 'relisten data join "$out/data/all" "$out"/data/sets/{audioset,musicbench}' in script
    assert (sft["output"], grpo["output"]) == ("out/paper/sft", "out/paper/grpo")
    assert grpo["model"] == f"{sft['output']}/model"
    for corpus in ("audioset", "musicbench"):
        assert settings(f"paper_{corpus}.yaml")["out"] == f"out/paper/data/sets/{corpus}"


def test_the_page_names_every_stage_of_the_script() -> None:
    page = (ROOT / "docs" / "reproduce.md").read_text(encoding="utf-8")
    [stages] = re.findall(r"^\[ \$\{#stages.*stages=\((.*)\)$", SCRIPT.read_text(encoding="utf-8"), re.MULTILINE)
    for stage in stages.split():
        assert f"`{stage}`" in page


def test_a_stage_that_there_is_not_is_refused(tmp_path: Path) -> None:
    done = reproduce("train", SMOKE="1", OUT=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("no stage train; there are weights, data, build")


def test_missing_downloads_are_named(tmp_path: Path) -> None:
    (tmp_path / "data" / "audioset").mkdir(parents=True)
    done = reproduce("data", OUT=str(tmp_path / "out"), DATA=str(tmp_path / "data"))
    assert done.returncode == 1
    assert f"missing: {tmp_path}/data/musicbench/MusicBench_train.json" in done.stderr
    assert not (tmp_path / "out" / "done" / "data").exists()


@pytest.mark.slow
def test_every_stage_runs_with_nano_and_is_done_once(tmp_path: Path) -> None:
    """Five minutes on two cores."""
    done = reproduce(SMOKE="1", OUT=str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    rows = re.findall(
        r"^\| mmar \| ([A-D]) \|.*\| (\d+) \| 0\.\d+ \|", (tmp_path / "table.md").read_text(), re.MULTILINE
    )
    assert [row for row, _ in rows] == ["A", "B", "C", "D"]
    assert len({questions for _, questions in rows}) == 1
    weights = {(tmp_path / stage / "model" / "model.safetensors").read_bytes() for stage in ("sft", "grpo")}
    assert len(weights) == 2, "GRPO changed nothing: the answers of each group earned the same"
    again = reproduce(SMOKE="1", OUT=str(tmp_path))
    assert again.stdout.count(": done (remove") == 6
