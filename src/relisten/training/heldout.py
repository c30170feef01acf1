"""Held-out questions, which the model answers at intervals during training, so that its progress can be measured.

The answers are generated with the engine, in the format of the run, and greedily, so that they depend only on the
weights. The checkpoint with the highest accuracy is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from relisten import run, tags
from relisten.choices import read_choice
from relisten.engine.answer import answer_each
from relisten.engine.engine import Engine
from relisten.engine.generation import GenerationConfig
from relisten.same_text import is_right
from relisten.training.config import TrainingConfig
from relisten.training.progress import tell
from relisten.types import Example, Trace

ACCURACY, QUESTIONS = "eval_accuracy", "eval_questions"


def ask(engine: Engine, examples: Sequence[Example], config: GenerationConfig) -> list[dict[str, float]]:
    """The scores of each answer: `right`, `well_formed`, `segments` (how many were heard), `failed`.

    An answer to a question with choices is right if the choice that it declares is the right one, as in `relisten
    eval` (`exact` in its summary.json). A question that could not be asked counts as wrong and as failed.
    """
    found: list[dict[str, float]] = []
    for index, _, trace in answer_each(engine, examples, config):
        if isinstance(trace, str):
            tell(f"{examples[index].id} of the held-out questions cannot be asked: {trace}")
            found.append({"right": 0.0, "failed": 1.0})
        else:
            found.append(_judged(examples[index], trace))
    return found


def _judged(example: Example, trace: Trace) -> dict[str, float]:
    response = tags.parse(trace.text, trace.operations)
    said = read_choice(response.answer, example.choices) if example.choices else response.answer
    return {
        "right": float(is_right(said, example.answer, example.choices)),
        "well_formed": float(response.well_formed and trace.finish == "stop"),
        "segments": float(len(trace.listens) - 1),
        "failed": 0.0,
    }


def figures(answers: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Accuracy and the means of the other scores. Questions that failed count only in the accuracy."""
    asked = [one for one in answers if not one["failed"]]
    return {
        ACCURACY: sum(one["right"] for one in answers) / len(answers),
        QUESTIONS: len(answers),
        "eval_well_formed": sum(one["well_formed"] for one in asked) / max(1, len(asked)),
        "eval_segments": sum(one["segments"] for one in asked) / max(1, len(asked)),
        "eval_failed": len(answers) - len(asked),
    }


def evaluated(history: Sequence[Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    """The figures of each evaluation by its step, from the log of `Trainer`."""
    return {int(line["step"]): line for line in history if ACCURACY in line}


def best_step(history: Sequence[Mapping[str, Any]]) -> int | None:
    """The first step with the highest accuracy. The model before training is not one of them."""
    found = {step: line[ACCURACY] for step, line in evaluated(history).items() if step > 0}
    return max(found, key=lambda step: (found[step], -step)) if found else None


def has_stalled(history: Sequence[Mapping[str, Any]], patience: int) -> bool:
    """Whether the best accuracy is older than `patience` evaluations; never with a patience of 0."""
    best = best_step(history)
    if best is None or patience == 0:
        return False
    return sum(step > best for step in evaluated(history)) >= patience


class HeldOutQuestions(TrainerCallback):
    """Schedules the evaluations, keeps the best checkpoint, names it in run.json, and stops early if `patience` is set.

    All decisions depend on the log in the checkpoints, so a resumed run decides as an undisturbed one.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self.folder, self.patience = config.output, config.patience
        self.every = config.eval_steps or config.save_steps

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.every == 0 or state.global_step >= state.max_steps:
            control.should_evaluate = True

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
        if state.is_world_process_zero:
            tell(
                f"step {state.global_step:,}: accuracy {metrics[ACCURACY]:.3f} of {metrics[QUESTIONS]:,} held-out"
                f" questions; {metrics['eval_well_formed']:.0%} of the answers well-formed,"
                f" {metrics['eval_segments']:.1f} segments heard per answer"
            )
        if state.global_step == best_step(state.log_history):
            control.should_save = True
        if has_stalled(state.log_history, self.patience):
            control.should_save = control.should_training_stop = True
            if state.is_world_process_zero:
                tell(
                    f"step {state.global_step:,}: {self.patience} evaluations have not exceeded the best accuracy: the"
                    " run ends here (patience)"
                )

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        best = best_step(state.log_history)
        if state.is_world_process_zero and best is not None:
            line = evaluated(state.log_history)[best]
            told = {"checkpoint": f"checkpoints/checkpoint-{best}", "step": best}
            run.note(self.folder, {"best": told | {"accuracy": line[ACCURACY], "questions": line[QUESTIONS]}})


def told(config: TrainingConfig, history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines about the held-out questions for the end of a run: the first, the last and the best accuracy."""
    found, best = evaluated(history), best_step(history)
    if best is None:
        return []
    first, last = min(found), max(found)
    num = found[last][QUESTIONS]
    steps = ", ".join(f"{found[step][ACCURACY]:.3f} at step {step:,}" for step in dict.fromkeys((first, last)))
    lines = [f"accuracy of {num:,} held-out questions: {steps}"]
    if best != last:
        folder = Path(config.output) / "checkpoints" / f"checkpoint-{best}"
        lines.append(f"the best was {found[best][ACCURACY]:.3f} at step {best:,}: {folder}")
    return lines
