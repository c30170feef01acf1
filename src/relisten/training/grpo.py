"""GRPO in which the segments are really heard: sample a group of answers to each question, reward them, compare them.

One step of `Trainer` is one rollout of `batch_size` questions, in which the optimiser makes a step for each mini-batch.
So a checkpoint never falls between a rollout and its updates, and sampled answers need not be saved.

It differs from the authors' code, and follows the paper where the two differ: segments of any length from 0.2 s are
inserted; every term leaves out inserted audio; the end token is trained; the sampled tokens themselves are trained, and
never the tokens of their text tokenised again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import Dataset

from relisten.audio import load
from relisten.engine.answering import Answering
from relisten.engine.engine import Engine
from relisten.models import adapter
from relisten.models.base import AudioLM
from relisten.training import packing, rewards, rollout
from relisten.training import trainer as training
from relisten.training.batch import Encoded, model_inputs, pack, replay
from relisten.training.config import GrpoConfig, num_processes
from relisten.training.losses import grpo_loss, token_weights
from relisten.training.plan import Rows, TrainingPlan, planned, sole_run
from relisten.training.progress import TrainingProgress, not_finite, tell
from relisten.training.rollout import Rollout
from relisten.training.trainer import PackedTrainer, token_logprobs_of
from relisten.types import Audio, Example

LARGEST = ("ratio_max", "logprob_difference", "forward_tokens")
"""Figures of a step that are the largest of its mini-batches; the others are means."""


Rollouts = Callable[[str, AudioLM, int, Path], Answering]
"""Given the name of an engine, the model, how many answers are generated side by side, and a folder for weights that
are handed over: the engine."""


@dataclass(slots=True)
class Forward:
    """Answers that go through the model together, with K sampled tokens in the order of the answers."""

    inputs: dict[str, Any]
    """A packed batch, with `token_ids` [K]."""
    rollouts: list[Rollout]
    lengths: Tensor
    """int64 [N], the number of sampled tokens of each answer."""
    sampled: Tensor
    """[K] log-probabilities during the rollout."""
    old: Tensor | None = None
    """[K] the same, computed again before the first update; None if they are not needed."""
    idle: bool = False
    """Whether it only keeps step with a process that has more forwards, and counts for nothing."""


class QuestionDataset(Dataset[Example]):
    """The questions that GRPO asks, by index, with their recordings in memory."""

    def __init__(self, rate: int, rows: Rows, num: int) -> None:
        self.rate, self.rows, self.num = rate, rows, num

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> Example:
        found = self.rows(index)
        if len(found) != 1:
            raise ValueError(f"data: the function gave {len(found)} examples for index {index}; it must give one")
        example: Example = found[0]
        recording = example.audio
        if isinstance(recording, Audio):
            return example
        try:
            return replace(example, audio=load(recording, self.rate))
        except (ValueError, OSError):
            return example  # the engine will say why it cannot be asked; one file does not end a run


class GrpoTrainer(PackedTrainer):
    """`transformers.Trainer` in which one step is a rollout and its updates."""

    config: GrpoConfig  # narrower than the base's

    def __init__(self, audio_lm: AudioLM, config: GrpoConfig, rollouts: Rollouts | None = None, **kwargs: Any) -> None:
        """rollouts: makes the engine that samples the answers, if it is not the one in this process."""
        self.functions = rewards.find(config.rewards, config.max_heard)
        self.engine: Answering = Engine(audio_lm, max_rows=config.rollout_rows)
        if rollouts is not None:
            self.engine = rollouts(config.engine, audio_lm, config.rollout_rows, config.output / "rollout_weights")
        self.reference = _frozen_copy(audio_lm) if config.kl and not config.lora else None
        self._first_adapter = {
            name: parameter.detach().clone() for name, parameter in adapter.parameters(audio_lm.module).items()
        }
        super().__init__(audio_lm, config, **kwargs)
        self._reference_is_split = False
        self._figures: list[dict[str, float]] = []
        self._failed: dict[str, str] = {}
        """Why a question could not be asked, by its id. Each is reported once."""
        self._best = {"well_formed": 0.0, "segments": 0.0}

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Sample answers, reward them, update. The optimiser step of the last mini-batch is left to `Trainer`."""
        started, step = perf_counter(), self.state.global_step
        if self.reference is not None and self.sharding is not None and not self._reference_is_split:
            self.sharding.shard(self.reference)
            self._reference_is_split = True
        seconds: dict[str, float] = {}
        groups = self._roll_out(inputs["items"], step, seconds)
        updating = perf_counter()
        loss, figures = self._update(model, groups, step)
        seconds["update"] = perf_counter() - updating
        total = perf_counter() - started
        figures |= {f"share_{name}": value / total for name, value in seconds.items()}
        equal, num = (self.total(torch.tensor(float(count))) for count in (sum(map(_equal, groups)), len(groups)))
        figures |= {"seconds": total, "equal_groups": equal / num}
        figures |= self.engine.usage.figures() if self.config.engine == "local" else {}
        figures["failed_questions"] = self.total(torch.tensor(float(len(self._failed))))
        gathered = gather_object([rollout.measure(one) for group in groups for one in group])
        figures |= rollout.averages(gathered) | {"traces_per_minute": 60 * len(gathered) / total}
        self._figures.append(figures)
        self._notice(step, figures)
        if self.is_world_process_zero() and step % self.config.sample_steps == 0:
            rollout.write_samples(self.config.output / "samples" / f"step-{step:06d}.md", step, groups)
        return loss

    def _roll_out(self, examples: list[Example], step: int, seconds: dict[str, float]) -> list[list[Rollout]]:
        # An answer depends only on the seed, the step and its question: not on processes, and not on being resumed.
        config, sampling = self.config, self.config.sampling(step)
        # Around the whole rollout, so that weights are cast and gathered once, not for every token.
        with self.precision(), self.whole_weights():
            self.engine.new_weights()
            groups, failed = rollout.roll_out(
                self.engine, examples, sampling, config.group_size, self.functions, seconds
            )
        for name in failed.keys() - self._failed.keys():
            tell(f"step {step}: {name} is left out: {failed[name]}")
        self._failed |= failed
        rollout.set_advantages(groups, config.normalise, config.leave_one_out)
        return groups

    # --- update -------------------------------------------------------------------------------------------------

    def _update(self, model: Any, groups: Sequence[Sequence[Rollout]], step: int) -> tuple[Tensor, dict[str, float]]:
        """Compute the gradients of each mini-batch and make an optimiser step after all but the last.

        Returns the mean loss and figures.
        """
        own = self.config.mini_batch_size // self.accelerator.num_processes
        batches = [self._forwards(groups[first : first + own]) for first in range(0, len(groups), own)]
        if len(batches) > 1 and self.config.old_logprobs == "recomputed":
            for forward in (forward for batch in batches for forward in batch):
                forward.old = self._scores(self.audio_lm, forward)
        model.train()
        figures: list[dict[str, float]] = []
        for index, batch in enumerate(batches):
            if index:
                if self.args.max_grad_norm > 0:
                    self.accelerator.clip_grad_norm_(model.parameters(), self.args.max_grad_norm)
                self.optimizer.step()
                model.zero_grad()
            figures.append(self._backward(model, batch, compare=index == 0 or batch[0].old is not None))
            if not torch.isfinite(torch.tensor(figures[-1]["loss"])):
                raise ValueError(not_finite(step, self.config.output))
        mean = rollout.averages(figures)
        mean |= {name: max(f[name] for f in figures if name in f) for name in LARGEST}
        return torch.tensor(mean.pop("loss"), device=self.args.device), mean

    def _forwards(self, groups: Sequence[Sequence[Rollout]]) -> list[Forward]:
        """Pack the answers of a mini-batch: those to one question in one row, rows of similar length together."""
        config, by_trace = self.config, dict[int, Rollout]()
        rows: list[list[Encoded]] = []
        for group in groups:
            assert isinstance(group[0].example.audio, Audio)
            traces = [one.trace for one in group]
            encoded = replay(self.audio_lm, group[0].example.audio, traces, self.engine.operations)
            rows += packing.divided(encoded, config.device_tokens)
            by_trace |= {id(one.trace): one for one in group}
        lengths = [packing.num_tokens(row) for row in rows]
        most_rows = max(1, config.device_batch_size // config.group_size) if config.device_batch_size else 0
        batches = packing.forwards(lengths, config.device_tokens, most_rows)
        made = [self._packed([rows[place] for place in batch], by_trace) for batch in batches]
        spare = [replace(made[0], idle=True)] * (self.num_forwards(len(made)) - len(made))  # the first is the shortest
        return spare + made

    def _packed(self, rows: Sequence[Sequence[Encoded]], by_trace: Mapping[int, Rollout]) -> Forward:
        inputs = self._prepare_inputs(model_inputs(pack(rows)))
        rollouts = [by_trace[id(one.trace)] for row in rows for one in row]
        sampled = [
            logprob
            for one in rollouts
            for logprob, own in zip(one.trace.logprobs, one.trace.sampled, strict=True)
            if own
        ]
        lengths = torch.tensor([sum(one.trace.sampled) for one in rollouts])
        return Forward(inputs, rollouts, lengths, torch.tensor(sampled, device=self.args.device))

    def _backward(self, model: Any, batch: Sequence[Forward], compare: bool) -> dict[str, float]:
        """Accumulate the gradients of one mini-batch. Returns its figures over all processes.

        compare: whether the weights are still those that sampled (or the old log-probabilities were kept), so that
        rollout and trainer must agree.
        """
        kept = [self._kept(forward) for forward in batch]
        counts = [
            (k if self.config.loss_mean == "trace" else k * f.lengths).sum() for k, f in zip(kept, batch, strict=True)
        ]
        total = self.total(torch.stack(counts).sum())
        sums: dict[str, Tensor] = {}
        largest = {"ratio_max": 0.0} | ({"logprob_difference": 0.0} if compare else {})
        largest["forward_tokens"] = max(float(forward.inputs["input_ids"].numel()) for forward in batch)
        for index, (forward, keep) in enumerate(zip(batch, kept, strict=True)):
            last = index == len(batch) - 1
            with self.accumulating(model, last):
                logprobs, entropies = token_logprobs_of(self.audio_lm, forward.inputs, model, self.config.temperature)
                now = logprobs.detach()
                old = forward.old if forward.old is not None else now
                if compare and len(now):
                    difference = float((old - forward.sampled).abs().max())
                    largest["logprob_difference"] = max(largest["logprob_difference"], difference)
                if forward.old is None and (self.config.old_logprobs == "rollout"):
                    old = forward.sampled
                weights = token_weights(forward.lengths, keep, self.config.loss_mean, total).to(now.device)
                loss, metrics = self._loss(forward, logprobs, old, weights)
                # Processes average their gradients, but the sum is wanted, because the weights add up over all of them.
                self.backward(loss * self.accelerator.num_processes, last)
            metrics |= {"loss": loss.detach(), "entropy": (weights * entropies.detach()).sum()}
            largest["ratio_max"] = max(largest["ratio_max"], float(metrics.pop("ratio_max")))
            sums = {name: sums.get(name, 0.0) + value for name, value in metrics.items()}
        largest = {name: self.largest(value) for name, value in largest.items()}
        return {name: self.total(value) for name, value in sums.items()} | largest

    def _loss(
        self, forward: Forward, logprobs: Tensor, old: Tensor, weights: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.config
        advantages = torch.tensor([one.advantage for one in forward.rollouts]).repeat_interleave(forward.lengths)
        reference = None
        if self.reference is not None:
            reference = self._scores(self.reference, forward)
        elif config.kl:
            with self._as_at_the_start():
                reference = self._scores(self.audio_lm, forward)
        return grpo_loss(
            logprobs, old, advantages.to(logprobs.device), weights, reference, config.clip, config.clip_high, config.kl
        )

    @contextmanager
    def _as_at_the_start(self) -> Iterator[None]:
        """Inside this, the adapter has the weights that it had before training; its gradients stay as they are."""
        own = adapter.parameters(self.audio_lm.module)
        now = {name: parameter.data for name, parameter in own.items()}
        for name, parameter in own.items():
            parameter.data = self._first_adapter[name]
        try:
            yield
        finally:
            for name, parameter in own.items():
                parameter.data = now[name]

    @torch.no_grad()
    def _scores(self, model: AudioLM, forward: Forward) -> Tensor:
        with self.precision():
            return token_logprobs_of(model, forward.inputs, temperature=self.config.temperature)[0]

    def _kept(self, forward: Forward) -> Tensor:
        if forward.idle:
            return torch.zeros(len(forward.rollouts), dtype=torch.bool)
        if not self.config.mask_over_limit:
            return torch.ones(len(forward.rollouts), dtype=torch.bool)
        return torch.tensor([one.response.complete for one in forward.rollouts])

    # --- reports ------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log with the mean figures of the steps since the last line."""
        if "loss" in logs:
            logs |= rollout.averages(self._figures)
            self._figures.clear()
        super().log(logs, start_time)

    def _notice(self, step: int, figures: dict[str, float]) -> None:
        """Tell the user, once, if answers lose their form or no longer hear segments."""
        for name, what in (("well_formed", "well-formed answers"), ("segments", "segments an answer")):
            best = self._best[name] = max(self._best[name], figures[name])
            if best > 0.3 and figures[name] < 0.1 * best:
                self._best[name] = 0.0
                if self.is_world_process_zero():
                    tell(
                        f"step {step}: collapse: {figures[name]:.2f} {what}, after {best:.2f} before;"
                        f" see {self.config.output / 'samples'}, lower learning_rate or raise kl"
                    )


def _frozen_copy(model: AudioLM) -> AudioLM:
    """The reference: a copy of the model as it is now, which is never trained."""
    reference = copy.copy(model)
    reference.module = copy.deepcopy(model.module).eval().requires_grad_(False)
    return reference


def _equal(group: Sequence[Rollout]) -> bool:
    return all(one.reward == group[0].reward for one in group)


def train_grpo(config: GrpoConfig) -> Path:
    """Train a model with GRPO, or continue a stopped run. Returns the folder of the trained model.

    Raises ValueError, in one line, for settings, data or rewards that cannot be used.
    """
    return run_grpo(planned(config))


def run_grpo(plan: TrainingPlan, rollouts: Rollouts | None = None) -> Path:
    """Carry out a plan that `planned` has made; see `train_grpo`.

    rollouts: makes the engine that `config.engine` names, unless that is "local".
    """
    config = plan.config
    assert isinstance(config, GrpoConfig)
    with sole_run(config):
        model = training.prepare(config)
        trainer = GrpoTrainer(
            model,
            config,
            None if config.engine == "local" else rollouts,
            args=training.arguments(
                config,
                model,
                per_device_train_batch_size=config.batch_size // num_processes(),
                dataloader_drop_last=True,
            ),
            train_dataset=QuestionDataset(model.rate, plan.rows, plan.num_rows),
            callbacks=[TrainingProgress(config.output, shown="reward")],
        )
        return training.train(trainer, plan.lines(), plan.held_out, plan.num_steps)
