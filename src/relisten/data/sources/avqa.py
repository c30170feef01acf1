"""AVQA: questions about videos of 10 s, used for RL (R1-AQA, and Echo's ablations D', E').

The corpus has its own questions: `examples(root)` gives them, with "video" replaced by "audio". `clips(root)` gives the
recordings, described by their answered questions, so that new questions can be composed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from relisten import records
from relisten.data.sources import About, LeftOut, Recordings, loaded, objects, required, together
from relisten.types import Clip, Example

ABOUT = About(
    "AVQA: 40.4k training questions with four choices about 10 s of video sound, no times",
    "https://mn.cs.tsinghua.edu.cn/avqa (train_qa.json); the recordings are VGGSound's, in any folder beside it",
    "not stated where it is published; VGGSound's labels CC BY 4.0",
    ("**/train_qa.json", "**/AVQA*.jsonl"),
)
RELATIONS = ("Sound", "Both")
"""Relations that a question may ask about. Questions about `View` cannot be answered from the audio; R1-AQA and Echo's
ablations used them as well."""


def clips(root: Path, leave: LeftOut) -> Iterator[Clip]:
    """Each recording once, its answered questions as a description."""
    answered = ((str(one.audio), one) for one in examples(root, leave))
    for name, asked in together(answered, leave, told=lambda path: Path(path).name):
        said = " ".join(f"{example.question} {example.answer}." for example in asked)
        yield Clip(f"avqa-{Path(name).stem}", Path(name), asked[0].labels["duration"], (), {"sound": said})


def examples(root: Path, leave: LeftOut) -> Iterator[Example]:
    """The training questions as RL examples, from train_qa.json or a JSONL in R1-AQA's form."""
    path = required(root, "train_qa.json", "**/train_qa.json", "**/AVQA*.jsonl")
    rows = records.read(path) if path.suffix == ".jsonl" else objects(loaded(path), path)
    recordings = Recordings(root, leave)
    for row in rows:
        id = str(row.get("id", ""))
        if (reason := refused(row)) is not None:
            leave(id, reason)
            continue
        found = recordings.find(id, stems(row))
        if found is not None:
            choices = tuple(choice.strip() for choice in row["multi_choice"])
            labels = {"source": "avqa", "relation": row["question_relation"], "duration": found[1]}
            question = heard(row["question_text"])
            yield Example(f"avqa-{id}", found[0], question, choices, choices[row["answer"]], labels=labels)


def refused(row: Mapping[str, Any]) -> str | None:
    """Why a question is not used, or None."""
    choices, answer = row.get("multi_choice"), row.get("answer")
    if not isinstance(row.get("question_text"), str) or not row.get("video_name"):
        return "row has no question or no video"
    if not isinstance(choices, list) or not all(isinstance(choice, str) and choice.strip() for choice in choices):
        return "row has no choices"
    if not isinstance(answer, int) or not 0 <= answer < len(choices):
        return "the answer is not the number of a choice"
    if len({choice.strip().casefold() for choice in choices}) < len(choices):
        return "two choices are the same"
    if row.get("question_relation") not in RELATIONS:
        return f"asks about {row.get('question_relation')}"
    return None


def stems(row: Mapping[str, Any]) -> list[str]:
    """Names that a recording may have: the list's own, VGGSound's, and R1-AQA's with the start not padded."""
    name = str(row["video_name"])
    video, _, start = name.rpartition("_")
    unpadded = [f"{video}_{int(start)}"] if start.isdigit() else []
    given = [Path(str(row["audio_path"])).stem] if row.get("audio_path") else []
    return list(dict.fromkeys([*given, name, *unpadded]))


def heard(question: str) -> str:
    """The question with "video" replaced by "audio"."""
    question = re.sub(r"\bvideos?\b", "audio", question.strip())
    return re.sub(r"\bVideos?\b", "Audio", question)
