"""What a run is going to need, before any weight is loaded or fetched: tokens, GPU memory, the size of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen2_5OmniThinkerConfig

from relisten import audio, models, tags
from relisten.models import adapter
from relisten.models.base import Prompts, read_prompts
from relisten.models.folder import read_json
from relisten.training.batch import response_text
from relisten.training.config import GrpoConfig, SftConfig
from relisten.training.memory import GB, Forward, Need, cache_bytes, needs
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
    text: int
    """Tokens of its prompt and of what is learnt from."""

    @property
    def total(self) -> int:
        """All its tokens."""
        return self.audio + self.text


@dataclass(frozen=True)
class _Counting:
    """How tokens are counted."""

    tokenizer: PreTrainedTokenizerBase | None
    prompts: Prompts
    rate: float
    """Audio tokens per second."""


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
    shape, own_bytes, folder, lines = shape_of(config.model)
    tokenizer = None if folder is None else _tokenizer(folder)
    if tokenizer is None:
        lines.append(f"Its tokenizer is not on this machine, so tokens are estimated: {LETTERS:g} letters each.")
    counting = _Counting(tokenizer, Prompts() if folder is None else read_prompts(folder), _audio_rate(folder))
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
    share = sum(size.audio for size in sizes) / sum(rows)
    num = max(1, config.device_tokens // length)
    lines.append(
        f"A forward pass has up to {num * length:,} tokens (device_tokens), {share:.0%} of them audio;"
        f" gradient_checkpointing is {'on' if config.gradient_checkpointing else 'off'}."
    )
    grpo = isinstance(config, GrpoConfig)
    context = int(shape.text_config.max_position_embeddings)
    longest = min(context, max(rows) + config.max_new_tokens) if isinstance(config, GrpoConfig) else 0
    found = needs(config, shape, own_bytes, Forward(num, length, round(share * num * length)), gpus)
    cache = cache_bytes(shape, config, own_bytes) if grpo else 0
    return DryRun(lines, found, cache, longest, gpu_memory * GB)


def shape_of(name: str) -> tuple[Qwen2_5OmniThinkerConfig, int, Path | None, list[str]]:
    """The shape of a model, the bytes of a number in its weights, its folder if it is known, and notes.

    Only its settings and its tokenizer are fetched. Qwen2.5-Omni-7B's shape is known where there is no network.
    """
    if ":" in name:
        raise ValueError(f"model {name}: a dry run reads the shape of a model from a folder; save the model first")
    try:
        folder = models.find(name, weights=False)
        if adapter.is_adapter(folder):
            folder = models.find(adapter.base_of(folder), weights=False)
        raw = read_json(folder / "config.json")
    except ValueError:
        if name != SEVEN:
            raise
        return seven(), 2, None, [f"The settings of {name} cannot be fetched here; its shape is taken as known."]
    if (kind := str(raw.get("model_type")).removesuffix("_thinker")) != "qwen2_5_omni":
        raise ValueError(f"{folder}: a dry run knows the shapes of Qwen2.5-Omni only, and this is {kind[:60]}")
    shape = Qwen2_5OmniThinkerConfig.from_dict(raw.get("thinker_config", raw))
    stored = str(raw.get("dtype") or raw.get("torch_dtype") or shape.dtype)
    return shape, 2 if "16" in stored else 4, folder, []


def seven() -> Qwen2_5OmniThinkerConfig:
    """The shape of Qwen2.5-Omni-7B's Thinker: the defaults of its class, but for the width of its vision tower."""
    shape = Qwen2_5OmniThinkerConfig()
    shape.vision_config.hidden_size, shape.vision_config.out_hidden_size = 1280, shape.text_config.hidden_size
    shape.vision_config.intermediate_size = 3420
    shape.tie_word_embeddings = shape.text_config.tie_word_embeddings = False
    return shape


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    try:
        found: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError):
        return None
    return found  # type: ignore[no-any-return]


def _audio_rate(folder: Path | None) -> float:
    """Audio tokens per second."""
    path = None if folder is None else folder / "preprocessor_config.json"
    if path is None or not path.is_file():
        return 25.0
    written = read_json(path)
    return float(written.get("sampling_rate", 16_000)) / float(written.get("hop_length", 160)) / 4


def _sizes(found: Sequence[Any], config: SftConfig | GrpoConfig, counting: _Counting) -> list[Size]:
    pairs = [(one, config.format) if isinstance(one, Example) else one for one in found]
    return [_size(example, format, isinstance(config, SftConfig), counting) for example, format in pairs]


def _size(example: Example, format: Format, learnt: bool, counting: _Counting) -> Size:
    given, prompts = example.audio, counting.prompts
    seconds = given.duration if isinstance(given, Audio) else audio.duration(given)
    text = (prompts.system or "") + prompts.text(example.question, example.choices, format)
    if learnt:
        said = response_text(example)
        text += said
        if format == "interleaved":
            seconds += sum(max(0.0, one.end - one.start) for one in tags.parse(said, tags.EVERY).segments)
    tokens = len(text) / LETTERS if counting.tokenizer is None else len(counting.tokenizer(text)["input_ids"])
    return Size(round(seconds * counting.rate) + 2, round(tokens) + TEMPLATE)


def _row(config: SftConfig | GrpoConfig, sizes: Sequence[Size]) -> float:
    """Tokens of a typical row: an example, or a question with its answers."""
    longest = median(size.total for size in sizes)
    return longest + config.group_size * config.max_new_tokens if isinstance(config, GrpoConfig) else longest
