"""The benchmarks: every side does equal work, and every figure is there; the figures themselves are not asserted."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import make_example

from benchmarks import beside_vllm, data_build, engine, evaluation, full_checkpoint, gpu, training
from benchmarks.timing import measure, noise
from relisten.cli import run
from relisten.engine.engine import GenerationConfig
from relisten.models import load
from relisten.models.qwen2_5_omni import Qwen2_5Omni
from relisten.training.batch import model_inputs, pack
from relisten.training.trainer import token_logprobs_of

WORK = training.Work(group_size=3, seconds=5.0, segments=2, sampled=24)


def tiny() -> Qwen2_5Omni:
    return engine.random_model(
        hidden_size=32, num_layers=1, num_heads=1, num_key_value_heads=1, intermediate_size=32, audio_width=16,
        audio_layers=1, audio_heads=1, audio_intermediate_size=16, num_mel_bins=16,
    )  # fmt: skip


def test_every_side_of_the_engine_does_equal_work() -> None:
    model = tiny()
    times, traces = measure(engine.sides(model), 1)
    times |= measure(engine.steps(model, 1), 1)[0]
    table, result = engine.report(times, traces)
    assert len(traces["no pause"].listens) == 1 and len(traces["one"].listens) == 4
    assert all(sum(trace.sampled) == engine.NUM_SAMPLED for trace in traces.values())
    assert len(table.rows) == len(result["ratios"]) == len(engine.RATIOS) and json.dumps(result)
    traces["naive"] = traces["no pause"]
    with pytest.raises(AssertionError, match="unequal work"):
        engine.report(times, traces)


VLLM = """#!{python}
import json, sys
work = json.load(open(sys.argv[2]))
assert work["token_ids"].count({audio_id}) == 1, "vLLM repeats the placeholder itself"
print("a line of vLLM's own")
for line in sys.stdin:
    num, prompt = int(line), len(work["token_ids"]) - 1 + {audio_tokens}
    if num > 2:
        sys.exit("out of memory")
    print("result", json.dumps({{"cpu": 0.5, "tokens": num * {sampled}, "prompt": prompt}}), flush=True)
"""


def test_the_engine_is_measured_beside_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """vLLM is scripted here: it is given the same question, and its work is compared with the engine's."""
    model, sampled = tiny(), 6
    for name, value in {"random_model": lambda: model, "SECONDS": 1.0, "NUM_SAMPLED": sampled}.items():
        monkeypatch.setattr(beside_vllm, name, value)
    python, out = tmp_path / "env" / "bin" / "python", tmp_path / "out.json"
    command = [str(tmp_path / "env"), "--repeats", "1", "--out", str(out), "--rows"]
    assert run([*command, "1"], beside_vllm.commands) == 2
    assert "runs/vllm_cpu.sh setup" in capsys.readouterr().err
    python.parent.mkdir(parents=True)
    told = {"python": sys.executable, "audio_id": model.audio_id, "audio_tokens": model.num_audio_tokens(model.rate)}
    python.write_text(VLLM.format(**told, sampled=sampled))
    python.chmod(0o700)
    assert run([*command, "1", "--rows", "2"], beside_vllm.commands) == 0
    times = json.loads(out.read_text())["times"]
    assert times.keys() == {"1", "2"} and all(side["vllm"] == [0.5] and side["local"][0] > 0 for side in times.values())
    assert "Best of 1." in capsys.readouterr().out
    assert run([*command, "3"], beside_vllm.commands) == 2
    assert "vLLM ended: out of memory" in capsys.readouterr().err
    python.write_text(VLLM.format(**told, sampled=sampled - 1))
    with pytest.raises(AssertionError, match="unequal work"):
        beside_vllm.beside_vllm(tmp_path / "env", rows=(1,), repeats=1)


def test_engine_and_usual_loop_write_the_same(build_model: Callable[..., Qwen2_5Omni]) -> None:
    model = build_model(layers=2)
    examples = [make_example(1.0, seed) for seed in range(2)]
    [table], result = evaluation.compare(model, examples, GenerationConfig(max_new_tokens=5), 2, 1)
    assert set(result["same"].values()) == {2} and len(table.rows) == 3


def test_answers_are_as_long_as_said_and_hear_as_much_at_places_of_their_own() -> None:
    [row] = training.encoded(training.tiny(), WORK)
    traces = [one.trace for one in row]
    assert [sum(trace.sampled) for trace in traces] == [18, 24, 30]
    assert all(len(trace.listens) == 3 and not trace.refusals for trace in traces)
    assert len({trace.listens[1].segment for trace in traces}) == len({trace.listens[1].at for trace in traces}) == 3


def test_the_plain_trainer_is_given_the_same_rows() -> None:
    """Its forward gives our log-probabilities, once placeholders are left out of them as we do."""
    model = training.tiny()
    rows = [[one] for row in training.encoded(model, WORK) for one in row]
    batch = training.plain(rows)
    labels = batch.pop("labels")[:, 1:]
    with torch.no_grad():
        logits = model.module(**batch).logits[:, :-1][labels != -100]
        ours, _ = token_logprobs_of(model, model_inputs(pack(rows)))
    logits[:, model.banned_token_ids] = -torch.inf
    theirs = logits.log_softmax(-1).gather(1, labels[labels != -100][:, None])[:, 0]
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=0)


def test_the_peak_is_what_was_held_at_once() -> None:
    found: dict[str, float] = {}
    with training.peak_bytes(found):
        for _ in range(3):
            one = torch.ones(1000)
            two = one + 1
            del one, two
    assert 8000 <= found["peak"] < 9000


def test_training_gives_tables_a_file_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--quick", "--questions", "2", "--out", str(tmp_path / "f.json"), "--plot", str(tmp_path / "f.png")]
    assert run(command, training.commands) == 0
    result = json.loads((tmp_path / "f.json").read_text())
    assert len(result["memory"]) == 4 and min(result["memory"].values()) > 0 and len(result["growth"]) == 3
    losses = [result["losses"][side] for side in (training.PLAIN, training.OURS)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02), "placeholders are banned in ours alone"
    assert (tmp_path / "f.png").stat().st_size > 1000
    said = capsys.readouterr().out
    assert "traces per minute" in said and "SFT tokens per second" in said and "{'loss'" not in said
    assert run(["--repeats", "0"], training.commands) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_recordings_of_noise_are_as_long_as_said() -> None:
    assert [round(e.audio.duration, 3) for e in noise(training.tiny(), 2.0, 3)] == [2.0] * 3  # type: ignore[union-attr]
    assert next(iter(data_build.clips(1))).duration == 10.0


def test_the_gpu_check_runs_on_a_tiny_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gpu.jsonl"
    parts = ["machine", "decode", "profile", "others", "equal", "load"]
    assert run(["--tiny", "--out", str(out), "--parts", *parts], gpu.commands) == 0
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert {line["part"] for line in found} == {*parts, "build", "naive", "generate", "done"} - {"others"}
    assert not [line for line in found if "failed" in line or "skipped" in line]
    heard = [line["heard"] for line in found if line["part"] == "decode"]
    assert heard == [0, 2, 0, 8], "two segments in each answer that has any"
    exact = [line for line in found if line["part"] == "equal" and line["dtype"] == "torch.float32"]
    assert max(exact[0]["packed_max"], exact[0]["alone_max"]) < 1e-4
    if not torch.cuda.is_available():
        assert run(["--out", str(out)], gpu.commands) == 2 and "--tiny" in capsys.readouterr().err
    assert run(["--tiny", "--out", str(out), "--parts", "decod"], gpu.commands) == 2
    assert "decode" in capsys.readouterr().err


@pytest.mark.slow
def test_the_gpu_check_trains_a_tiny_model(tmp_path: Path) -> None:
    out = tmp_path / "gpu.jsonl"
    assert run(["--tiny", "--out", str(out), "--parts", "grpo", "sft", "full"], gpu.commands) == 0
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert not [line for line in found if "failed" in line or "skipped" in line]
    norms = {line["part"]: line["grad_norm"] for line in found if "grad_norm" in line}
    assert norms.keys() == {"grpo", "sft"} and min(norms.values()) > 0


def test_a_checkpoint_is_written_piece_by_piece_and_loads(tmp_path: Path) -> None:
    """The same as at full size: names, shards and settings are those that `relisten.load` expects."""
    written = full_checkpoint.write(tmp_path / "random", layers=2)
    model = load(tmp_path / "random")
    assert written == sum(parameter.nbytes for parameter in model.module.parameters())
    assert len(list((tmp_path / "random").glob("model-*.safetensors"))) == len(list(model.module.named_parameters()))


@pytest.mark.slow
def test_a_checkpoint_at_full_size_takes_no_more_memory_than_its_weights(tmp_path: Path) -> None:
    """18 GB on disk and in memory; python -m pytest -m slow tests/test_benches.py -k full_size"""
    written = full_checkpoint.write(tmp_path / "random")
    found = full_checkpoint.ask(tmp_path / "random", 2)
    assert found["parameters"] == 8_931_813_888 and found["anonymous_GB"] < written / 1e9 + 1
