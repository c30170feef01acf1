"""Operations on a segment before it is heard again: plain functions (Audio, Segment) -> Audio.

`Engine(model, operations={"seg": crop, "slow": slow})` offers them to the model: the key is the name of the tag. A
segment is always in seconds of the original recording, even if the operation changes its length.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import soxr

from relisten.audio import crop
from relisten.types import Audio, Segment

__all__ = ["Operation", "band", "crop", "slow"]

Operation = Callable[[Audio, Segment], Audio]


def slow(audio: Audio, segment: Segment) -> Audio:
    """The segment at half speed: twice as long and an octave lower, like a tape that is played slowly."""
    cut = crop(audio, segment)
    return Audio(soxr.resample(cut.samples, cut.rate, 2 * cut.rate), cut.rate)


def band(low: float, high: float) -> Operation:
    """An operation that keeps the frequencies from `low` to `high` (Hz) of a segment and removes all others."""
    if not 0 <= low < high:
        raise ValueError(f"a band needs 0 <= low < high, not {low:g} and {high:g} Hz; correct them")

    def isolate(audio: Audio, segment: Segment) -> Audio:
        cut = crop(audio, segment)
        num_samples = len(cut.samples)
        if not num_samples:
            return cut
        frequencies = np.fft.rfftfreq(num_samples, 1 / cut.rate)
        spectrum = np.where((low <= frequencies) & (frequencies <= high), np.fft.rfft(cut.samples), 0)
        return Audio(np.fft.irfft(spectrum, num_samples).astype(np.float32), cut.rate)

    return isolate
