"""Every base as a tiny random model of the real class, and what each must pass beyond `models.conformance`.

`python tests/bases.py` prints the table of docs/bases.md: bases by checks. With `--sizes` it prints how many parameters
the published configurations have.
"""

from __future__ import annotations

import base64
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_audio, make_example, make_model, make_tokenizer
from torch import Tensor
from transformers import (
    AudioFlamingo3Config,
    AudioFlamingo3ForConditionalGeneration,
    AudioFlamingo3Processor,
    MusicFlamingoConfig,
    MusicFlamingoForConditionalGeneration,
    MusicFlamingoProcessor,
    PreTrainedTokenizerFast,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    VoxtralConfig,
    VoxtralForConditionalGeneration,
    VoxtralProcessor,
    WhisperFeatureExtractor,
)

from relisten.engine.generation import GenerationConfig
from relisten.engine.naive import naive
from relisten.engine.operations import crop
from relisten.engine.scripted import END, ScriptedEngine, script
from relisten.models import adapter, conformance
from relisten.models.audioflamingo3 import AudioFlamingo3
from relisten.models.musicflamingo import MusicFlamingo
from relisten.models.qwen2_audio import Qwen2Audio
from relisten.models.voxtral import Voxtral
from relisten.training.batch import encode, model_inputs, pack, replay
from relisten.training.config import SftConfig
from relisten.training.losses import group_advantages, grpo_loss, sft_loss, token_weights
from relisten.training.trainer import set_trained, token_logprobs_of
from relisten.types import Audio, Example

WINDOW = 6
"""Seconds of an encoder's window; the real ones have 30."""
PIECES = (0.2, 0.7, 1.0, WINDOW - 0.03, WINDOW)
"""Seconds of audio whose log-mel and tokens are compared with the processor's."""
LONGER = (WINDOW + 0.01, 2 * WINDOW, 2 * WINDOW + 1.3)
TEXT = "Which sound comes second? Choose the answer from ['a dog', 'two knocks']."

TEXT_SIZE: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 4096, "initializer_range": 0.2,
}  # fmt: skip
AUDIO_SIZE: dict[str, Any] = {"num_mel_bins": 16, "max_source_positions": 50 * WINDOW, "initializer_range": 0.2}


def extractor() -> WhisperFeatureExtractor:
    """Whisper's log-mel with few bins and short windows."""
    return WhisperFeatureExtractor(feature_size=16, chunk_length=WINDOW)


def qwen_tokenizer(*more: str) -> PreTrainedTokenizerFast:
    """Qwen's real vocabulary, cut to a page of text, with the placeholders of a base."""
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(more)}, replace_extra_special_tokens=False)
    return tokenizer


def qwen2_audio() -> Qwen2Audio:
    tokenizer = qwen_tokenizer()
    token_id = tokenizer.convert_tokens_to_ids
    config = Qwen2AudioConfig(
        text_config=text("qwen2", tokenizer),
        audio_config=AUDIO_SIZE | {
            "model_type": "qwen2_audio_encoder", "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
        },
        audio_token_index=token_id("<|AUDIO|>"),
    )  # fmt: skip
    return Qwen2Audio(random(Qwen2AudioForConditionalGeneration, config), tokenizer, extractor())


def audioflamingo3() -> AudioFlamingo3:
    tokenizer = qwen_tokenizer("<sound>")
    config = AudioFlamingo3Config(
        text_config=text("qwen2", tokenizer),
        audio_config=AUDIO_SIZE | flamingo_tower(),
        audio_token_id=tokenizer.convert_tokens_to_ids("<sound>"),
    )
    return AudioFlamingo3(random(AudioFlamingo3ForConditionalGeneration, config), tokenizer, extractor())


def musicflamingo() -> MusicFlamingo:
    tokenizer = qwen_tokenizer("<sound>", "<|sound_bos|>", "<|sound_eos|>")
    token_id = tokenizer.convert_tokens_to_ids
    config = MusicFlamingoConfig(
        text_config=text("qwen2", tokenizer),
        audio_config=AUDIO_SIZE | flamingo_tower(),
        audio_token_id=token_id("<sound>"),
        audio_bos_token_id=token_id("<|sound_bos|>"),
        audio_eos_token_id=token_id("<|sound_eos|>"),
        rope_parameters={"rope_type": "default", "rope_theta": 1200},
    )
    return MusicFlamingo(random(MusicFlamingoForConditionalGeneration, config), tokenizer, extractor())


def flamingo_tower() -> dict[str, Any]:
    return {
        "model_type": "audioflamingo3_encoder", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 64,
    }  # fmt: skip


def voxtral() -> Voxtral:
    with tempfile.TemporaryDirectory() as folder:
        write_tekken(Path(folder))
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    config = VoxtralConfig(
        text_config=text("llama", tokenizer) | {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 11},
        audio_config=AUDIO_SIZE | {
            "model_type": "voxtral_encoder", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 128,
        },
        audio_token_id=tokenizer.convert_tokens_to_ids("[AUDIO]"),
    )  # fmt: skip
    return Voxtral(random(VoxtralForConditionalGeneration, config), tokenizer, extractor())


def qwen3_omni_moe() -> Any:
    import test_qwen3_omni as own
    from transformers import Qwen3OmniMoeThinkerForConditionalGeneration

    from relisten.models.qwen3_omni_moe import Qwen3OmniMoe

    tokenizer = own.vocabulary()
    module = random(Qwen3OmniMoeThinkerForConditionalGeneration, own.settings(tokenizer))
    return Qwen3OmniMoe(module, tokenizer, own.extractor(), name="tiny")


TEKKEN = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]",
    "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]", "<SPECIAL_20>", "<SPECIAL_21>", "<SPECIAL_22>",
    "<SPECIAL_23>", "[AUDIO]", "[BEGIN_AUDIO]",
)  # fmt: skip
"""Control tokens in the order of their ids (mistralai/mistral-common 018cad7, tokens/tokenizers/tekken.py; that 24 and
25 are those of audio: `VoxtralProcessor` of transformers 5.23 and huggingface/transformers 1505215)."""
MERGED = ("</", "se", "seg", ">,", ">.", "><", ">\n", "in", "th", "the", "an", "er", " a", " s", "si", "siren")


def write_tekken(folder: Path) -> None:
    """A small vocabulary in the form of Mistral's, in which `>` merges with what follows, as in the real one."""
    pieces = [bytes([n]) for n in range(256)] + [text.encode() for text in MERGED]
    size = len(pieces) + len(TEKKEN)
    content = {
        "config": {
            "pattern": r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            "num_vocab_tokens": len(pieces), "default_vocab_size": size, "default_num_special_tokens": len(TEKKEN),
            "version": "v7",
        },
        "vocab": [
            {"rank": n, "token_bytes": base64.b64encode(piece).decode(), "token_str": None}
            for n, piece in enumerate(pieces)
        ],
        "special_tokens": [{"rank": n, "token_str": text, "is_control": True} for n, text in enumerate(TEKKEN)],
        "version": 1,
        "type": "Tekken",
    }  # fmt: skip
    (folder / "tekken.json").write_text(json.dumps(content))


def text(model_type: str, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return TEXT_SIZE | {"model_type": model_type, "vocab_size": len(tokenizer) + 5}


def random(kind: Any, config: Any) -> Any:
    """Random weights, large enough that what was heard decides what is said."""
    torch.manual_seed(0)
    return kind(config).float()


# --- what the model's own processor gives ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Processed:
    """A prompt about some audio, as the class's own processor makes it."""

    ids: list[int]
    """With the placeholders expanded."""
    mel: Tensor
    """[windows, mel bins, frames]."""
    lengths: list[int] | None
    """Frames of each window that are not padding; None where the class does not know them."""


def process(model: Any, prompt: str, audio: Audio) -> Processed:
    """A published prompt, with one placeholder, through the processor of transformers."""
    kinds = {Qwen2Audio: Qwen2AudioProcessor, AudioFlamingo3: AudioFlamingo3Processor,
             MusicFlamingo: MusicFlamingoProcessor}  # fmt: skip
    if isinstance(model, Voxtral):
        return process_voxtral(model, prompt, audio)
    processor = kinds[type(model)](model.feature_extractor, model.tokenizer)
    found = processor(text=[prompt], audio=[audio.samples], sampling_rate=16_000, return_tensors="pt")
    mask = found.get("feature_attention_mask", found.get("input_features_mask"))
    return Processed(found["input_ids"][0].tolist(), found["input_features"], mask.sum(-1).tolist())


def process_voxtral(model: Voxtral, prompt: str, audio: Audio) -> Processed:
    """The mel is the processor's. The tokens are those of mistral-common 013341e, tokens/tokenizers/audio.py: one mark,
    and a token for every eight frames of the padded audio. docs/bases.md says how they were compared with the package.
    """
    processor = VoxtralProcessor(model.feature_extractor, model.tokenizer)
    size = WINDOW * 16_000
    mel = processor._retrieve_input_features(
        [audio.samples], 100 * WINDOW, sampling_rate=16_000, padding=True, truncation=False, pad_to_multiple_of=size,
        return_tensors="pt",
    )  # fmt: skip
    padded = -(-len(audio.samples) // size) * size
    expanded = prompt.replace("[AUDIO]", "[AUDIO]" * (padded // 160 // 8))
    return Processed(list(model.tokenizer(expanded, add_special_tokens=False)["input_ids"]), mel, None)


def published(model: Any, text: str) -> str:
    """The published prompt with one placeholder of audio."""
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    answer = "<|im_end|>\n<|im_start|>assistant\n"
    if isinstance(model, Qwen2Audio):
        asked = [{"role": "user", "content": [{"type": "audio", "audio": "a"}, {"type": "text", "text": text}]}]
        processor = Qwen2AudioProcessor(model.feature_extractor, model.tokenizer)
        return str(processor.apply_chat_template(asked, add_generation_prompt=True, tokenize=False))
    if isinstance(model, Voxtral):  # mistral-common 013341e, tokens/tokenizers/instruct.py
        return f"<s>[INST][BEGIN_AUDIO][AUDIO]{text}[/INST]"
    # huggingface/transformers 1895c87 and 13af64d, convert_audioflamingo3_to_hf.py and convert_musicflamingo_to_hf.py
    return f"{system}<|im_start|>user\n<sound>{text}{answer}"


# --- checks ---------------------------------------------------------------------------------------------------------


def the_prompt_is_the_published_one(model: Any) -> None:
    """With the placeholders that the class's own processor expands, token for token."""
    audio = make_audio(2.3)
    template = published(model, model.prompts.text("What?", ("a", "b"), "interleaved"))
    own, _ = model.prompt("What?", ("a", "b"), "interleaved", len(audio.samples))
    assert own == process(model, template, audio).ids


def audio_is_that_of_its_processor(model: Any) -> None:
    """Log-mel, its length and the number of tokens, for pieces of many lengths, and for recordings of many windows."""
    for seconds in PIECES if isinstance(model, Qwen2Audio) else PIECES + LONGER:
        audio = make_audio(seconds)
        theirs = process(model, published(model, "a"), audio)
        mel, mask = model.windows([model.features(audio)], torch.device("cpu"))
        num, lengths = len(mel), theirs.lengths  # a window of one or two frames gives no token, so it is left out
        assert torch.equal(mel, theirs.mel[:num]), f"another log-mel for {seconds} s"
        assert lengths is None or mask.sum(-1).tolist() == lengths[:num], f"another length for {seconds} s"
        assert num == len(theirs.mel) or (lengths is not None and max(lengths[num:]) < 3), f"too few for {seconds} s"
        count = theirs.ids.count(model.audio_id)
        assert model.num_audio_tokens(len(audio.samples)) == count, f"another number of tokens for {seconds} s"


def too_long_audio_is_refused(model: Any) -> None:
    """In one line, where the class's processor would silently cut it."""
    longest = model.max_seconds
    if longest is None:
        assert model.features(make_audio(3.5 * WINDOW)).shape[1] > 3 * 100 * WINDOW
        return
    num_samples = round((longest + 0.1) * model.rate)
    wrong: Sequence[Callable[[], Any]] = (
        lambda: model.prompt("What?", (), "grounded", num_samples),
        lambda: model.features(Audio(np.zeros(num_samples, np.float32), model.rate)),
    )
    for one in wrong:
        with pytest.raises(ValueError, match=f"at most {longest:g} s") as caught:
            one()
        assert "\n" not in str(caught.value)


CONFIG = GenerationConfig(max_new_tokens=60, max_listens=3, temperature=0.0)


def the_engine_is_the_naive_loop(model: Any) -> None:
    """With two segments inserted in mid-turn, token for token; other rows and the cache change nothing."""
    examples = [make_example(4.0, 0), make_example(3.0, 1, "What is it?")]
    engine = ScriptedEngine(model, lambda index, _: listens(model, index))
    found = engine.generate(examples, CONFIG)
    for index, example in enumerate(examples):
        [trace] = found[index]
        loop = naive(model, example, CONFIG, script=listens(model, index))
        assert trace.token_ids == loop.token_ids
        assert [(x.at, x.num_tokens) for x in trace.listens] == [(x.at, x.num_tokens) for x in loop.listens]
        assert len(trace.listens) == 3
        sampled = [i for i, own in enumerate(trace.sampled) if own]
        assert np.allclose([trace.logprobs[i] for i in sampled], [loop.logprobs[i] for i in sampled], atol=1e-4)


def listens(model: Any, index: int) -> Any:
    """Two segments with tokens of the model's own around them."""
    first = "<seg>0.5, 1.2</seg>" if index else "<seg>1.0, 3.1</seg>"
    return script(model, "<think>", 2, first, 3, "<seg>0.2, 0.9</seg>", 2, "</think><answer>a dog</answer>", END)


def a_replay_gives_the_recorded_log_probabilities(model: Any) -> None:
    """One plain forward over a group of packed traces: the ratio of the first GRPO step is 1."""
    traces, inputs = group(model)
    with torch.no_grad():
        again = token_logprobs_of(model, inputs, temperature=1.0)[0]
    assert torch.allclose(again, recorded(traces), atol=1e-4)


def group(model: Any) -> tuple[Sequence[Any], dict[str, Any]]:
    """Two sampled answers to a question, and the packed batch of both."""
    example = make_example(4.0)
    engine = ScriptedEngine(model, lambda _, sample: listens(model, sample))
    [traces] = engine.generate([example], GenerationConfig(max_new_tokens=60, max_listens=3), 2)
    assert isinstance(example.audio, Audio)
    return traces, model_inputs(pack([replay(model, example.audio, traces, {"seg": crop})]))


def recorded(traces: Sequence[Any]) -> Tensor:
    return torch.tensor([p for t in traces for p, own in zip(t.logprobs, t.sampled, strict=True) if own])


def training_learns(model: Any) -> None:
    """A few SFT steps on a chain with an inserted segment lower its loss; the audio itself is not learnt."""
    changed = deepcopy(model)
    example = Example(
        "a", make_audio(3.0), "What is it?", ("a dog", "two knocks"), "two knocks",
        "A siren <seg>0.5, 1.2</seg>, then two knocks.",
    )  # fmt: skip
    encoded = encode(changed, example, "interleaved")
    assert [x.num_tokens for x in encoded.trace.listens] == [
        changed.num_audio_tokens(3 * 16_000),
        changed.num_audio_tokens(round(0.7 * 16_000)),
    ]
    inputs = model_inputs(pack([[encoded]]))
    assert not set(inputs["token_ids"].tolist()) & set(changed.banned_token_ids.tolist())
    trained(changed)
    optimizer = torch.optim.SGD([p for p in changed.module.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for _ in range(3):
        loss = sft_loss(token_logprobs_of(changed, inputs)[0])
        optimizer.zero_grad()
        loss.backward()
        lacking = [n for n, p in changed.module.named_parameters() if p.requires_grad and p.grad is None]
        assert not lacking, f"no gradient for {lacking[:3]}"
        torch.nn.utils.clip_grad_norm_(changed.module.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0], losses


def trained(model: Any, **settings: Any) -> None:
    set_trained(model, SftConfig(data="", output=Path("out"), model=".", **settings))


def a_grpo_step_prefers_the_better_answer(model: Any) -> None:
    """The first step has ratio 1 and no KL, and raises the answer that earned more against the other."""
    changed = deepcopy(model)
    traces, inputs = group(changed)
    lengths = torch.tensor([sum(trace.sampled) for trace in traces])
    advantages = group_advantages(torch.tensor([[1.0, 0.0]]))[0].repeat_interleave(lengths)
    weights = token_weights(lengths, torch.ones(2, dtype=torch.bool), "trace", 2)
    trained(changed)
    optimizer = torch.optim.SGD([p for p in changed.module.parameters() if p.requires_grad], lr=0.01)
    now = token_logprobs_of(changed, inputs, temperature=1.0)[0]
    loss, figures = grpo_loss(now, now.detach(), advantages, weights, reference=now.detach())
    assert all(float(value) == 0 for name, value in figures.items() if "kl" in name or "clip" in name), figures
    loss.backward()
    torch.nn.utils.clip_grad_norm_(changed.module.parameters(), 1.0)
    optimizer.step()
    with torch.no_grad():
        later = token_logprobs_of(changed, inputs, temperature=1.0)[0]
    assert float((advantages * weights * (later - now.detach())).sum()) > 0


def adapters_reach_every_linear_layer(model: Any) -> None:
    """LoRA's default patterns name all linear layers of encoder, projector and language model, and nothing else."""
    changed = deepcopy(model)
    linear = {n for n, layer in changed.module.named_modules() if isinstance(layer, torch.nn.Linear)}
    trained(changed, lora=2)
    adapted = {name.split(".lora_")[0] for name in adapter.parameters(changed.module)}
    assert {name for name in linear - adapted if "visual" not in name and not name.endswith("lm_head")} == set()
    with tempfile.TemporaryDirectory() as folder:
        changed.save(Path(folder))
        again = deepcopy(model)
        adapter.attach(again, Path(folder))
    for name, parameter in adapter.parameters(changed.module).items():
        assert torch.equal(dict(again.module.named_parameters())[name], parameter)


def sharding_splits_every_layer(model: Any) -> None:
    """FSDP splits a model at the classes that transformers names; every layer must be one of them, or lie in one."""
    named = set(model.module._no_split_modules or ())
    found = {type(part).__name__ for part in model.module.modules()}
    layers = [
        type(layer).__name__
        for name, part in model.module.named_modules()
        if isinstance(part, torch.nn.ModuleList) and "visual" not in name
        for layer in part
    ]
    assert layers and set(layers) <= named & found, (set(layers), named & found)


EXTRA: tuple[Callable[[Any], None], ...] = (
    the_prompt_is_the_published_one,
    audio_is_that_of_its_processor,
    too_long_audio_is_refused,
    the_engine_is_the_naive_loop,
    a_replay_gives_the_recorded_log_probabilities,
    training_learns,
    a_grpo_step_prefers_the_better_answer,
    adapters_reach_every_linear_layer,
    sharding_splits_every_layer,
)
CHECKS = (*conformance.CHECKS, *EXTRA)
BASES: Mapping[str, Callable[[], Any]] = {
    "qwen2_audio": qwen2_audio,
    "voxtral": voxtral,
    "audioflamingo3": audioflamingo3,
    "musicflamingo": musicflamingo,
}
"""Tiny models by model type."""
OTHERS: Mapping[str, Callable[[], Any]] = {"qwen2_5_omni": make_model, "qwen3_omni_moe": qwen3_omni_moe}
"""Bases whose other checks stand in tests of their own: test_models.py, test_sft.py and others; test_qwen3_omni.py."""
FOR_OTHERS = (*conformance.CHECKS, the_engine_is_the_naive_loop, a_replay_gives_the_recorded_log_probabilities)


def table() -> tuple[str, bool]:
    """Checks by bases in Markdown, and whether all passed. A dash: the check stands in a test of the base's own."""
    models = {name: make() for name, make in (OTHERS | BASES).items()}
    wrong = {}
    for name, model in models.items():
        wrong[name] = conformance.check(model, FOR_OTHERS if name in OTHERS else CHECKS)
        print(name, "checked", file=sys.stderr)
    lines = ["| check | " + " | ".join(f"`{name}`" for name in models) + " |", "|---|" + ":-:|" * len(models)]
    for check in CHECKS:
        marks = [_mark(name, check, wrong[name]) for name in models]
        lines.append(f"| {check.__name__.replace('_', ' ')} | " + " | ".join(marks) + " |")
    for name, failed in wrong.items():
        lines += [f"{name}: {check}: {reason}" for check, reason in failed.items()]
    return "\n".join(lines), not any(wrong.values())


def _mark(name: str, check: Callable[[Any], None], wrong: Mapping[str, str]) -> str:
    if name in OTHERS and check not in FOR_OTHERS:
        return "-"
    return "✗" if check.__name__ in wrong else "✓"


QWEN_7B = {
    "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28,
    "num_hidden_layers": 28, "num_key_value_heads": 4, "vocab_size": 151672,
}  # fmt: skip
"""Of both Flamingos: huggingface/transformers 1895c87 and 13af64d, convert_audioflamingo3_to_hf.py and the like."""
MISTRAL_24B = {
    "model_type": "llama", "hidden_size": 5120, "intermediate_size": 32768, "num_hidden_layers": 40,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 131072,
}  # fmt: skip
PUBLISHED: Mapping[str, tuple[Any, Any]] = {
    "Qwen2-Audio-7B": (  # its config.json names only what differs from the classes' defaults
        Qwen2AudioForConditionalGeneration,
        Qwen2AudioConfig(text_config={"model_type": "qwen2", "vocab_size": 156_032, "intermediate_size": 11_008}),
    ),
    "Voxtral Mini 3B": (VoxtralForConditionalGeneration, VoxtralConfig(audio_token_id=24)),
    "Voxtral Small 24B": (
        VoxtralForConditionalGeneration, VoxtralConfig(audio_token_id=24, text_config=MISTRAL_24B),
    ),
    "Audio Flamingo 3": (AudioFlamingo3ForConditionalGeneration, AudioFlamingo3Config(text_config=QWEN_7B)),
    "Music Flamingo": (
        MusicFlamingoForConditionalGeneration,
        MusicFlamingoConfig(text_config=QWEN_7B, rope_parameters={"rope_type": "default", "rope_theta": 1200}),
    ),
}  # fmt: skip


def sizes() -> str:
    """Parameters of the published configurations, built without memory."""
    lines = []
    for name, (kind, config) in PUBLISHED.items():
        with torch.device("meta"):
            module = kind(deepcopy(config))
        lines.append(f"{name}: {sum(p.numel() for p in module.parameters()):,} parameters")
    return "\n".join(lines)


if __name__ == "__main__":
    shown, passed = (sizes(), True) if "--sizes" in sys.argv else table()
    print(shown)
    sys.exit(not passed)
