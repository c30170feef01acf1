"""How much GPU memory a training run needs, reckoned from the shapes of its model: no weight is loaded.

Weights, gradients and the optimiser's state follow from counts of parameters. Activations are measured: the text model
runs forward and backward on fake tensors, which have shapes but no values, and every tensor that is alive is counted.
Two runs, with one layer and with two, tell what each layer adds. Layers of the audio tower are reckoned from what they
keep for the backward pass. The convolutions before them are left out.
"""

from __future__ import annotations

import copy
import warnings
import weakref
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from relisten.training.config import GrpoConfig, TrainingConfig
from relisten.training.losses import token_scores
from relisten.training.trainer import NO_GRADIENT, adapted_layers, matches

GB = 1e9
CONTEXT = 1.5 * GB
"""Bytes that CUDA, NCCL and torch's allocator take beside all tensors: an estimate."""
ADAM, GRADIENT, MASTER = 8, 4, 4
"""Bytes for each trained number: AdamW's two moments, a gradient, a weight in float32."""


@dataclass(frozen=True)
class Shape:
    """A model without its weights."""

    module: Any
    """Its class in transformers."""
    config: Any
    """Its configuration, of which that class is built."""
    own_bytes: int
    """Bytes of a number in its own weights: 2 for bfloat16."""

    @property
    def text(self) -> Any:
        """The configuration of its text model."""
        return self.config.get_text_config()


@dataclass(frozen=True)
class Counts:
    """Numbers of parameters."""

    total: int
    trained: int
    """Those that full tuning trains."""
    adapters: int
    """Those that LoRA adds."""
    layer: int
    """Those of one layer of the text model, the largest part that is gathered at once."""
    root: int
    """Those outside of all layers: embeddings, output layer, norms. Sharded training keeps them whole in a step."""


@dataclass(frozen=True)
class Forward:
    """The largest forward pass of a run."""

    rows: int
    length: int
    """Tokens of each row."""
    frames: int
    """Frames that the layers of the audio tower compute, for all rows together (see `AudioLM.num_encoder_frames`)."""


@dataclass(frozen=True)
class Need:
    """Bytes that one GPU needs for one way to train."""

    way: str
    weights: float
    gradients: float
    optimizer: float
    reference: float
    gathered: float
    """Parts of a sharded model that are whole during a step."""
    activations: float
    """With checkpointing or without it, as the settings say."""
    other_activations: float
    """The other way round."""
    whole: float
    """Weights that are gathered for generation."""
    checkpoint: float
    """Bytes of one checkpoint on disk."""

    @property
    def held(self) -> float:
        """What stays from step to step."""
        return self.weights + self.optimizer + self.reference + CONTEXT

    @property
    def update(self) -> float:
        """The most within the update of a step."""
        return self.held + self.gradients + self.gathered + self.activations

    @property
    def rollout(self) -> float:
        """While answers are generated, without the cache of keys and values."""
        return self.held + self.whole


def needs(config: TrainingConfig, shape: Shape, forward: Forward, gpus: int) -> list[Need]:
    """What each way to train needs on one of `gpus` GPUs. The first is LoRA, then full tuning."""
    n = counts(shape, config)
    refers = isinstance(config, GrpoConfig) and config.kl > 0
    half = 2 if config.bf16 else 4  # bytes of a number in a forward of frozen or sharded weights

    def held(dtype: torch.dtype, rank: int) -> tuple[float, float]:
        found = [activations(shape, forward, dtype, config, recompute, rank) for recompute in (True, False)]
        return (found[0], found[1]) if config.gradient_checkpointing else (found[1], found[0])

    frozen = torch.bfloat16 if shape.own_bytes == 2 and config.bf16 else torch.float32
    gathered = 2.0 * half * n.root + (2 * half + half + GRADIENT) * n.layer
    found = [
        Need(
            f"LoRA, rank {config.lora or 64}", frozen.itemsize * n.total + MASTER * n.adapters, GRADIENT * n.adapters,
            ADAM * n.adapters, MASTER * n.adapters * refers, 0.0, *held(frozen, config.lora or 64), 0.0,
            (MASTER + ADAM) * n.adapters,
        )
    ]  # fmt: skip
    full = (MASTER + ADAM) * n.trained + MASTER * (n.total - n.trained)
    found.append(
        Need(
            "full, one GPU" if gpus == 1 else "full, DDP", MASTER * n.total,
            GRADIENT * n.trained * (1 if gpus == 1 else 2), ADAM * n.trained, MASTER * n.total * refers, 0.0,
            *held(torch.float32, 0), 0.0, full,
        )
    )  # fmt: skip
    if gpus > 1:
        split = held(torch.bfloat16 if config.bf16 else torch.float32, 0)
        for way, weights in (("FSDP2", MASTER * n.total), ("ZeRO-3", half * n.total + MASTER * n.trained)):
            reference = (MASTER if way == "FSDP2" else half) * n.total * refers
            found.append(
                Need(
                    f"full, {way} on {gpus}", weights / gpus, GRADIENT * n.trained / gpus, ADAM * n.trained / gpus,
                    reference / gpus, gathered, *split, half * n.total, full,
                )
            )  # fmt: skip
    return found


def counts(shape: Shape, config: TrainingConfig) -> Counts:
    """Numbers of parameters of a model of this shape, and of what these settings train of it."""
    with torch.device("meta"):
        module = shape.module(shape.config)
    frozen = (*config.freeze, *NO_GRADIENT)
    sizes = {name: parameter.numel() for name, parameter in module.named_parameters()}
    trained = sum(size for name, size in sizes.items() if not matches(name, frozen))
    rank = config.lora or 64
    adapted = [module.get_submodule(name) for name in adapted_layers(module, config)]
    adapters = sum(rank * (layer.in_features + layer.out_features) for layer in adapted)
    in_layers = sum(size for name, size in sizes.items() if ".layers." in name or "visual." in name)
    layer = sum(parameter.numel() for parameter in _text(module).layers[0].parameters())
    return Counts(sum(sizes.values()), trained, adapters, layer, sum(sizes.values()) - in_layers)


def cache_bytes(shape: Shape, config: TrainingConfig) -> int:
    """Bytes of one token's keys and values during generation."""
    text = shape.text
    width = int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    number = 2 if config.bf16 else shape.own_bytes
    return 2 * int(text.num_hidden_layers) * int(text.num_key_value_heads) * width * number


def activations(
    shape: Shape,
    forward: Forward,
    dtype: torch.dtype,
    config: TrainingConfig,
    recompute: bool,
    rank: int = 0,
) -> float:
    """The most bytes of activations within a step: the text model's with the loss, and those of the audio tower.

    dtype: that of the weights. recompute: whether gradient checkpointing is on. rank: of LoRA adapters, or 0 if the
    weights are trained.
    """
    layers = int(shape.text.num_hidden_layers)
    one, two = (_text_peak(shape, forward, dtype, config, recompute, rank, num) for num in (1, 2))
    return one + (layers - 1) * (two - one) + _tower_bytes(shape, forward.frames, dtype, recompute)


def _text_peak(
    shape: Shape,
    forward: Forward,
    dtype: torch.dtype,
    config: TrainingConfig,
    recompute: bool,
    rank: int,
    layers: int,
) -> int:
    with FakeTensorMode():
        module = _fake(shape, dtype, layers)
        module.set_attn_implementation("sdpa")  # eager attention would keep every score
        if recompute:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # it will have another name
                module.gradient_checkpointing_enable()
        if rank:
            _adapt(module, config, rank)
        module.train()
        for parameter in module.parameters():
            if parameter.requires_grad:  # gradients are counted apart
                parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
        text, head = _text(module), module.get_output_embeddings()
        size = (forward.rows, forward.length)
        embedded = torch.empty(*size, text.config.hidden_size, dtype=dtype, requires_grad=True)
        positions = torch.zeros(size, dtype=torch.long)
        mask = torch.ones(forward.rows, 1, forward.length, forward.length, dtype=torch.bool)
        labels, banned = torch.zeros(size[0] * size[1], dtype=torch.long), torch.zeros(8, dtype=torch.long)
        alive = _Alive([*module.parameters(), *module.buffers()])
        with alive:
            with torch.autocast("cpu", torch.bfloat16) if config.bf16 else nullcontext():
                hidden = text(
                    inputs_embeds=embedded, position_ids=positions, attention_mask=mask,
                    use_cache=False,
                ).last_hidden_state  # fmt: skip
                scores = token_scores(hidden.flatten(0, 1), head, labels, banned, head.out_features)
            scores[:, 0].sum().backward()
    return int(alive.most)


class _Alive(TorchDispatchMode):
    """Counts the bytes of tensors that are alive, without those that were there before."""

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known = {tensor.untyped_storage()._cdata: 0 for tensor in known}

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        found = function(*arguments, **(options or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                self._see(tensor)
        return found

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if (key := storage._cdata) in self._known:
            return
        self._known[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.now -= self._known.pop(key)


def _fake(shape: Shape, dtype: torch.dtype, layers: int) -> Any:
    """The model with as many layers, and hardly any of its other parts."""
    small = copy.deepcopy(shape.config)
    text = small.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types, text.max_window_layers = text.layer_types[:layers], layers
    small.audio_config.encoder_layers = 1
    if hasattr(small, "vision_config"):
        small.vision_config.depth = 1
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        module = shape.module(small)
    finally:
        torch.set_default_dtype(before)
    for part in module.modules():
        if getattr(getattr(part, "gate_up_proj", None), "ndim", 0) == 3:
            part.forward = partial(_experts, part)
    return module


def _experts(part: Any, hidden: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
    """A layer of experts in which the first one takes every token: fake tensors have no values to choose by. Whichever
    experts are chosen, the shapes of what is computed are the same."""
    num = chosen.shape[-1]
    tokens = hidden.repeat_interleave(num, dim=0)
    gate, up = nn.functional.linear(tokens, part.gate_up_proj[0]).chunk(2, dim=-1)
    found: Tensor = nn.functional.linear(part.act_fn(gate) * up, part.down_proj[0]) * shares.reshape(-1, 1)
    return found.view(-1, num, hidden.shape[-1]).sum(1).to(hidden.dtype)


class _Adapted(nn.Module):
    """A linear layer with an adapter, as peft computes it. (peft itself cannot convert fake tensors.)"""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.layer = layer
        self.down = nn.Linear(layer.in_features, rank, bias=False)
        self.up = nn.Linear(rank, layer.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.layer(x) + self.up(self.down(x.to(self.down.weight.dtype))) * 2.0
        return added


def _adapt(module: Any, config: TrainingConfig, rank: int) -> None:
    module.requires_grad_(False)
    for name in adapted_layers(module, config):
        parent, _, own = name.rpartition(".")
        setattr(module.get_submodule(parent), own, _Adapted(module.get_submodule(name), rank))


def _tower_bytes(shape: Shape, frames: int, dtype: torch.dtype, recompute: bool) -> float:
    """Bytes that the tower's layers keep: inputs of norms and of linear layers, and queries, keys and values."""
    tower = shape.config.audio_config
    width, inner = int(tower.d_model), int(tower.encoder_ffn_dim)
    # With float32 weights under autocast, the residual stream is float32, and each linear layer casts its own input.
    frame = 18 * width + 4 * inner if dtype == torch.bfloat16 else 26 * width + 4 * inner
    layers = int(tower.encoder_layers)
    kept = frames * width * dtype.itemsize * layers + frames * frame  # inputs of all layers, and one layer again
    return float(kept if recompute else frames * frame * layers)


def _text(module: nn.Module) -> Any:
    """The text model within a model: the part that has the embeddings of tokens."""
    embeddings = module.get_input_embeddings()  # type: ignore[operator]
    return next(part for part in module.modules() if getattr(part, "embed_tokens", None) is embeddings)
