"""Qwen3-Omni's Thinker: a tiny random model of the real class, its audio, positions, experts, checkpoints, training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FIXTURES, make_audio, make_tokenizer
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from torch import Tensor
from transformers import (
    PreTrainedTokenizerFast,
    Qwen3OmniMoeConfig,
    Qwen3OmniMoeForConditionalGeneration,
    Qwen3OmniMoeThinkerConfig,
    Qwen3OmniMoeThinkerForConditionalGeneration,
    WhisperFeatureExtractor,
)
from transformers.models.qwen3_omni_moe.processing_qwen3_omni_moe import Qwen3OmniMoeProcessor

from relisten import load
from relisten.audio import crop
from relisten.data.worlds.scene_files import write_scenes
from relisten.engine.generation import GenerationConfig
from relisten.engine.naive import naive
from relisten.engine.scripted import END, ScriptedEngine, script
from relisten.models import adapter, conformance
from relisten.models.base import pad_features
from relisten.models.qwen3_omni_moe import Qwen3OmniMoe, audio_tower
from relisten.training.batch import model_inputs, pack, replay
from relisten.training.config import GrpoConfig, SftConfig
from relisten.training.grpo import train_grpo
from relisten.training.sft import train_sft
from relisten.training.sharding import fsdp
from relisten.training.trainer import set_trained, token_logprobs_of
from relisten.types import Audio, Example, Response

SPECIAL = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
           "<|audio_start|>", "<|audio_end|>", "<|audio_pad|>")  # fmt: skip
ANSWER = "<think>A siren <seg>0.5, 1.2</seg>, then <seg>1.0, 2.6</seg> two knocks.</think><answer>two knocks</answer>"


def vocabulary() -> PreTrainedTokenizerFast:
    """Qwen's pieces with Qwen3-Omni's own tokens. `<think>` is one token there, and not a control token."""
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([AddedToken(text, special=True) for text in SPECIAL])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in ("<think>", "</think>")])
    return tokenizer


def settings(tokenizer: PreTrainedTokenizerFast, layers: int = 2) -> Qwen3OmniMoeThinkerConfig:
    """A configuration of the real class: 64 wide, heads of 32, eight experts of which two are used."""
    token_id = tokenizer.convert_tokens_to_ids
    large = {"initializer_range": 0.2}
    return Qwen3OmniMoeThinkerConfig(
        audio_config={
            "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 64,
            "num_mel_bins": 16, "output_dim": 64, "downsample_hidden_size": 8, **large,
        },
        vision_config={
            "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 1, "out_hidden_size": 64,
            "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
        },
        text_config={
            "vocab_size": len(tokenizer) + 5, "hidden_size": 64, "intermediate_size": 48, "moe_intermediate_size": 32,
            "num_experts": 8, "num_experts_per_tok": 2, "num_hidden_layers": layers, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [6, 5, 5]}, **large,
        },
        audio_token_id=token_id("<|audio_pad|>"), audio_start_token_id=token_id("<|audio_start|>"),
        image_token_id=token_id("<|image_pad|>"), video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"), **large,
    )  # fmt: skip


def extractor() -> WhisperFeatureExtractor:
    return WhisperFeatureExtractor(feature_size=16, sampling_rate=16_000, hop_length=160, n_fft=400)


@pytest.fixture(scope="module")
def model() -> Qwen3OmniMoe:
    torch.manual_seed(0)
    tokenizer = vocabulary()
    module = Qwen3OmniMoeThinkerForConditionalGeneration(settings(tokenizer)).float()
    return Qwen3OmniMoe(module, tokenizer, extractor(), name="tiny")


@pytest.fixture(scope="module")
def folder(model: Qwen3OmniMoe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("qwen3-omni")
    model.save(made)
    return made


def interrupted(model: Qwen3OmniMoe) -> tuple[list[int], list[Tensor]]:
    """A prompt about 2.3 s, and half an answer in which 0.7 s are heard again."""
    recording, segment = make_audio(2.3), make_audio(0.7, 1)
    ids, _ = model.prompt("What is it?", ("a", "b"), "interleaved", len(recording.samples))
    ids += [*model.encode_response("<think>A <seg>0.5, 1.2</seg>"), *model.audio_tokens(len(segment.samples))]
    return [*ids, *model.encode(", so")], [model.features(recording), model.features(segment)]


def own_inputs(ids: list[int], features: list[Tensor]) -> dict[str, Tensor]:
    """What the class is given by its own processor: it finds positions and mask by itself."""
    mel, mask = pad_features(features)
    tokens = torch.tensor([ids])
    named = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    return named | {"input_features": mel, "feature_attention_mask": mask}


# --- the contract ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.__name__)
def test_it_keeps_the_contract(model: Qwen3OmniMoe, check: Any) -> None:
    check(model)


def test_the_engine_writes_what_the_naive_loop_writes(model: Qwen3OmniMoe) -> None:
    """Rows pause on their own, beside rows that do not; the experts of a token do not depend on its neighbours."""
    config = GenerationConfig(max_new_tokens=120)
    scripts = {0: script(model, 3, ANSWER, END), 1: script(model, "<think>", 40, "</think><answer>a</answer>", END)}
    recordings = [make_audio(3.1, 1), make_audio(2.0, 2)]
    examples = [Example(str(i), audio, "What is heard?", ("a dog", "a")) for i, audio in enumerate(recordings)]
    traces = ScriptedEngine(model, lambda i, _: scripts[i]).generate(examples, config)
    for index, [trace] in enumerate(traces):
        other = naive(model, examples[index], config, script=scripts[index])
        assert (trace.token_ids, trace.listens, trace.text) == (other.token_ids, other.listens, other.text)
        np.testing.assert_allclose(trace.logprobs, other.logprobs, atol=2e-5)
        encoded = replay(model, recordings[index], [trace], {"seg": crop})
        with torch.no_grad():
            found, _ = token_logprobs_of(model, model_inputs(pack([encoded])))
        sampled = [x for x, is_sampled in zip(trace.logprobs, trace.sampled, strict=True) if is_sampled]
        np.testing.assert_allclose(found.numpy(), sampled, atol=2e-5, err_msg="the batch of training")
    assert len(traces[0][0].listens) == 3


# --- prompt and text ------------------------------------------------------------------------------------------------


def test_the_prompt_is_the_published_template_without_a_system_prompt(model: Qwen3OmniMoe) -> None:
    """Instruct and Thinking alike: the answer, with its `<think>`, is the model's own."""
    ids, at = model.prompt("What?", ("a", "b"), "interleaved", 16_000)
    assert at == ids.index(model.audio_id) and ids.count(model.audio_id) == 13
    spelled = model.tokenizer.decode(ids).replace("<|audio_pad|>", "")
    question = model.prompts.text("What?", ("a", "b"), "interleaved")
    turn = f"<|audio_start|><|audio_end|>{question}"
    assert spelled == f"<|im_start|>user\n{turn}<|im_end|>\n<|im_start|>assistant\n"


def test_think_is_one_token_and_segments_end_on_a_boundary(model: Qwen3OmniMoe) -> None:
    ids = model.encode_response(ANSWER)
    pieces = [model.decode([i]) for i in ids]
    assert pieces[0] == "<think>" and pieces.count("</think>") == 1
    assert "".join(pieces) == ANSWER and pieces.count(">") == 2 + 2 + 2, "each </seg> ends with a token of its own"
    banned = set(model.banned_token_ids.tolist())
    assert {model.tokenizer.convert_tokens_to_ids(text) for text in (*SPECIAL, "<|im_start|>")} <= banned
    assert not banned & set(ids)


# --- audio ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_samples", [320, 3_200, 11_201, 15_999, 16_000, 16_001, 47_999, 80_000])
def test_mel_and_placeholders_are_those_of_the_models_own_processor(model: Qwen3OmniMoe, num_samples: int) -> None:
    """Audio of whole frames, that is of whole hundredths of a second. Ours fills up what is not."""
    audio = Audio(make_audio(5.0).samples[:num_samples])
    filled = np.pad(audio.samples, (0, -num_samples % 160))
    processor = object.__new__(Qwen3OmniMoeProcessor)  # its parts for pictures need torchvision
    processor.feature_extractor, processor.audio_token = extractor(), "<|audio_pad|>"
    own, [text] = processor._process_audio([filled], return_tensors="np", **Qwen3OmniMoeProcessor.audio_kwargs)
    assert np.array_equal(model.features(audio).numpy(), own["input_features"][0])
    assert text == "<|audio_pad|>" * model.num_audio_tokens(num_samples)
    given = model.module.get_audio_features(*pad_features([model.features(audio)])).last_hidden_state
    assert len(given) == model.num_audio_tokens(num_samples)


def test_audio_shorter_than_a_window_gives_no_token(model: Qwen3OmniMoe) -> None:
    assert [model.num_audio_tokens(n) for n in (0, 1, 160, 161)] == [0, 0, 0, 1]
    assert model.features(Audio(np.zeros(161, np.float32))).shape == (16, 2)


@torch.no_grad()
def test_a_short_segment_is_encoded_alike_alone_and_beside_others(model: Qwen3OmniMoe) -> None:
    """The class pads a piece of less than a second only if longer audio comes beside it, and its convolutions see the
    padding: a segment would have sounded different in the engine (alone) and in training (in a batch)."""
    short, long = model.features(make_audio(0.7, 1)), model.features(make_audio(2.3))
    tower = audio_tower(model.module)
    encoded = [model.module.get_audio_features(*pad_features(p)).last_hidden_state for p in ([short], [long, short])]
    torch.testing.assert_close(encoded[0], encoded[1][-len(encoded[0]) :])
    plain = type(tower)(tower.config).eval()
    plain.load_state_dict(tower.state_dict())
    alone = plain(short, feature_lens=torch.tensor([short.shape[1]])).last_hidden_state
    both = plain(torch.cat([long, short], 1), feature_lens=torch.tensor([long.shape[1], short.shape[1]]))
    assert not torch.allclose(alone, both.last_hidden_state[-len(alone) :], atol=1e-2), "the class has changed"
    torch.testing.assert_close(encoded[0], both.last_hidden_state[-len(alone) :])


# --- positions ------------------------------------------------------------------------------------------------------


def test_segments_that_are_all_shorter_than_a_second_are_encoded_alike_alone_and_together(model: Qwen3OmniMoe) -> None:
    """Two rows that paused together, each for 0.7 s, once had the second segment's tokens taken from wrong places."""
    pieces = [model.features(make_audio(0.7, seed)) for seed in range(3)]
    together = model.module.get_audio_features(*pad_features(pieces)).last_hidden_state.split(9)
    for piece, found in zip(pieces, together, strict=True):
        alone = model.module.get_audio_features(*pad_features([piece])).last_hidden_state
        torch.testing.assert_close(found, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@torch.no_grad()
def test_an_inserted_segment_has_the_positions_that_the_class_gives(model: Qwen3OmniMoe, implementation: str) -> None:
    """Plain counting, also after a segment. Our forward equals the module's own, which finds positions by itself."""
    ids, features = interrupted(model)
    own = own_inputs(ids, features)
    found, _ = model.module.get_rope_index(own["input_ids"], attention_mask=own["attention_mask"])
    assert torch.equal(found, torch.arange(len(ids)).float().expand(3, 1, -1))
    model.module.set_attn_implementation(implementation)
    try:
        expected = model.module(**own).logits
        ours = model.forward(own["input_ids"], torch.arange(len(ids))[None], features, None)
    finally:
        model.module.set_attn_implementation("sdpa")
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=0)


def test_beside_a_picture_audio_counts_in_the_same_steps(model: Qwen3OmniMoe) -> None:
    """The part of the class that knows times: without a video's frames to align with, each audio token is one step."""
    config, token_id = model.module.config, model.tokenizer.convert_tokens_to_ids
    picture = [config.vision_start_token_id, config.image_token_id, token_id("<|vision_end|>")]
    ids = torch.tensor([[*picture, *model.audio_tokens(2 * model.rate), *model.encode(" so")]])
    found, _ = model.module.get_rope_index(
        ids,
        image_grid_thw=torch.tensor([[1, 2, 2]]),
        attention_mask=torch.ones_like(ids),
        audio_seqlens=torch.tensor([200]),
    )
    assert torch.equal(found, torch.arange(ids.shape[1]).float().expand(3, 1, -1))


# --- checkpoints ----------------------------------------------------------------------------------------------------


def logits(model: Any) -> Tensor:
    ids, features = interrupted(model)
    with torch.no_grad():
        found: Tensor = model.forward(torch.tensor([ids]), torch.arange(len(ids))[None], features, None)
    return found


def test_of_a_released_checkpoint_only_the_thinker_is_loaded(folder: Path, tmp_path: Path) -> None:
    """The class of the whole model writes thinker, talker and code2wav, each expert by itself, as Qwen released it."""
    torch.manual_seed(1)
    layers = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1}
    talker = {"text_config": {**layers, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8,
                              "intermediate_size": 8, "shared_expert_intermediate_size": 8, "vocab_size": 32},
              "code_predictor_config": {**layers, "vocab_size": 16, "intermediate_size": 8, "head_dim": 8,
                                        "num_code_groups": 2},
              "thinker_hidden_size": 64, "num_code_groups": 2, "spatial_merge_size": 2}  # fmt: skip
    wave = {**layers, "intermediate_size": 8, "decoder_dim": 16, "codebook_dim": 8, "codebook_size": 8,
            "num_quantizers": 2, "upsample_rates": [2, 2], "upsampling_ratios": [2]}  # fmt: skip
    config = Qwen3OmniMoeConfig(
        thinker_config=settings(vocabulary()).to_dict(), talker_config=talker, code2wav_config=wave
    )
    whole = Qwen3OmniMoeForConditionalGeneration(config).float()
    whole.save_pretrained(tmp_path)
    names = set(load_file(tmp_path / "model.safetensors"))
    assert {name.split(".")[0] for name in names} == {"thinker", "talker", "code2wav"}
    assert "thinker.model.layers.1.mlp.experts.7.up_proj.weight" in names
    for path in [*folder.glob("*token*"), folder / "preprocessor_config.json"]:
        shutil.copy(path, tmp_path)
    model = load(tmp_path, device="cpu")
    assert model.prompts.system is None, "a folder without prompts.json"
    assert type(model.module).__name__ == "Qwen3OmniMoeThinkerForConditionalGeneration"
    ids, features = interrupted(model)
    with torch.no_grad():
        expected = whole.thinker(**own_inputs(ids, features)).logits
    torch.testing.assert_close(logits(model), expected, atol=2e-5, rtol=0)
    model.save(tmp_path / "again")
    assert torch.equal(logits(load(tmp_path / "again", device="cpu")), logits(model))


@pytest.mark.parametrize(
    ("part", "name", "value", "hint"),
    [
        ("text_config", "num_experts", 4, r"experts.gate_up_proj is \[8, 64, 64\] in the weights"),
        ("text_config", "num_experts_per_tok", 9, "num_experts_per_tok is not 1 to num_experts"),
        ("text_config", "num_hidden_layers", 3, "the weights have 2 layers"),
        ("audio_config", "n_window", 100, "n_window is not 50"),
        ("audio_config", "max_source_positions", 4, "fewer than 13 positions"),
        ("audio_config", "num_mel_bins", 8, "conv_out"),
    ],
)
def test_settings_that_do_not_fit_are_told_in_one_line(
    part: str, name: str, value: int, hint: str, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config[part][name] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=hint) as caught:
        load(tmp_path, device="cpu")
    assert "\n" not in str(caught.value) and "config.json" in str(caught.value)


def test_a_missing_expert_is_told(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.experts.7.down_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"experts.down_proj is \[7, 64, 32\] in the weights"):
        load(tmp_path, device="cpu")


# --- training -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("questions"), num=2, questions=1)


TRAINING: dict[str, Any] = {
    "steps": 1, "batch_size": 2, "bf16": False, "workers": 0, "learning_rate": 1e-2, "warmup": 0.0, "log_steps": 1,
    "format": "interleaved",
}  # fmt: skip
TRAINED = ("mlp.gate.weight", "experts.", "self_attn.q_norm", "audio_tower.conv2d1", "audio_tower.proj2")
"""Names of the router, the experts, and of parts of both towers."""


def length(response: Response, example: Example) -> float:
    """A reward that differs from answer to answer."""
    return 0.01 * len(response.text)


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_a_step_of_sft_trains_router_and_experts_and_not_the_vision_tower(
    folder: Path, questions: Path, tmp_path: Path
) -> None:
    written = train_sft(SftConfig(data=str(questions), output=tmp_path / "sft", model=str(folder), **TRAINING))
    changed = moved(weights(folder), weights(written))
    assert not any("visual" in name for name in changed)
    assert all(any(part in name for name in changed) for part in TRAINED), changed
    assert load(written, device="cpu").prompts.system is None


def test_a_step_of_grpo_starts_at_the_policy_that_sampled(folder: Path, questions: Path, tmp_path: Path) -> None:
    """Rollouts and training send each token to the same experts, so every ratio is 1 at the first step."""
    config = GrpoConfig(
        data=str(questions), output=tmp_path / "grpo", model=str(folder), group_size=4, mini_batch_size=2,
        max_new_tokens=24, rewards=(f"{__name__}:length",), **TRAINING,
    )  # fmt: skip
    changed = moved(weights(folder), weights(train_grpo(config)))
    first = json.loads((tmp_path / "grpo" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["grad_norm"] > 0
    assert first["ratio_max"] == pytest.approx(1, abs=1e-4) and first["logprob_difference"] < 1e-4
    assert all(any(part in name for name in changed) for part in TRAINED), changed


def test_lora_reaches_attention_and_the_audio_tower_and_no_expert(folder: Path, tmp_path: Path) -> None:
    """Experts are one tensor for each layer, and the router is no linear layer of torch: peft would leave both out."""
    model = load(folder, device="cpu")
    set_trained(model, SftConfig(data="", output=tmp_path, model=str(folder), lora=2))
    layers = {name.split(".lora_")[0].rpartition(".")[2] for name in adapter.parameters(model.module)}
    assert layers == {"q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "fc1", "fc2", "conv_out", "proj1", "proj2"}
    assert not any("visual" in name for name in adapter.parameters(model.module))


def test_no_loss_that_balances_experts_is_ever_added(model: Qwen3OmniMoe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also not if config.json asks for it. (The class would then fail: it takes our mask for one of padding.)"""
    expected = logits(model)
    monkeypatch.setattr(model.module.config.text_config, "output_router_logits", True)
    assert torch.equal(logits(model), expected)


# --- the real size --------------------------------------------------------------------------------------------------


def test_the_published_configuration_builds() -> None:
    """On the meta device: the numbers of Qwen3-Omni-30B-A3B, and the layers that FSDP is to split."""
    config = Qwen3OmniMoeThinkerConfig.from_dict(json.loads((FIXTURES / "qwen3_omni_30b_config.json").read_text()))
    with torch.device("meta"):
        module = Qwen3OmniMoeThinkerForConditionalGeneration(config)
    counts = [sum(p.numel() for p in part.parameters()) for part in (module, audio_tower(module))]
    assert counts == [31_719_205_488, 647_927_168]
    experts = module.get_decoder().layers[0].mlp.experts
    assert experts.gate_up_proj.shape == (128, 1536, 2048) and experts.down_proj.shape == (128, 2048, 768)
    layers = ["Qwen3OmniMoeAudioEncoderLayer", "Qwen3OmniMoeThinkerTextDecoderLayer", "Qwen3OmniMoeVisionBlock"]
    assert fsdp.layers(module) == layers, "transformers names the talker's beside them"
