"""nano's ear learns from Whisper's states without becoming another ear, and a stopped run goes on as it was."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "runs"))
import teach_ear

from relisten.models import load, nano
from relisten.models.qwen2_5_omni import Qwen2_5Omni
from relisten.types import Audio


def lessons(num: int, seconds: float = 2.0) -> list[teach_ear.Lesson]:
    """Noise, with states that are drawn."""
    rng, found = np.random.default_rng(num), []
    for index in range(num):
        tokens = round(seconds * 12.5)
        samples = (0.1 * rng.standard_normal(tokens * teach_ear.TOKEN)).astype(np.float16)
        states = torch.from_numpy(rng.standard_normal((tokens, teach_ear.DIRECTIONS))).half()
        found.append(teach_ear.Lesson(samples, states, [(2, 8, [300 + index]), (12, 20, [301, 302])], index % 2 == 0))
    return found


def make_pupil() -> teach_ear.Pupil:
    torch.manual_seed(0)
    model = load("nano", "float32", "cpu")
    assert isinstance(model, Qwen2_5Omni)
    return teach_ear.Pupil(model, teach_ear.new_tokens(model, model))


@pytest.fixture
def pupil() -> teach_ear.Pupil:
    return make_pupil()


def test_only_the_ear_its_projection_and_new_names_learn(pupil: teach_ear.Pupil, tmp_path: Path) -> None:
    pupil.new[301] = True  # as if it did not know this name
    old = load("nano", "float32", "cpu").module.state_dict()
    given, losses = lessons(4), []
    for _ in range(6):
        found = pupil.losses(given, np.random.default_rng(1))
        losses.append(sum(weight * found[name].item() for name, weight in teach_ear.WEIGHTS.items()))
        pupil.step(found, 1.0)
    assert losses[-1] < losses[0]
    pupil.save(tmp_path)
    for name, value in load(str(tmp_path), "float32", "cpu").module.state_dict().items():
        if "embed_tokens" in name or "lm_head" in name:
            changed = (value != old[name]).any(1).nonzero().squeeze(1).tolist()
            assert changed == [301]
        else:
            ear = "audio_tower" in name and not re.search("positional|bos_eos", name)
            assert torch.equal(value, old[name]) != ear, name


def test_a_stopped_run_goes_on_as_it_was(pupil: teach_ear.Pupil, tmp_path: Path) -> None:
    given = lessons(3)
    pupil.step(pupil.losses(given, np.random.default_rng(1)), 1.0)
    torch.save(pupil.state(), tmp_path / "state.pt")
    again = make_pupil()
    again.restore(torch.load(tmp_path / "state.pt"))
    for one in (pupil, again):
        one.step(one.losses(given, np.random.default_rng(2)), 1.0)
    pairs = zip(pupil.state()["parts"].values(), again.state()["parts"].values(), strict=True)
    assert all(torch.equal(value, other) for value, other in pairs)
    assert torch.equal(pupil.changed, again.changed)


def test_directions_are_those_in_which_words_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one of three coordinates two words differ, in one voices do; the third has nothing."""
    monkeypatch.setattr(teach_ear, "SCENES", 40)
    monkeypatch.setattr(teach_ear, "DIRECTIONS", 1)
    rng, found = np.random.default_rng(3), []
    for index in range(40):
        states = rng.standard_normal((8, 3)) * [0.3, 0.3, 0.3] + [[0, 5 * rng.standard_normal(), 0]]
        states[:4, 0] += 2
        states[4:, 0] -= 2
        named = [(0, 4, [1]), (4, 8, [2])]
        found.append(teach_ear.Lesson(np.zeros(8, np.float16), torch.from_numpy(states).half(), named, index < 40))
    _, chosen = teach_ear.directions(found)
    share = chosen.abs().squeeze(1) / chosen.abs().sum()
    assert share[0] > 0.9


def test_another_voice_moves_the_bands_and_keeps_the_frames() -> None:
    mel = torch.zeros(64, 10)
    mel[20] = 1.0
    peaks = {int(teach_ear.another_voice(mel, np.random.default_rng(seed))[:, 3].argmax()) for seed in range(8)}
    assert len(peaks) > 3
    assert teach_ear.another_voice(mel, np.random.default_rng(0)).shape == mel.shape


def test_the_widened_nano_still_says_what_nano_said() -> None:
    old = load("nano", "float32", "cpu")
    assert isinstance(old, Qwen2_5Omni)
    new = teach_ear.widened(old, old.tokenizer)
    audio = Audio(np.random.default_rng(3).standard_normal(32_000).astype(np.float32) * 0.1, 16_000)
    ids, _ = old.prompt("Tell what is heard.", (), "conditioned", len(audio.samples))
    logits = []
    for model in (old, new):
        tokens = torch.tensor([ids])
        with torch.no_grad():
            logits.append(model.forward(tokens, torch.arange(len(ids))[None], [model.features(audio)], None))
    known = len(old.tokenizer)  # beyond it there are no tokens
    torch.testing.assert_close(logits[0][..., :known], logits[1][..., :known], atol=1e-4, rtol=1e-4)
    wide = teach_ear.widened(old, nano.tokenizer([" flute zebra"] * 9))
    rows, again = (model.module.get_input_embeddings().weight for model in (old, wide))
    (flute,), (zebra,) = wide.encode(" flute"), wide.encode(" zebra")
    assert torch.equal(again[flute], rows[old.encode(" flute")[0]])
    assert torch.allclose(again[zebra], rows.mean(0), atol=1e-6)
    assert teach_ear.new_tokens(old, wide)[[flute, zebra]].squeeze(1).tolist() == [False, True]
