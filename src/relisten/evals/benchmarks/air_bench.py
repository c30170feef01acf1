"""AIR-Bench, the foundation part: about 19,000 questions in 19 tasks (arXiv 2402.07729; github.com/OFA-Sys/AIR-Bench).

Read at commit 9832476. The chat part, which a language model compares with a reference, is not read here. Its script
leaves answers without a letter out of the denominator; here they count as wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from relisten.evals.benchmarks.layout import About, examples_in, first_of
from relisten.evals.benchmarks.mmsu import lettered
from relisten.types import Example

FILES = ("Foundation_meta.json", "Foundation/Foundation_meta.json")
ABOUT = About(
    "AIR-Bench Foundation", "about 19,000", "choice", "CC BY-NC 4.0",
    "huggingface.co/datasets/qyang1021/AIR-Bench-Dataset",
    "Foundation/ with Foundation_meta.json and a folder for each task and corpus",
)  # fmt: skip
SOUND = {"Audio_Grounding", "vocal_sound_classification", "Acoustic_Scene_Classification", "Sound_AQA"}
"""Tasks about sounds. Those about music begin with Music_; the others are about speech."""


def file(root: Path) -> Path:
    """The question file."""
    return first_of(root, FILES, ABOUT)


def examples(root: Path) -> list[Example]:
    """The questions in the folder of the data set, or in its folder Foundation/."""
    return examples_in(file(root), in_mmars_form)


def in_mmars_form(row: Mapping[str, Any]) -> dict[str, Any]:
    """The task as the category, the task with its corpus as the sub-category, which is what the script counts."""
    task, path = str(row.get("task_name", "")), str(row.get("path", ""))
    corpus = f"{task}_{row.get('dataset_name', '')}"
    if task == "Audio_Grounding":  # their own script opens these files so
        path = f"{path[:-3]}flac"
    modality = "music" if task.startswith("Music_") else "sound" if task in SOUND else "speech"
    answer = row.get("answer_gt")
    return dict(row) | {
        "id": row.get("uniq_id"), "audio_path": f"{corpus}/{path}" if path else "", "choices": lettered(row),
        "answer": None if answer is None else str(answer), "rule": "choice", "modality": modality, "category": task,
        "sub-category": corpus,
    }  # fmt: skip
