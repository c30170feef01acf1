"""Operations do to sound what they say: length, spectrum, level, edges; and every tag goes the way that <seg> goes."""

from __future__ import annotations

import copy
import io
from collections.abc import Sequence
from dataclasses import replace

import httpx2
import numpy as np
import pytest
import soundfile
from conftest import make_example, make_model
from numpy.typing import NDArray

from relisten import audio, tags
from relisten.engine import operations
from relisten.engine.answer import answered
from relisten.engine.engine import Engine
from relisten.engine.generation import GenerationConfig
from relisten.engine.naive import naive
from relisten.engine.operations import AROUND, WAYS, band, clean, crop, high, loud, low, offered, offering, slow
from relisten.engine.scripted import END, ScriptedEngine, script
from relisten.evals import runner
from relisten.evals.hearing import Hears, hearing
from relisten.evals.runs import checked, listens
from relisten.models import nano
from relisten.models.base import AudioLM
from relisten.reports import answer_json
from relisten.training import rewards
from relisten.training.batch import encode, replay
from relisten.types import Audio, Segment
from tests.serving import EXAMPLES, FakeBatch, encoded, running

RATE = 16_000
NAMES = [*WAYS]
INSIDE = Segment(1.0, 2.0)
TELEPHONE = (300.0, 3400.0)


def tones(*pitches: float, seconds: float = 4.0, level: float = 0.2) -> Audio:
    time = np.arange(round(seconds * RATE)) / RATE
    return Audio(sum(level * np.sin(2 * np.pi * pitch * time) for pitch in pitches).astype(np.float32), RATE)  # type: ignore[union-attr]


def noise(seconds: float = 4.0, level: float = 0.05, seed: int = 0) -> Audio:
    drawn = np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    return Audio((level * drawn).astype(np.float32), RATE)


def decibels(samples: NDArray[np.float32], pitch: float) -> float:
    """The level at one frequency (Hz)."""
    window = np.hanning(len(samples))
    spectrum = np.abs(np.fft.rfft(samples * window)) / window.sum() * 2
    frequencies = np.fft.rfftfreq(len(samples), 1 / RATE)
    return float(20 * np.log10(spectrum[np.abs(frequencies - pitch) < 25].max() + 1e-12))


def rms(samples: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def segment(name: str, start: float, end: float) -> Segment:
    return Segment(start, end, TELEPHONE if name == "band" else None)


# --- what is heard --------------------------------------------------------------------------------------------------


def test_the_table_has_every_tag_of_the_grammar() -> None:
    assert (NAMES[0], tuple(NAMES[1:])) == ("seg", tags.OPERATIONS)
    assert crop is audio.crop
    for name in tags.OPERATIONS:
        assert f"<{name}>" in WAYS[name].tell and WAYS[name].phrase


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("start", "end"), [(0, 4), (1, 2), (3.9, 9), (8, 9), (1, 1.0001), (0.3, 0.31)])
def test_the_length_depends_on_the_segment_alone(name: str, start: float, end: float) -> None:
    """Also for stretches of a few samples, and for silence. The recording itself stays as it is."""
    for recording in (noise(), Audio(np.zeros(4 * RATE, np.float32), RATE), tones(440, level=0.9)):
        recording.samples.flags.writeable = False  # as what comes from a decoding process
        before = recording.samples.copy()
        cut = crop(recording, Segment(start, end))
        heard = WAYS[name].operation(recording, segment(name, start, end))
        assert len(heard.samples) == len(cut.samples) * (2 if name == "slow" else 1)
        assert (heard.samples.dtype, heard.rate) == (np.float32, RATE)
        assert np.isfinite(heard.samples).all()
        assert np.array_equal(recording.samples, before)
        if not before.any():
            assert not heard.samples.any(), "silence stays silent"


def test_slow_keeps_the_pitch_and_the_order_of_events() -> None:
    heard = slow(tones(500, 3000), INSIDE).samples
    assert all(
        abs(decibels(heard, pitch) - decibels(crop(tones(500, 3000), INSIDE).samples, pitch)) < 1.5
        for pitch in (500, 3000)
    )
    assert max(decibels(heard, pitch) for pitch in (250, 1000, 1500, 6000)) < -50
    bursts = tones(800).samples * 0
    for at in (1.1, 1.3, 1.45):
        bursts[round(at * RATE) : round((at + 0.05) * RATE)] = tones(800, seconds=0.05, level=0.5).samples
    level = np.convolve(np.abs(slow(Audio(bursts, RATE), INSIDE).samples), np.ones(160) / 160, "same")
    on = np.flatnonzero((level[1:] > 0.05) & (level[:-1] <= 0.05)) / RATE
    assert np.allclose(on, [0.2, 0.6, 0.9], atol=0.02)


@pytest.mark.parametrize(
    ("name", "kept", "gone"), [("low", [200, 800], [1300, 4000]), ("high", [1300, 4000], [200, 800]),
                               ("band", [400, 3000], [200, 4500])],
)  # fmt: skip
def test_a_filter_keeps_its_frequencies_and_removes_the_rest(name: str, kept: list[int], gone: list[int]) -> None:
    recording = tones(*kept, *gone)
    heard = WAYS[name].operation(recording, segment(name, 1, 2)).samples
    before = crop(recording, INSIDE).samples
    assert max(abs(decibels(heard, pitch) - decibels(before, pitch)) for pitch in kept) < 0.1
    assert max(decibels(heard, pitch) - decibels(before, pitch) for pitch in gone) < -60


def test_low_and_high_together_are_the_segment() -> None:
    recording = noise()
    both = low(recording, INSIDE).samples + high(recording, INSIDE).samples
    assert np.allclose(both, crop(recording, INSIDE).samples, atol=1e-6)
    everything = band(recording, replace(INSIDE, band=(0.0, 8000.0))).samples
    assert np.allclose(everything, crop(recording, INSIDE).samples, atol=1e-6)


@pytest.mark.parametrize("name", ["low", "high", "band"])
def test_a_filter_makes_no_click_at_an_edge(name: str) -> None:
    """Filtering the bare crop would wrap around: its first and last samples would differ from those within."""
    recording = tones(400, 2000)
    inner = WAYS[name].operation(recording, segment(name, 1, 2)).samples
    wide = WAYS[name].operation(recording, segment(name, 1 - AROUND / 2, 2 + AROUND / 2)).samples
    edge = round(AROUND / 2 * RATE)
    assert np.abs(inner - wide[edge : edge + len(inner)]).max() < 0.01
    assert np.abs(np.diff(inner)).max() < 1.05 * np.abs(np.diff(inner[2000:-2000])).max()


def test_loud_brings_up_what_is_quiet_and_nothing_else() -> None:
    for level, wanted in ((0.001, 0.1), (0.00001, 0.001), (0.2, 0.2 / np.sqrt(2))):
        recording = tones(440, level=level * np.sqrt(2) if level < 0.1 else level)
        assert rms(loud(recording, INSIDE).samples) == pytest.approx(wanted, rel=0.01)
    click = np.zeros(4 * RATE, np.float32)
    click[RATE + 100] = 0.5
    assert np.abs(loud(Audio(click, RATE), INSIDE).samples).max() == pytest.approx(0.9, rel=1e-4)


def test_clean_lowers_steady_noise_and_keeps_what_stands_out() -> None:
    recording = noise(level=0.02)
    recording.samples[round(1.4 * RATE) : round(1.7 * RATE)] += tones(700, seconds=0.3).samples
    before, after = crop(recording, INSIDE).samples, clean(recording, INSIDE).samples
    assert 20 * np.log10(rms(after[:5000]) / rms(before[:5000])) < -15
    tone = slice(round(0.45 * RATE), round(0.65 * RATE))
    assert abs(decibels(after[tone], 700) - decibels(before[tone], 700)) < 1
    assert np.abs(np.diff(after)).max() <= np.abs(np.diff(before)).max()


def test_unknown_operations_and_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(offered(("low", "band"))) == ["seg", "low", "band"]
    with pytest.raises(ValueError, match="operation 'fast' is not known; there are slow, low"):
        offered(("fast",))
    monkeypatch.setattr(operations, "find_spec", lambda name: None)
    assert list(offered(("high",))) == ["seg", "high"]
    with pytest.raises(ValueError, match=r"slow needs python-stretch; install it with pip install .*operations"):
        offered(("slow",))


# --- how a model uses them ------------------------------------------------------------------------------------------

TEXT = (
    "<think>a <slow>0.5, 0.9</slow>, <low>0.1, 9</low>. <band>0.4, 1.2, 300, 9000</band> so <loud>1.0, 1.4</loud>"
    " <clean>0.2, 0.6</clean>\n <high>0.3, 0.6</high><seg>0.2, 0.5</seg></think><answer>a dog</answer>"
)
USED = ["slow", "low", "band", "loud", "clean", "high", "seg"]


def knowing(model: AudioLM, names: Sequence[str] = tags.OPERATIONS) -> AudioLM:
    known = copy.copy(model)
    known.prompts = replace(model.prompts, operations=dict.fromkeys(names, ""))
    return known


@pytest.mark.parametrize("whole_tags", [False, True])
def test_engine_naive_loop_and_training_agree_token_for_token(whole_tags: bool) -> None:
    """In Qwen's vocabulary, and in one where each tag is one token that the model chooses itself."""
    size = nano.NanoConfig(hidden_size=64, num_mel_bins=16, audio_width=48)
    model = knowing(nano.create([TEXT] * 3, size) if whole_tags else make_model(layers=1))
    example = make_example(2.0)
    own = script(model, TEXT, END)
    engine = ScriptedEngine(model, lambda i, s: own if s == 0 else script(model, "<think>", 3, "</think>", END))
    [[trace, _]] = engine.generate([example], GenerationConfig(max_new_tokens=400), 2)
    assert [listen.operation for listen in trace.listens[1:]] == USED
    assert trace.listens[3].segment == Segment(0.4, 1.2, (300.0, 8000.0)), "clamped to what the model can take"
    assert trace.listens[1].num_tokens == model.num_audio_tokens(2 * round(0.4 * RATE))
    assert not trace.refusals and trace.text == TEXT
    other = naive(model, example, GenerationConfig(max_new_tokens=400), script=own)
    assert (trace.token_ids, trace.sampled, trace.operations) == (other.token_ids, other.sampled, other.operations)
    np.testing.assert_allclose(trace.logprobs, other.logprobs, atol=2e-5)
    learnt = encode(model, replace(example, cot=TEXT[7:-30], answer="a dog"), "interleaved")
    assert (learnt.trace.token_ids, learnt.trace.sampled) == (trace.token_ids, trace.sampled)
    assert [x.operation for x in learnt.trace.listens] == [x.operation for x in trace.listens]
    assert isinstance(example.audio, Audio)
    [again] = replay(model, example.audio, [trace], engine.operations)
    assert all(a.equal(b) for a, b in zip(learnt.features, again.features, strict=True))


def test_a_model_that_is_not_told_of_operations_writes_plain_text() -> None:
    model, example = make_model(layers=1), make_example(2.0)
    own = script(model, TEXT, END)
    [[trace]] = ScriptedEngine(model, lambda i, s: own).generate([example], GenerationConfig(max_new_tokens=400))
    assert [listen.operation for listen in trace.listens[1:]] == ["seg"]
    assert trace.operations == ("seg",) and not trace.refusals
    assert Engine(model).operations == {"seg": crop}
    assert "<slow>" not in model.prompts.text("What?", (), "interleaved")


def test_one_policy_and_one_budget_for_all_tags() -> None:
    model = knowing(make_model(layers=1))
    text = ("<think><slow>0.5, 0.6</slow><low>3, 4</low><band>0, 1, 8000, 9000</band><band>0, 1</band><high>1, x</high>"
            "<loud>0, 1</loud><seg>0, 1</seg><clean>0, 1</clean>")  # fmt: skip
    own = script(model, text, 2, END)
    config = GenerationConfig(max_new_tokens=400, max_listens=2)
    [[trace]] = ScriptedEngine(model, lambda i, s: own).generate([make_example(2.0)], config)
    assert [listen.operation for listen in trace.listens[1:]] == ["loud", "seg"]
    reasons = [refusal.reason for refusal in trace.refusals]
    assert reasons == ["too short", "outside", "outside", "unreadable", "unreadable", "too many"]
    assert trace.finish == "listens"


def test_a_slow_segment_longer_than_the_model_takes_is_refused() -> None:
    """Some models take 30 s at most: the segment fits, but not at half speed. It once ended the whole batch."""
    model = knowing(make_model(layers=1))
    model.max_seconds = 2.5
    cot = "It <slow>0, 2</slow> is <slow>0.5, 1.5</slow>"
    own = script(model, f"<think>{cot}</think><answer>a</answer>", END)
    [[trace]] = ScriptedEngine(model, lambda i, s: own).generate([make_example(2.0)], GenerationConfig())
    assert [(r.text, r.reason) for r in trace.refusals] == [("<slow>0, 2</slow>", "too long")]
    assert [listen.segment for listen in trace.listens[1:]] == [Segment(0.5, 1.5)]
    learnt = encode(model, replace(make_example(2.0), cot=cot, answer="a"), "interleaved").trace
    assert (learnt.token_ids, learnt.refusals) == (trace.token_ids, trace.refusals)


def test_the_prompt_tells_of_operations_where_segments_are_named() -> None:
    model = knowing(make_model(layers=1))
    told = replace(model.prompts, operations={"slow": " Use <slow>.", "low": ""})
    for format in ("grounded", "interleaved"):
        assert told.text("What?", (), format).endswith("</answer>. Use <slow>.")  # type: ignore[arg-type]
    assert not told.text("What?", (), "conditioned").endswith("<slow>.")


def test_what_is_offered_is_chosen_by_name() -> None:
    model = knowing(make_model(layers=1), ("slow", "low"))
    assert offering(model) is model
    chosen = offering(model, "low, clean")
    assert chosen.prompts.operations == {"low": "", "clean": WAYS["clean"].tell}, "what it knows needs no telling"
    assert model.prompts.operations == {"slow": "", "low": ""}
    assert [*offering(model, "all").prompts.operations] == [*tags.OPERATIONS]
    assert not offering(model, "none").prompts.operations
    with pytest.raises(ValueError, match="operation 'fast' is not known; there are slow, low"):
        offering(model, "fast")


def test_a_chain_with_an_operation_that_is_not_offered_is_not_learnt_as_plain_text() -> None:
    example = replace(make_example(2.0), id="q7", cot="It <slow>0, 1</slow> is", answer="a")
    with pytest.raises(ValueError, match=r"q7: its chain of thought uses <slow>.* --operations slow"):
        encode(make_model(layers=1), example, "interleaved")


def test_a_use_is_rewarded_and_recorded_as_a_listen_is() -> None:
    model = knowing(make_model(layers=1))
    example = replace(make_example(2.0), choices=("a dog", "a cat"), answer="a dog")
    text = "<think>It <slow>0.5, 1.0</slow>, then <band>0, 1, 300, 3400</band> It.</think><answer>a dog</answer>"
    own = script(model, text, END)
    config = GenerationConfig(max_new_tokens=400)
    [[trace]] = ScriptedEngine(model, lambda i, s: own).generate([example], config)
    response = rewards.traced(model, trace, config)
    assert response.heard == (Segment(0.5, 1.0), Segment(0.0, 1.0, TELEPHONE))
    assert response.continuations == (",", "I")
    found = rewards.score(rewards.find(["format", "consistency", "accuracy", "segment"]), response, example)
    assert found == {"format": 0.5, "consistency": -0.1, "accuracy": 0.5, "segment": 0.5}
    record = runner.record(example, trace)
    assert (record["operations"], record["well_formed"]) == (["slow", "band 300 3400"], True)
    assert record["heard"] == record["named"] == [[0.5, 1.0], [0.0, 1.0]]
    checked("a line", record)
    assert [(x.segment, x.operation) for x in listens(record)] == [(x.segment, x.operation) for x in trace.listens[1:]]
    shown = answer_json.as_json(answered(trace, example.choices, {}))["segments"]
    assert [(s["operation"], s.get("band")) for s in shown] == [("slow", None), ("band", [300.0, 3400.0])]


@pytest.mark.parametrize("hears", ["silence", "other", "random", "neighbour"])
def test_a_control_replaces_what_is_heard_and_the_operation_stays(hears: Hears) -> None:
    model = knowing(make_model(layers=1))
    asked = [make_example(2.0, seed=1), replace(make_example(2.0, seed=2), id="other")]
    control = hearing(hears, asked, model)
    ready = control.ready(asked[0])
    given, own = control.operations(("slow",)), Segment(0.2, 0.6)
    assert isinstance(ready.audio, Audio) and isinstance(asked[1].audio, Audio)
    heard = given["slow"](ready.audio, own).samples
    assert len(heard) == 2 * len(given["seg"](ready.audio, own).samples)
    assert not np.array_equal(heard, slow(ready.audio, own).samples)
    if hears == "other":
        assert np.array_equal(heard, slow(asked[1].audio, own).samples)


def test_the_server_renders_a_segment_as_it_was_heard() -> None:
    with running(FakeBatch()) as (address, _):
        given = {"input_audio": {"data": encoded(EXAMPLES / "scene-2.flac")}, "segment": [1.0, 1.5]}

        def post(**more: object) -> httpx2.Response:
            return httpx2.post(f"{address}/v1/relisten/clip", json=given | more, timeout=60.0)

        recording = audio.load(EXAMPLES / "scene-2.flac")
        heard, _ = soundfile.read(io.BytesIO(post(operation="slow").content), dtype="float32")
        assert np.allclose(heard, slow(recording, Segment(1.0, 1.5)).samples, atol=1e-4)
        part = Audio(recording.samples[8000:40_000], RATE)
        heard, _ = soundfile.read(
            io.BytesIO(post(operation="band", band=[300, 3400], stretch=[0.5, 2.5]).content), dtype="float32"
        )
        assert np.allclose(heard, band(part, Segment(1.0, 1.5, TELEPHONE)).samples, atol=1e-4)
        for wrong in ({"operation": "fast"}, {"operation": "band"}, {"operation": "low", "band": [1, 2]},
                      {"segment": [2, 1]}, {"segment": [90, 91]}, {"operation": "band", "band": [3, 2]}):  # fmt: skip
            assert post(**wrong).status_code == 400, wrong
        assert httpx2.get(f"{address}/v1/models").json()["data"][0]["relisten"]["operations"] == NAMES
