"""Where a model looks while it writes: the share of attention on the recording, on what it heard again, on text.

A trace is read once more in one forward, with an attention function that gives the model its usual output and, for the
positions of the sampled tokens alone, adds up the probabilities by what they fall on. At no time is there more of an
attention map than a few rows of one layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm
from transformers import AttentionInterface

from relisten.engine.engine import Engine, GenerationConfig
from relisten.evals.analysis import PARTS, AttentionCurve, attention_curve
from relisten.evals.hearing import asked_as, hearing
from relisten.evals.runs import CONFIG, Run, questions_of
from relisten.models.base import AudioLM
from relisten.training.batch import replay
from relisten.types import Audio, Trace

NUM_ROWS = 64
"""Rows of an attention map in memory at a time."""
_NAME = "relisten_shares"
_watched: list[_Watch] = []
"""The watch in use. transformers gives an attention function no other place to keep one."""


@dataclass
class _Watch:
    """Which rows are looked at, and what has been added up."""

    rows: Tensor
    """[S] positions that attend."""
    parts: Tensor
    """[L, P] one-hot: what each position is."""
    shares: list[Tensor]
    """One [S, P] a layer, averaged over heads."""


def parts(trace: Trace) -> NDArray[np.int64]:
    """[L] index in `PARTS` of what each token is."""
    kinds = np.full(len(trace.token_ids), PARTS.index("written"))
    kinds[: trace.num_prompt] = PARTS.index("prompt")
    for listen in trace.listens:
        part = "recording" if listen.at < trace.num_prompt else "heard again"
        kinds[listen.at : listen.at + listen.num_tokens] = PARTS.index(part)
    return kinds


@torch.no_grad()
def attention_shares(model: AudioLM, trace: Trace, features: Sequence[Tensor]) -> NDArray[np.float64]:
    """Shares [steps, 4] of attention when each sampled token was chosen, over `PARTS`; each row adds up to 1.

    features: one log-mel [mel, frames] for each of the trace's listens. The mean is over heads and layers. ValueError
    where the model's class does not let its attention be replaced.
    """
    device = model.module.device
    # The token at i was chosen by what stood at i - 1 and looked back.
    rows = torch.tensor([i - 1 for i, sampled in enumerate(trace.sampled) if sampled], device=device)
    if not len(rows):
        return np.zeros((0, len(PARTS)))
    last = int(rows.max()) + 1
    kinds = torch.from_numpy(parts(trace)[:last]).to(device)
    watch = _Watch(rows, torch.nn.functional.one_hot(kinds, len(PARTS)).float(), [])
    keep = (torch.zeros(1, dtype=torch.long, device=device), torch.zeros(1, dtype=torch.long, device=device))
    heard = [f for f, listen in zip(features, trace.listens, strict=True) if listen.at < last]
    positions = torch.arange(last, device=device)[None]
    with _watching(model, watch):
        model.forward(torch.tensor([trace.token_ids[:last]], device=device), positions, heard, None, keep=keep)
    if not watch.shares:
        raise ValueError(f"{model.name}: the attention of {type(model.module).__name__} cannot be watched")
    return torch.stack(watch.shares).mean(0).double().numpy()


def attention_of_run(model: AudioLM, run: Run, num: int) -> AttentionCurve:
    """Generate `num` of a run's answers again, spread over its questions, and record where the model looks.

    Greedy answers of the same model come out the same; the curve says how many did not. Shows progress on stderr.
    """
    examples = questions_of(run)
    by_id = {example.id: example for example in examples}
    answers = [r for r in run.answered if str(r["id"]) in by_id and not r.get("sample") and "order" not in r]
    if not answers:
        raise ValueError(f"{run.folder}: none of its answers can be made again; choices were shuffled, or ids changed")
    hears, recording = run.config.get("hears", "own"), run.config.get("recording", "own")
    try:
        given = {f.name: run.config[f.name] for f in fields(GenerationConfig) if f.name in run.config}
        config = GenerationConfig(**given)
        heard = hearing(hears, examples, model, recording=recording, seed=config.seed)
        asked, config = asked_as(model, config, hears, recording)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{run.folder / CONFIG}: holds settings that cannot be used ({error})") from None
    engine = Engine(asked, operations=heard.operations(model.prompts.operations), max_rows=1)
    shares, differing = [], 0
    chosen = np.unique(np.linspace(0, len(answers) - 1, min(num, len(answers))).round().astype(int))
    for record in tqdm([answers[n] for n in chosen], desc=f"attention {run.name}", unit="a"):
        example = heard.ready(by_id[str(record["id"])])
        [[trace]] = engine.generate([example], config)
        differing += trace.text != record["response"]
        assert isinstance(example.audio, Audio)
        [encoded] = replay(model, example.audio, [trace], engine.operations)
        features = encoded.features[len(encoded.features) - len(trace.listens) :]
        shares.append(attention_shares(model, trace, features))
    return attention_curve(run.name, shares, differing)


@contextmanager
def _watching(model: AudioLM, watch: _Watch) -> Iterator[None]:
    """Within the block the text model attends through `_attend`; its audio tower does not."""
    AttentionInterface.register(_NAME, _attend)
    config: Any = model.module.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = _NAME
    _watched.append(watch)
    try:
        yield
    finally:
        _watched.pop()
        config._attn_implementation = before


def _attend(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    scaling: float, **_: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """An attention function of transformers: query [1, H, L, D], key and value [1, H / groups, L, D]."""
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    watch = _watched[-1]
    rows, kinds = watch.rows.to(query.device), watch.parts.to(query.device)  # layers may lie on several devices
    shares = [_shares(query, key, scaling, some, kinds) for some in rows.split(NUM_ROWS)]
    watch.shares.append(torch.cat(shares).cpu())
    out = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
    return out.transpose(1, 2).contiguous(), None


def _shares(query: Tensor, key: Tensor, scaling: float, rows: Tensor, kinds: Tensor) -> Tensor:
    """[rows, P], averaged over heads, for a few rows. kinds: one-hot [L, P]."""
    scores = (query[0, :, rows].float() @ key[0].float().transpose(1, 2)) * scaling
    later = torch.arange(key.shape[2], device=rows.device) > rows[:, None]
    return (scores.masked_fill(later, float("-inf")).softmax(-1) @ kinds).mean(0)
