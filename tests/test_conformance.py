"""The contract of a base model: nano and a tiny Qwen2.5-Omni keep it, and models that break it are named."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from relisten import models
from relisten.models import conformance
from relisten.models.base import AudioLM
from relisten.models.qwen2_5_omni import Qwen2_5Omni
from relisten.types import Audio


@pytest.fixture(scope="module", params=["nano", "tiny"])
def kept(request: pytest.FixtureRequest, model: Qwen2_5Omni) -> AudioLM:
    return models.load("nano", device="cpu") if request.param == "nano" else model


@pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.__name__)
def test_a_model_keeps_the_contract(kept: AudioLM, check: object) -> None:
    check(kept)  # type: ignore[operator]


def test_a_model_that_breaks_it_is_told_where(build_model: object, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = build_model()  # type: ignore[operator]
    own = broken.forward

    def deaf(input_ids: Tensor, position_ids: Tensor, features: Sequence[Tensor], *rest: object) -> Tensor:
        return own(input_ids, position_ids, [torch.zeros_like(f) for f in features], *rest)  # type: ignore[no-any-return]

    monkeypatch.setattr(broken, "forward", deaf)
    monkeypatch.setattr(broken, "num_audio_tokens", lambda num_samples: 3)
    monkeypatch.setattr(broken, "features", lambda audio: torch.rand(16, len(Audio(audio.samples).samples) // 160))
    wrong = conformance.check(broken)
    assert {"audio_is_heard", "audio_takes_the_tokens_it_says", "features_are_exact"} <= set(wrong)
    assert wrong["features_are_exact"] == "features must be the same every time"


def test_the_command_tells_of_each_check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["conformance", str(models.find("nano"))])
    monkeypatch.delitem(sys.modules, conformance.__name__)  # it runs anew, as with python -m
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(conformance.__name__, run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out.count("✓") == len(conformance.CHECKS)
