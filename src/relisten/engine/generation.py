"""Every option of generation, declared once: for `relisten ask` and `relisten eval`, for Python, and for GRPO."""

from __future__ import annotations

from dataclasses import dataclass

from relisten.fields import documented
from relisten.types import Format

LEAST_TEMPERATURE = 1e-6
"""The lowest temperature above 0; logits divided by much less are infinite in float32."""


@documented
@dataclass(frozen=True)
class AnswerConfig:
    """The options that use and training share. Raises ValueError for a value that makes no sense."""

    format: Format = "interleaved"
    """How the model reasons. conditioned: in text alone. grounded: it names segments of the recording. interleaved: it
    names segments and hears each of them again."""
    temperature: float = 0.0
    """0 takes the most likely token at every step. Above 0, tokens are sampled; the paper evaluates at 0.7."""
    max_new_tokens: int = 2048
    """The most tokens that the model may write. At the limit its reasoning is closed, and it may write up to 64 more
    tokens as the answer."""
    max_listens: int = 8
    """The most segments that the model may hear again. If it asks for one more, its reasoning is closed and it is led
    to the answer."""
    min_segment: float = 0.2
    """The shortest segment that may be heard again, in seconds. Shorter ones are refused."""

    def __post_init__(self) -> None:
        if self.format not in ("conditioned", "grounded", "interleaved"):
            raise ValueError(f"format is {self.format!r}; choose conditioned, grounded or interleaved")
        if 0 < self.temperature < LEAST_TEMPERATURE:
            raise ValueError(
                f"temperature {self.temperature} is too close to 0 to divide by; use 0 for the most likely token"
            )
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}; it must be a number that is 0 or more")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1")
        if self.max_listens < 0 or not self.min_segment >= 0:
            raise ValueError(
                f"max_listens is {self.max_listens} and min_segment is {self.min_segment}; neither may be negative"
            )


@documented
@dataclass(frozen=True)
class GenerationConfig(AnswerConfig):
    """How answers are generated. By default the most likely token is taken at every step (greedy decoding)."""

    top_p: float = 1.0
    """Sample only from the most likely tokens that together have this probability. 1 considers every token."""
    top_k: int = 0
    """Sample only from this many of the most likely tokens. 0 considers every token."""
    seed: int = 0
    """Random seed for sampling. The same seed gives the same answers."""
    only_choices: bool = False
    """Let what is written as the answer be only one of the question's choices. The reasoning stays free. Not for chat
    APIs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.top_p <= 1 and self.top_k >= 0):
            raise ValueError(
                f"top_p is {self.top_p} and top_k is {self.top_k}; top_p must be above 0 and at most 1, and top_k must"
                " not be negative"
            )
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must not be negative")
