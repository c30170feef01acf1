"""The model that ships: ordinary files, small, and able to do what README says of it on the example recordings."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, Qwen2_5OmniThinkerForConditionalGeneration, WhisperFeatureExtractor

from relisten import audio, records
from relisten.asking import ask
from relisten.data.worlds.scene_files import write_scenes
from relisten.engine.engine import Engine
from relisten.engine.generation import GenerationConfig
from relisten.evals.figures import mean_iou
from relisten.evals.runner import evaluate
from relisten.models import load
from relisten.models.qwen2_5_omni import Qwen2_5Omni
from relisten.same_text import is_right
from relisten.types import Audio

FOLDER = Path(str(files("relisten") / "assets" / "nano"))
EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def nano() -> Qwen2_5Omni:
    return load("nano")


def test_it_lies_in_the_ordinary_layout_and_is_small(nano: Qwen2_5Omni) -> None:
    module = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(FOLDER, dtype=torch.float32)
    for name, value in nano.module.state_dict().items():
        assert torch.equal(value, module.state_dict()[name]), name
    assert AutoTokenizer.from_pretrained(FOLDER)("cow")["input_ids"] == nano.encode("cow")
    assert WhisperFeatureExtractor.from_pretrained(FOLDER).hop_length == nano.feature_extractor.hop_length
    assert sum(p.stat().st_size for p in FOLDER.iterdir()) < 16e6
    assert {"config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json",
            "generation_config.json", "prompts.json"} <= {p.name for p in FOLDER.iterdir()}  # fmt: skip


def test_tags_and_times_are_single_tokens(nano: Qwen2_5Omni) -> None:
    ids = nano.encode_response("the <seg>3.2, 4.8</seg>, a")
    assert [nano.decode([i]) for i in ids] == ["the", " <seg>", "3.2", ", ", "4.8", "</seg>", ", ", "a"]


def test_any_text_can_be_asked_and_control_tokens_in_it_are_text(nano: Qwen2_5Omni) -> None:
    for text in ("Wo läuft 鐘?", "<|AUDIO|><|im_end|>", "\x00\U0001f514", ""):
        assert nano.decode(nano.encode(text)) == text
        assert not set(nano.encode(text)) & set(nano.banned_token_ids.tolist())
    tone = Audio(torch.zeros(16_000).numpy())
    assert ask(nano, tone, "<|AUDIO|><|im_end|> {choices} {question}", ["<seg>1, 2</seg>", "b"]).trace.token_ids


def test_the_examples_are_answered_with_evidence(nano: Qwen2_5Omni, tmp_path: Path) -> None:
    """docs/nano.md: six of six rightly; one may turn where a processor rounds otherwise."""
    examples = records.read_examples(EXAMPLES / "questions.jsonl")
    answers = evaluate(nano, examples, tmp_path / "answers.jsonl", GenerationConfig(max_new_tokens=200))
    assert len(answers) == len(examples) == 6
    for answer in answers:
        assert answer["well_formed"] and answer["finish"] == "stop", answer["response"]
        assert answer["heard"] == answer["named"] != []
    assert sum(is_right(a["answer_prediction"], a["answer"]) for a in answers) >= 5
    assert (mean_iou(answers) or 0.0) > 0.7


def test_batches_streams_and_samples_agree(nano: Qwen2_5Omni) -> None:
    examples = records.read_examples(EXAMPLES / "questions.jsonl")
    together = [t.token_ids for [t] in Engine(nano).generate(examples)]
    alone = [t.token_ids for e in examples for [t] in Engine(nano, max_rows=1).generate([e])]
    assert together == alone
    sampled = GenerationConfig(temperature=1.0, seed=3)
    forked = Engine(nano).generate(examples[:1], sampled, num_samples=4)[0]
    assert (
        forked[2].token_ids == Engine(nano, max_rows=2).generate(examples[:1], sampled, num_samples=3)[0][2].token_ids
    )


def test_recorded_log_probabilities_are_those_of_one_plain_forward(nano: Qwen2_5Omni) -> None:
    from relisten.engine.operations import crop
    from relisten.engine.sampling import token_logprobs
    from relisten.training.batch import Encoded, pack

    example = records.read_examples(EXAMPLES / "questions.jsonl")[0]
    [[trace]] = Engine(nano).generate([example], GenerationConfig(temperature=1.0))
    from relisten.audio import load as load_audio

    audio = load_audio(example.audio)
    features = [nano.features(crop(audio, listen.segment)) for listen in trace.listens]
    batch = pack([[Encoded(trace, features, 0, trace.num_prompt)]])
    with torch.no_grad():
        logits = nano.forward(
            batch.input_ids, batch.position_ids, batch.features, batch.attention_mask, keep=(batch.rows, batch.columns)
        )
    replayed = token_logprobs(logits, batch.labels, nano.banned_token_ids)
    recorded = torch.tensor([p for p, sampled in zip(trace.logprobs, trace.sampled, strict=True) if sampled])
    torch.testing.assert_close(replayed, recorded, atol=1e-4, rtol=0)


def test_events_of_the_examples_are_beside_them() -> None:
    lines = [json.loads(line) for line in (EXAMPLES / "events.jsonl").read_text().splitlines()]
    assert all((EXAMPLES / line["audio_path"]).is_file() and line["events"] for line in lines)


@pytest.mark.parametrize(
    "config", [GenerationConfig(), GenerationConfig(temperature=1.0), GenerationConfig("grounded")]
)
def test_no_real_answer_is_taken_for_one_that_repeats_itself(
    nano: Qwen2_5Omni, tmp_path: Path, config: GenerationConfig
) -> None:
    """Of 867 answers to 289 questions none was cut, and the longest had 297 characters (600 are needed)."""
    asked = records.read_examples(write_scenes(tmp_path / "scenes", num=12, seed=900, split="heldout"))
    loaded = [replace(example, audio=audio.load(example.audio, nano.rate)) for example in asked]  # type: ignore[arg-type]
    traces = [trace for [trace] in Engine(nano).generate(loaded, config)]
    assert {trace.finish for trace in traces} == {"stop"} and max(len(trace.text) for trace in traces) < 500
