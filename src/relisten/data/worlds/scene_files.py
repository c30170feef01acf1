"""Writes scenes to disk: recordings, their events, and questions. The same seed gives the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from relisten import records
from relisten.audio import save
from relisten.data.offline.short import heard
from relisten.data.worlds import microphone
from relisten.data.worlds.hard import hard_scene
from relisten.data.worlds.scene_questions import make_questions
from relisten.data.worlds.scenes import MIN_GAP, Bank, SceneConfig, bank, fitted, make_scene
from relisten.data.worlds.synth import Split
from relisten.files import make_folder
from relisten.types import Audio, Clip, Example

SECONDS = (3.0, 600.0)
"""The shortest and the longest scene that can be asked for. Every computed sound fits into the shortest."""


def write_scenes(
    out: Path,
    *,
    num: int = 100,
    seed: int = 0,
    split: Literal["train", "heldout"] = "train",
    questions: int = 2,
    sounds: Path | None = None,
    max_seconds: float = SceneConfig.max_seconds,
    min_seconds: float | None = None,
    min_events: int = SceneConfig.min_events,
    max_events: int = SceneConfig.max_events,
    max_gap: float = SceneConfig.max_gap,
    world: Literal["mixed", "microphone", "words"] = "mixed",
    wordings: Literal["trained", "heldout"] = "trained",
    absent: float = 0.0,
    hard: float = 0.0,
) -> Path:
    """Make recordings with sounds at exact times, and questions about them with grounded chains of thought.

    Writes audio/*.flac, events.jsonl (what is heard when) and questions.jsonl (as MMAR's file, with a `cot`). The same
    arguments give the same bytes. If the command was interrupted, run it again.

    Parameters
    ----------
    out
        Folder to write audio/, events.jsonl and questions.jsonl to.
    num
        Number of scenes.
    seed
        Number of the first scene. Each scene depends only on its number and the other options.
    split
        Which recordings of sounds to use: train, or heldout, which has other recordings of the same sounds and, except
        for one voice, other voices.
    questions
        Questions about each scene. A scene that does not allow so many gets fewer.
    sounds
        A folder of your own sounds (LABEL/anything.wav) to use instead of the shipped recordings. Every fourth file of
        a label is held out; of two or three files the last one is; a single file is in both splits.
    max_seconds
        Length of the longest scene, in seconds. Long sounds of your own may need more.
    min_seconds
        Length of the shortest scene, in seconds. The default is 5, or max_seconds if that is less.
    min_events
        Fewest sounds to draw for a scene. If they do not all fit, the scene has fewer.
    max_events
        Most sounds to draw for a scene.
    max_gap
        Longest silence between two sounds, in seconds. A long scene with few sounds needs more, or nothing is heard at
        its end. In the world at the microphone each scene draws its own density, and neither this nor the number of
        sounds is used.
    world
        mixed: sounds over a noise floor. microphone: what a person can make at a desk, over recorded backgrounds;
        `sounds` is then the wider bank that runs/make_bank.py makes (default out/bank). words: from the same bank, one
        word of a real person in each recording, and the question which word it is, without choices.
    wordings
        How the questions of the world at the microphone are worded: as in nano's training, or as held out of it.
    absent
        The share of questions at the microphone whose sound is not there. If it is above 0, every question also offers
        "cannot tell".
    hard
        The share of sounds in the mixed world that are hard to make out in the recording and can be heard after an
        operation: quick, quiet, under a hum, under a hiss. events.jsonl says which operation each needs (`way`). See
        docs/operations.md.
    """
    if num < 1 or questions < 0 or seed < 0:
        raise ValueError("num must be at least 1, and seed and questions must not be negative")
    if not SECONDS[0] <= max_seconds <= SECONDS[1]:
        raise ValueError(f"max_seconds is {max_seconds:g}; use {SECONDS[0]:g} to {SECONDS[1]:g}")
    shortest = min(SceneConfig.min_seconds, max_seconds) if min_seconds is None else min_seconds
    if not SECONDS[0] <= shortest <= max_seconds:
        raise ValueError(f"min_seconds is {shortest:g}; use {SECONDS[0]:g} to max_seconds ({max_seconds:g})")
    if not 1 <= min_events <= max_events:
        raise ValueError(f"min_events is {min_events}, max_events {max_events}; use 1 to max_events for min_events")
    if not MIN_GAP <= max_gap <= SECONDS[1]:
        raise ValueError(f"max_gap is {max_gap:g}; use {MIN_GAP:g} to {SECONDS[1]:g}")
    if not 0 <= absent <= 1:
        raise ValueError(f"absent is {absent:g}; it is a share of the questions, from 0 to 1")
    if absent and world != "microphone":
        raise ValueError(f"absent is {absent:g}; only the world microphone has questions that cannot be answered")
    if wordings != "trained" and world == "mixed":
        raise ValueError(f"wordings is {wordings!r}; the questions of the world mixed have one wording each")
    if not 0 <= hard <= 1 or (hard and world != "mixed"):
        raise ValueError(f"hard is {hard:g}; it is a share of the sounds in the world mixed, from 0 to 1")
    if world == "mixed":
        config = SceneConfig(shortest, max_seconds, min_events, max_events, max_gap)
        make, ask = _mixed(config, bank(split, sounds), hard)
    else:
        make, ask = _at_microphone(world, split, sounds, (shortest, max_seconds), wordings, absent)
    asked, events = [], []
    for number in tqdm(range(seed, seed + num), desc="scenes", unit="scene"):
        clip = make(number, f"{split}-{number:07d}")
        path = make_folder(out / "audio") / f"{clip.id}.flac"
        assert isinstance(clip.audio, Audio)
        save(path, clip.audio)
        events.append(_events(clip))
        for example in ask(number, clip, questions):
            asked.append(records.record_from_example(replace(example, audio=path), out))
    if gone := [name for row in events if not (out / (name := str(row["audio_path"]))).is_file()]:
        raise ValueError(
            f"{out}: {len(gone)} of {num} recordings were removed while this command wrote, {gone[0]} for one; start it"
            " again, which gives the same recordings"
        )
    records.write_atomic(out / "events.jsonl", _jsonl(events))
    records.write_atomic(out / "questions.jsonl", _jsonl(asked))
    return out / "questions.jsonl"


Make = Callable[[int, str], Clip]
Ask = Callable[[int, Clip, int], list[Example]]


def _mixed(config: SceneConfig, sounds: Bank, hard: float) -> tuple[Make, Ask]:
    config = fitted(config, sounds)

    def make(number: int, name: str) -> Clip:
        return hard_scene(number, sounds, config, hard, name) if hard else make_scene(number, sounds, config, name)

    return (
        make,
        lambda number, clip, num: make_questions(number, clip, sounds, num),
    )


def _at_microphone(
    world: str, split: Split, folder: Path | None, seconds: tuple[float, float], wordings: str, absent: float
) -> tuple[Make, Ask]:
    sounds = microphone.microphone_bank(split, microphone.BANK if folder is None else folder)
    manner = microphone.TRAINED if wordings == "trained" else microphone.JUDGED
    if world == "words":
        real = microphone.real_words(sounds)
        return (
            lambda number, name: microphone.word_scene(number, sounds, real, name),
            lambda number, clip, num: [microphone.word_question(number, clip, manner)][:num],
        )
    return (
        lambda number, name: microphone.microphone_scene(number, sounds, seconds, name),
        lambda number, clip, num: microphone.microphone_questions(
            number, clip, sounds, num, manner, absent=absent, open=0.0, offered=float(absent > 0)
        ),
    )


def _events(clip: Clip) -> dict[str, object]:
    listed = [
        {"label": e.label, "start": round(e.start, 4), "end": round(e.end, 4), "heard": heard(e), **e.labels}
        for e in clip.events
    ]
    return {"id": clip.id, "audio_path": f"audio/{clip.id}.flac", "duration": clip.duration, "events": listed}


def _jsonl(rows: list[dict[str, object]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
