"""What a run is going to need, before any weight is loaded or fetched: tokens, GPU memory, the size of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from relisten import audio, models, tags
from relisten.models import adapter, qwen2_5_omni
from relisten.models.base import AudioLM, Prompts
from relisten.models.folder import read_json
from relisten.training.batch import response_text
from relisten.training.config import GrpoConfig, SftConfig
from relisten.training.memory import GB, Forward, Need, Shape, cache_bytes, needs
from relisten.training.plan import TrainingPlan
from relisten.types import Audio, Example, Format

SEVEN = "Qwen/Qwen2.5-Omni-7B"
MOST_EXAMPLES = 200
"""So many examples are looked at; the figures of larger data are scaled up."""
LETTERS = 4.0
"""Letters of a token, where the model's tokenizer is not on this machine."""
TEMPLATE = 20
"""Tokens of a prompt that are neither the recording nor the user's text."""


@dataclass(frozen=True)
class Size:
    """What one example takes."""

    audio: int
    """Tokens of its recording, and of the segments that its chain of thought names, if they are inserted."""
    frames: int
    """Frames of the audio encoder for these."""
    text: int
    """Tokens of its prompt and of what is learnt from."""

    @property
    def total(self) -> int:
        """All its tokens."""
        return self.audio + self.text


@dataclass(frozen=True)
class Counting:
    """How a model counts, without its weights."""

    text: Callable[[str], float]
    """Tokens of a text."""
    audio: Callable[[int], int]
    """Tokens of a piece of audio of so many samples, with those around it."""
    frames: Callable[[int], int]
    """Frames of the audio encoder for such a piece."""
    rate: int
    """Samples per second."""
    prompts: Prompts


@dataclass(frozen=True)
class DryRun:
    """What a run needs on each GPU."""

    lines: list[str]
    """Whole sentences on the data and the model."""
    needs: list[Need]
    cache: int
    """Bytes of one token's keys and values during a rollout; 0 for SFT."""
    row: int
    """Tokens that an answer may have at most during a rollout."""
    memory: float
    """Bytes of one GPU."""

    def rows(self, need: Need) -> int:
        """How many of the longest answers fit beside what a rollout holds."""
        return max(0, int((self.memory - need.rollout) / (self.cache * self.row)))

    def fits(self, need: Need) -> bool:
        """Whether a step fits, and at least one answer during a rollout."""
        return need.update <= self.memory and (not self.cache or self.rows(need) > 0)


def reckoned(plan: TrainingPlan, gpus: int, gpu_memory: float) -> DryRun:
    """What a plan needs. gpus: how many GPUs train together. gpu_memory: GB (10**9 bytes) of each.

    Raises ValueError, in one line, if the shape of the model cannot be read.
    """
    config = plan.config
    shape, counting, lines = shape_of(config.model)
    places = range(0, plan.num_rows, max(1, plan.num_rows // MOST_EXAMPLES))[:MOST_EXAMPLES]
    sizes = [size for place in places for size in _sizes(plan.rows(place), config, counting)]
    rows = [size.total for size in sizes]
    what = "A question" if isinstance(config, GrpoConfig) else "An example"
    steps = plan.num_steps * config.batch_size
    lines.append(
        f"{what} has {median(rows):,.0f} tokens (median of {len(rows):,}; the longest {max(rows):,});"
        f" {plan.num_rows:,} have about {sum(rows) / len(rows) * plan.num_rows:,.0f}, and the {plan.num_steps:,} steps"
        f" read about {sum(rows) / len(rows) * steps:,.0f}"
        + (", without the answers that are sampled." if isinstance(config, GrpoConfig) else ".")
    )
    length = max(max(rows), min(config.device_tokens, round(_row(config, sizes))))
    share, frames = (sum(found) / sum(rows) for found in ([s.audio for s in sizes], [s.frames for s in sizes]))
    num = max(1, config.device_tokens // length)
    lines.append(
        f"A forward pass has up to {num * length:,} tokens (device_tokens), {share:.0%} of them audio;"
        f" gradient_checkpointing is {'on' if config.gradient_checkpointing else 'off'}."
    )
    grpo = isinstance(config, GrpoConfig)
    context = int(shape.text.max_position_embeddings)
    longest = min(context, max(rows) + config.max_new_tokens) if isinstance(config, GrpoConfig) else 0
    found = needs(config, shape, Forward(num, length, round(frames * num * length)), gpus)
    cache = cache_bytes(shape, config) if grpo else 0
    return DryRun(lines, found, cache, longest, gpu_memory * GB)


def shape_of(name: str) -> tuple[Shape, Counting, list[str]]:
    """The shape of a model, how it counts tokens, and notes. Only its settings and its tokenizer are fetched.

    Qwen2.5-Omni-7B's shape is known where there is no network. Raises ValueError, in one line, for a model that
    cannot be used.
    """
    if ":" in name:
        raise ValueError(f"model {name}: a dry run reads the shape of a model from a folder; save the model first")
    try:
        folder = models.find(name, weights=False)
    except ValueError:
        if name != SEVEN:
            raise
        lines = [
            f"The settings of {name} cannot be fetched here; its shape is taken as known.",
            f"Its tokenizer is not on this machine, so tokens are estimated: {LETTERS:g} letters each.",
        ]
        return seven(), _estimated(), lines
    model = models.load_without_weights(name)
    if adapter.is_adapter(folder):
        folder = models.find(adapter.base_of(folder), weights=False)
    raw = read_json(folder / "config.json")
    stored = str(raw.get("dtype") or raw.get("torch_dtype") or model.module.config.dtype)
    return Shape(type(model.module), model.module.config, 2 if "16" in stored else 4), _counted(model), []


def seven() -> Shape:
    """The shape of Qwen2.5-Omni-7B's Thinker: the defaults of its class, but for the width of its vision tower."""
    kind = qwen2_5_omni.KIND
    config = kind.config()
    config.vision_config.hidden_size, config.vision_config.out_hidden_size = 1280, config.text_config.hidden_size
    config.vision_config.intermediate_size = 3420
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    return Shape(kind.module, config, 2)


def _counted(model: AudioLM) -> Counting:
    return Counting(
        lambda text: len(model.encode(text)),
        lambda num: len(model.audio_tokens(num)),
        model.num_encoder_frames,
        model.rate,
        model.prompts,
    )


def _estimated() -> Counting:
    """As Qwen2.5-Omni counts, without its tokenizer: an audio token is 40 ms, or two frames."""
    return Counting(
        lambda text: len(text) / LETTERS, lambda num: num // 640 + 2, lambda num: num // 640 * 2, 16_000, Prompts()
    )


def _sizes(found: Sequence[Any], config: SftConfig | GrpoConfig, counting: Counting) -> list[Size]:
    pairs = [(one, config.format) if isinstance(one, Example) else one for one in found]
    return [_size(example, format, isinstance(config, SftConfig), counting) for example, format in pairs]


def _size(example: Example, format: Format, learnt: bool, counting: Counting) -> Size:
    given, prompts = example.audio, counting.prompts
    seconds = [given.duration if isinstance(given, Audio) else audio.duration(given)]
    text = (prompts.system or "") + prompts.text(example.question, example.choices, format)
    if learnt:
        said = response_text(example)
        text += said
        if format == "interleaved":
            seconds += [max(0.0, one.end - one.start) for one in tags.parse(said, tags.EVERY).segments]
    pieces = [round(one * counting.rate) for one in seconds]
    tokens = sum(map(counting.audio, pieces))
    return Size(tokens, sum(map(counting.frames, pieces)), round(counting.text(text)) + TEMPLATE)


def _row(config: SftConfig | GrpoConfig, sizes: Sequence[Size]) -> float:
    """Tokens of a typical row: an example, or a question with its answers."""
    longest = median(size.total for size in sizes)
    return longest + config.group_size * config.max_new_tokens if isinstance(config, GrpoConfig) else longest
