"""Ways to listen to a segment again: plain functions (Audio, Segment) -> Audio, and one table of them.

`Engine(model, operations={"seg": crop, "slow": slow})` offers them to the model: the key is the name of the tag. A
segment is always in seconds of the original recording, even if the operation changes its length. The length of the
result depends on the segment alone, so that a recorded answer can be replayed. No operation changes the recording.

Filters and the like are run on the segment with `AROUND` seconds before and after it, and the result is cut. So nothing
begins or fades at the edges, and an edge is as abrupt as that of a plain crop, not more.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from relisten import tags
from relisten.audio import crop, sample_at
from relisten.extras import install_hint
from relisten.types import Audio, Segment

if TYPE_CHECKING:
    from relisten.models.base import AudioLM

__all__ = [
    "WAYS", "Operation", "Way", "band", "clean", "crop", "high", "loud", "low", "offered", "offering", "phrase", "slow",
]  # fmt: skip

Operation = Callable[[Audio, Segment], Audio]
Samples = NDArray[np.float32]

AROUND = 0.25
"""Seconds of the recording on both sides of a segment that are processed with it."""
SPLIT = 1000.0
"""Hz. `low` keeps what is below, `high` what is above; together they are the segment itself."""
EDGE = 2 ** (1 / 6)
"""Ratio of frequencies. A filter fades from this far below its edge to this far above it, a third of an octave."""
LOUD, MOST, PEAK = 0.1, 100.0, 0.9
"""The level (RMS; full scale is 1) to which `loud` brings a segment, the largest gain, and the largest sample."""
NOISE = 10.0
"""Seconds on both sides of a segment from which `clean` learns what the noise is."""


def slow(audio: Audio, segment: Segment) -> Audio:
    """The segment at half speed: twice as long, at the same pitch."""
    from python_stretch.Signalsmith import Stretch

    def stretch(samples: Samples) -> Samples:
        stretcher: Any = Stretch()
        stretcher.preset(1, audio.rate)
        stretcher.setTimeFactor(0.5)
        # A copy, because it does not take an array that cannot be written to.
        return np.asarray(stretcher.process(np.array(samples[None], np.float32))[0])

    return _around(audio, segment, stretch, factor=2)


def low(audio: Audio, segment: Segment) -> Audio:
    """The frequencies of the segment below 1,000 Hz."""
    return band(audio, Segment(segment.start, segment.end, (0.0, SPLIT)))


def high(audio: Audio, segment: Segment) -> Audio:
    """The frequencies of the segment above 1,000 Hz."""
    return band(audio, Segment(segment.start, segment.end, (SPLIT, audio.rate / 2)))


def band(audio: Audio, segment: Segment) -> Audio:
    """The frequencies of the segment within its `band` (Hz); all others are removed. Nothing is delayed."""
    assert segment.band is not None
    lowest, highest = segment.band

    def keep(samples: Samples) -> Samples:
        spectrum, frequencies = np.fft.rfft(samples), np.fft.rfftfreq(len(samples), 1 / audio.rate)
        kept = np.ones(len(frequencies)) if highest >= audio.rate / 2 else 1 - _above(frequencies, highest)
        kept *= _above(frequencies, lowest) if lowest > 0 else 1
        return np.asarray(np.fft.irfft(spectrum * kept, len(samples)))

    return _around(audio, segment, keep)


def loud(audio: Audio, segment: Segment) -> Audio:
    """The segment as loud as speech usually is, if it is quieter: by at most 40 dB, and never so that it clips."""
    cut = crop(audio, segment)
    if not len(cut.samples):
        return cut
    level, peak = float(np.sqrt(np.mean(np.square(cut.samples, dtype=np.float64)))), float(np.abs(cut.samples).max())
    gain = max(1.0, min(LOUD / max(level, 1e-9), PEAK / max(peak, 1e-9), MOST))
    return Audio((cut.samples * np.float32(gain)).astype(np.float32), cut.rate)


def clean(audio: Audio, segment: Segment) -> Audio:
    """The segment with less noise. Noise is what goes on steadily in the 10 seconds before and after it."""
    from noisereduce import reduce_noise

    start, end = _samples(audio, segment)
    near = audio.samples[max(0, start - round(NOISE * audio.rate)) : end + round(NOISE * audio.rate)]

    def reduce(samples: Samples) -> Samples:
        if not samples.any():
            return samples
        # By default the mask is smoothed over 500 Hz, which takes 6 dB from a steady tone. Over 100 Hz it takes none.
        return np.asarray(
            reduce_noise(y=samples, y_noise=near, sr=audio.rate, stationary=True, n_fft=512, freq_mask_smooth_hz=100)
        )

    return _around(audio, segment, reduce)


@dataclass(frozen=True)
class Way:
    """A way to listen to a segment."""

    operation: Operation
    phrase: str
    """What was done, as it is told to people: "at half speed"."""
    tell: str
    """What a model that has not learnt it is told in its prompt."""
    needs: str = ""
    """The package that it needs beside those that relisten always has."""


WAYS: Mapping[str, Way] = {
    "seg": Way(crop, "", ""),
    "slow": Way(
        slow, "at half speed",
        " To hear a segment at half speed, write <slow>start, end</slow> in place of <seg>start, end</seg>.",
        "python_stretch",
    ),
    "low": Way(low, "below 1 kHz", " To hear only what is below 1,000 Hz, write <low>start, end</low>."),
    "high": Way(high, "above 1 kHz", " To hear only what is above 1,000 Hz, write <high>start, end</high>."),
    "band": Way(
        band, "a band of frequencies",
        " To hear only a band of frequencies, for example 300 to 3,400 Hz, write <band>start, end, 300, 3400</band>.",
    ),
    "loud": Way(loud, "made louder", " To hear a quiet segment louder, write <loud>start, end</loud>."),
    "clean": Way(
        clean, "with less noise", " To hear a segment with less noise, write <clean>start, end</clean>.", "noisereduce"
    ),
}  # fmt: skip
"""Every operation by the name of its tag."""


def offered(names: Collection[str]) -> dict[str, Operation]:
    """The operations of these names, and `seg`. Raises ValueError for unknown ones and for missing packages."""
    for name in _known(names):
        if WAYS[name].needs and find_spec(WAYS[name].needs) is None:
            package = WAYS[name].needs.replace("_", "-")
            raise ValueError(f"the operation {name} needs {package}; install it with {install_hint('operations')}")
    return {"seg": crop} | {name: WAYS[name].operation for name in names}


def named(chosen: str) -> list[str]:
    """The operations that a text chooses: "all", "none", or names with commas. Raises ValueError for unknown ones."""
    if chosen in ("all", "none"):
        return [*tags.OPERATIONS] if chosen == "all" else []
    return _known(list(dict.fromkeys(part.strip() for part in chosen.split(",") if part.strip())))


def _known(names: Collection[str]) -> list[str]:
    if unknown := [name for name in names if name not in tags.OPERATIONS]:
        raise ValueError(f"operation {unknown[0]!r} is not known; there are {', '.join(tags.OPERATIONS)}")
    return [*names]


def offering(model: AudioLM, chosen: str = "model") -> AudioLM:
    """The model, which is offered the operations that are chosen; what its prompt says of them comes with it.

    chosen: "model" (those that its `prompts.json` names), "all", "none", or names with commas. An operation that the
    model's prompts do not name is explained to it in the prompt. Raises ValueError as `offered` does.
    """
    known = model.prompts.operations
    names = [*known] if chosen == "model" else named(chosen)
    offered(names)
    if [*known] == names:
        return model
    other = copy.copy(model)
    told = {name: known.get(name, WAYS[name].tell) for name in names}
    other.prompts = replace(model.prompts, operations=told)
    return other


def phrase(name: str, segment: Segment) -> str:
    """What an operation did to a segment, for people; "" for a plain crop, and the tag's name for a user's own."""
    if segment.band is not None:
        return f"from {segment.band[0]:g} to {segment.band[1]:g} Hz"
    return WAYS[name].phrase if name in WAYS else name


def _samples(audio: Audio, segment: Segment) -> tuple[int, int]:
    start, end = (sample_at(seconds, audio.rate, len(audio.samples)) for seconds in (segment.start, segment.end))
    return start, max(start, end)


def _around(audio: Audio, segment: Segment, function: Callable[[Samples], Samples], factor: int = 1) -> Audio:
    """What a function makes of the segment and its surroundings, cut to the segment; factor: how much longer it is."""
    start, end = _samples(audio, segment)
    if start == end:
        return Audio(np.zeros(0, np.float32), audio.rate)
    first = max(0, start - round(AROUND * audio.rate))
    made = function(audio.samples[first : end + round(AROUND * audio.rate)])
    cut = made[factor * (start - first) : factor * (end - first)]
    missing = factor * (end - start) - len(cut)  # a library may round its length
    return Audio(np.pad(cut, (0, missing)).astype(np.float32), audio.rate)


def _above(frequencies: NDArray[np.floating], edge: float) -> NDArray[np.float64]:
    """A filter's gain, 0 below the edge and 1 above it, with half a cosine over a third of an octave between them."""
    place = np.log(np.maximum(frequencies, 1e-9) / edge) / np.log(EDGE)
    return np.asarray(0.5 + 0.5 * np.sin(np.pi / 2 * np.clip(place, -1, 1)))
