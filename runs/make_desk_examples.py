"""Makes examples/desk/: six recordings as a person would make them at a desk, imitated, and two questions about each.

    python runs/make_desk_examples.py --packages /tmp/relisten-packages --bank out/bank

Nobody sat at a desk. A voice of a telephone system (Allison Smith, real) or flite's rms (synthetic) says words. Claps,
knocks and whistles come from the models of relisten.data.worlds, in the bands from which no training draws. A finger
snap and a bell are recordings under CC0. All of it is mixed into a small room with a microphone's noise. The table of
what happens is desk.csv; NOTICE.md beside it names authors and licences. The questions are the first two that the
recording's number gives; none was chosen by what a model answers. Without --packages only they are made.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from bank.packages import recording
from bank.pieces import PEAK, Wave, trim
from bank.speakers import said
from bank.voices import Voice, spoken
from make_bank import words

from relisten.audio import save
from relisten.data.worlds import desk, synth
from relisten.data.worlds.microphone import BANK, microphone_bank, microphone_questions
from relisten.data.worlds.scenes import ATTRIBUTES, Bank
from relisten.records import record_from_example, write_atomic
from relisten.types import Audio, Clip, Event

OUT = Path(__file__).resolve().parent.parent / "examples" / "desk"
RECORDED = {"snap": "sonic:perc_snap2", "bell": "opensfx:14"}
PLAYS: dict[str, tuple[float, str, tuple[str, ...]]] = {
    "counting": (9.0, "allison", ("one", "two", "three", "knock:two", "seven", "clap:one")),
    "whistling": (10.0, "rms", ("whistle:rising", "stop", "whistle:falling", "snap", "go")),
    "at-the-door": (14.0, "allison", ("bell", "steps:slow", "hello", "cough:two", "goodbye")),
    "typing": (12.0, "rms", ("keyboard:fast", "red", "tap:three", "save", "phone:slow", "hum:rising")),
    "on-the-table": (12.0, "allison", ("glass:two", "monday", "keys:long", "alpha", "knock:three", "hum:falling")),
    "half-a-minute": (
        30.0,
        "allison",
        ("nine", "clap:two", "four", "whistle:falling", "july", "snap", "tap:two", "zero", "glass:one"),
    ),
}  # fmt: skip
"""Name -> seconds, who speaks, what happens: a word, a recorded sound, or a model with the value of its attribute."""


def sound(what: str, voice: dict[str, Wave], work: Path, rng: np.random.Generator) -> Wave:
    """[T] at 16 kHz with a peak of -3 dBFS."""
    label, _, value = what.partition(":")
    if label in RECORDED:
        return trim(recording(work, RECORDED[label])[0], 1.5)
    if value:
        module = desk if label in desk.KINDS else synth
        return module.make(label, rng, value, "heldout")[0]
    return voice[label]


def play(name: str, voices: dict[str, dict[str, Wave]], work: Path, seed: int) -> tuple[Wave, list[dict[str, str]]]:
    """The recording, and a row for each thing that happens in it."""
    seconds, speaker, script = PLAYS[name]
    rng = np.random.default_rng(seed)
    takes = [sound(what, voices[speaker], work, rng) for what in script]
    pause = (seconds - 1.2 - sum(map(len, takes)) / synth.RATE) / len(takes)
    if pause < 0.25:
        raise SystemExit(f"{name}: {seconds:g} s are too short for its sounds")
    mix, at, rows = np.zeros(round(seconds * synth.RATE), np.float32), 0.5 + rng.uniform(0, 0.3), []
    for what, take in zip(script, takes, strict=True):
        label, _, value = what.partition(":")
        start = round(at * synth.RATE)
        level = 10 ** (rng.uniform(-12, -2) / 20)
        mix[start : start + len(take)] += np.float32(level) * take
        end = at + len(take) / synth.RATE
        kind = "word" if label in voices[speaker] else "sound"
        rows.append(
            {
                "file": f"{name}.flac",
                "start": f"{at:.2f}",
                "end": f"{end:.2f}",
                "what": label,
                "kind": kind,
                "how": value,
            }
        )
        at = end + pause * rng.uniform(0.75, 1.2)
    mix = synth.room(mix, rng, float(rng.uniform(0.2, 0.4)))[: len(mix)]
    mix += synth.noise_bed(rng, len(mix), "pink") * np.float32(10 ** (-52 / 20))
    return mix * np.float32(PEAK / np.abs(mix).max()), rows


def questions(sounds: Bank) -> Iterator[dict[str, object]]:
    """Two questions about each recording, with wrong choices from the labels of the microphone's world."""
    with (OUT / "desk.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for number, name in enumerate(PLAYS, start=1):
        happens = [row for row in rows if row["file"] == f"{name}.flac"]
        clip = Clip(name, OUT / f"{name}.flac", PLAYS[name][0], tuple(map(event, happens)))
        for example in microphone_questions(number, clip, sounds, 2, absent=0.0, open=0.0, offered=0.0):
            yield record_from_example(example, OUT)


def event(row: dict[str, str]) -> Event:
    """A row of desk.csv, with the labels that questions are made from."""
    labels = {"attribute": ATTRIBUTES[row["what"]][0], "value": row["how"]} if row["how"] else {}
    group = {"group": "word"} if row["kind"] == "word" else {}
    return Event(row["what"], float(row["start"]), float(row["end"]), labels | group)


def make(work: Path) -> None:
    """Write the recordings and desk.csv."""
    used = [word for _, speaker, script in PLAYS.values() if speaker == "rms" for word in script if word in words()]
    voices = {
        "allison": {piece.label: wave for piece, wave in said(work, "allison", words())},
        "rms": {piece.label: trim(wave, 1.2) for piece, wave in spoken(Voice("rms", "flite", "heldout"), used, work)},
    }
    OUT.mkdir(parents=True, exist_ok=True)
    everything = []
    for seed, name in enumerate(PLAYS, start=1):
        samples, rows = play(name, voices, work, seed)
        save(OUT / f"{name}.flac", Audio(samples.astype(np.float32), synth.RATE))
        everything += rows
    with (OUT / "desk.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, everything[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(everything)


def main() -> None:
    """Carry out the usage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, help="as for make_bank.py")
    parser.add_argument("--bank", type=Path, default=BANK, help="what make_bank.py has made")
    given = parser.parse_args()
    if given.packages:
        make(given.packages)
    lines = (json.dumps(record) + "\n" for record in questions(microphone_bank("heldout", given.bank)))
    write_atomic(OUT / "questions.jsonl", "".join(lines))


if __name__ == "__main__":
    main()
