"""Every base keeps the contract, and what it makes of a prompt and of audio is what its own processor makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bases import BASES, CHECKS, WINDOW, write_tekken
from conftest import make_audio

from relisten import models
from relisten.engine.generation import GenerationConfig
from relisten.engine.operations import crop
from relisten.engine.scripted import END, ScriptedEngine, script
from relisten.remote import open_engine
from relisten.training.batch import encode
from relisten.types import Audio, Example, Segment


@pytest.fixture(scope="module", params=BASES)
def base(request: pytest.FixtureRequest) -> Any:
    return BASES[request.param]()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_base_keeps_the_contract(base: Any, check: Any) -> None:
    check(base)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {name: tmp_path_factory.mktemp(name) for name in ("qwen2_audio", "voxtral", "musicflamingo")}
    for name, folder in made.items():
        BASES[name]().save(folder)
    return made


def change(folder: Path, name: str, **values: Any) -> str:
    """Change settings in a file of a folder; returns what the file was."""
    path = folder / name
    before = path.read_text() if path.exists() else "{}"
    path.write_text(json.dumps(json.loads(before) | values))
    return before


@pytest.mark.parametrize(
    ("name", "file", "values", "told"),
    [
        ("qwen2_audio", "config.json", {"audio_token_index": 10**6}, "names a token that the vocabulary does not have"),
        ("qwen2_audio", "preprocessor_config.json", {"chunk_length": 30}, "is not what the encoder reads"),
        ("qwen2_audio", "config.json", {"text_config": []}, "text_config is not a JSON object; a Qwen2-Audio model"),
        ("voxtral", "config.json", {"audio_token_id": None}, "names a token that the vocabulary does not have"),
        (
            "musicflamingo",
            "config.json",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 9}},
            "rope_theta is",
        ),
        ("musicflamingo", "processor_config.json", {"max_audio_len": "ten"}, "max_audio_len is ten"),
    ],
)
def test_a_wrong_folder_is_told_in_one_line(
    folders: dict[str, Path], name: str, file: str, values: dict[str, Any], told: str
) -> None:
    before = change(folders[name], file, **values)
    try:
        with pytest.raises(ValueError, match=told) as caught:
            models.load(folders[name], device="cpu")
    finally:
        (folders[name] / file).write_text(before)
    assert "\n" not in str(caught.value) and str(folders[name]) in str(caught.value)


def test_a_type_that_is_not_known_names_those_that_are(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "martian"}')
    with pytest.raises(ValueError, match="'martian' is not supported yet") as caught:
        models.load(tmp_path)
    assert all(name in str(caught.value) for name in BASES)
    assert "attention" not in str(caught.value), "a file that is not a base was once listed"


def test_what_only_qwen2_5_omni_can_do_is_refused_for_others(folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"only Qwen2\.5-Omni can answer on vLLM"):
        open_engine(str(folders["voxtral"]), "http://localhost:1")


def test_mistrals_own_file_and_a_saved_model_have_the_same_tokens(folders: dict[str, Path], tmp_path: Path) -> None:
    from relisten.models.voxtral import KIND

    assert KIND.tokenizer is not None
    write_tekken(tmp_path)
    published, saved = KIND.tokenizer(tmp_path), KIND.tokenizer(folders["voxtral"])
    text = "<think>the siren <seg>0.5, 1.0</seg>, then\n</think>"
    assert published(text)["input_ids"] == saved(text)["input_ids"]


def test_the_two_flamingos_keep_their_own_system_prompts_and_lengths(folders: dict[str, Path]) -> None:
    """Both have one class. Their chat templates tell them apart, and are searched, not run."""
    folder = folders["musicflamingo"]
    system = "You are Audio Flamingo-Next, a multimodal assistant."
    (folder / "chat_template.jinja").write_text(
        "{% if messages[0]['role'] != 'system' %}<|im_start|>system\n" + system + "<|im_end|>\n{% endif %}"
    )
    prompts = (folder / "prompts.json").read_text()
    (folder / "prompts.json").unlink()
    before = change(folder, "processor_config.json", max_audio_len=1800)
    model = models.load(folder, device="cpu")
    (folder / "processor_config.json").write_text(before)
    (folder / "prompts.json").write_text(prompts)
    (folder / "chat_template.jinja").unlink()
    assert model.prompts.system == system and model.max_seconds == 1800.0
    assert models.load(folder, device="cpu").max_seconds == 1200.0


def test_training_names_the_example_that_is_too_long() -> None:
    example = Example("the-long-one", make_audio(WINDOW + 1.0), "What is it?", ("a", "b"), "a")
    with pytest.raises(ValueError, match=r"^the-long-one: .* at most 6 s of audio at once, and this has 7\.0 s"):
        encode(BASES["qwen2_audio"](), example, "grounded")


def test_a_segment_that_becomes_too_long_is_refused() -> None:
    """Qwen2-Audio hears one window at once, and slow playback doubles a segment."""
    model = BASES["qwen2_audio"]()

    def twice(audio: Audio, segment: Segment) -> Audio:
        heard = crop(audio, segment)
        return Audio(heard.samples.repeat(2), heard.rate)

    example = Example("a", make_audio(WINDOW), "What is it?", ("a dog", "two knocks"))
    text = "<think><seg>0.0, 2.0</seg> and <seg>0.0, 3.5</seg></think><answer>a dog</answer>"
    engine = ScriptedEngine(model, lambda *_: script(model, text, END), operations={"seg": twice})
    [[trace]] = engine.generate([example], GenerationConfig(max_new_tokens=80))
    assert len(trace.listens) == 2 and [refusal.reason for refusal in trace.refusals] == ["too long"]
