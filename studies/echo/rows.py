"""The rows of the study: how each model comes about, how it is read, and which differences between rows count."""

from __future__ import annotations

from dataclasses import dataclass, replace

from relisten.evals.hearing import Hears
from relisten.training.config import GrpoConfig, SftConfig
from relisten.types import Format


@dataclass(frozen=True)
class Stage:
    """How a model comes about."""

    settings: str
    """Which settings it is trained with: clips, base, cold, grpo or gentle."""
    data: str
    """The function of `world` that gives its training rows."""
    start: str
    """The model it starts from; "" for random weights."""
    format: Format = "grounded"


@dataclass(frozen=True)
class Arm:
    """One row: a model, read in one way."""

    title: str
    model: str
    format: Format
    paper: str = ""
    """The key of the paper's row that it repeats."""
    hears: Hears = "own"
    fine: bool = False
    """Whether the captions in its training tell all that clips tell."""

    @property
    def control(self) -> bool:
        """Whether the row is there to show what another row's accuracy depends on."""
        return self.fine or self.hears != "own"


STAGES = {
    "clips": Stage("clips", "clip_rows", ""),
    "base": Stage("base", "base_rows", "clips"),
    "cold-p": Stage("cold", "paper_rows", "base"),
    "cold-f": Stage("cold", "mixed_rows", "base"),
    "rl-grounded": Stage("grpo", "rl_rows", "cold-p", "grounded"),
    "rl-echo": Stage("grpo", "rl_rows", "cold-p", "interleaved"),
    "rl-echo-other": Stage("grpo", "other_rl_rows", "cold-p", "interleaved"),
    "rl-direct": Stage("grpo", "rl_rows", "base", "conditioned"),
    "rl-direct-other": Stage("grpo", "other_rl_rows", "base", "conditioned"),
    "rl-mixed": Stage("grpo", "rl_rows", "cold-f", "interleaved"),
    "rl-mixed-grounded": Stage("grpo", "rl_rows", "cold-f", "grounded"),
    "rl-grounded-more": Stage("grpo", "more_rl_rows", "rl-grounded", "grounded"),
    "rl-echo-more": Stage("grpo", "more_rl_rows", "rl-echo", "interleaved"),
    "base-mid": Stage("base", "mid_base_rows", "clips"),
    "cold-mid": Stage("cold", "mid_paper_rows", "base-mid"),
    "rl-grounded-mid": Stage("grpo", "rl_rows", "cold-mid", "grounded"),
    "rl-echo-mid": Stage("grpo", "rl_rows", "cold-mid", "interleaved"),
    "rl-grounded-gentle": Stage("gentle", "rl_rows", "cold-mid", "grounded"),
    "rl-echo-gentle": Stage("gentle", "rl_rows", "cold-mid", "interleaved"),
    "rl-grounded-gentle-more": Stage("gentle", "more_rl_rows", "rl-grounded-gentle", "grounded"),
    "rl-echo-gentle-more": Stage("gentle", "more_rl_rows", "rl-echo-gentle", "interleaved"),
    "base-fine": Stage("base", "fine_base_rows", "clips"),
    "cold-fine": Stage("cold", "fine_mixed_rows", "base-fine"),
}
KINDS: dict[str, type[SftConfig | GrpoConfig]] = {
    "clips": SftConfig, "base": SftConfig, "cold": SftConfig, "grpo": GrpoConfig, "gentle": GrpoConfig,
}  # fmt: skip
"""The class that the settings of each kind of stage are of."""
SHIPPED = "nano"
"""The model that comes with relisten, made by recipe F in a larger world and with more steps, so outside the study."""
SIDE = ("rl-direct", "rl-mixed-grounded", "rl-echo-other", "rl-direct-other", "base-fine", "cold-fine")
"""Stages that the claim does not need; only the first `side_seeds` seeds have them."""

ARMS = {
    "A": Arm("base model", "base", "conditioned", "A"),
    "B": Arm("cold start P, grounded", "cold-p", "grounded", "B"),
    "C": Arm("cold start P, interleaved", "cold-p", "interleaved", "C"),
    "B'": Arm("P, then RL, grounded", "rl-grounded", "grounded", "B'"),
    "D": Arm("P, then RL, interleaved (Echo)", "rl-echo", "interleaved", "D"),
    "B' more": Arm("B', RL as long again", "rl-grounded-more", "grounded"),
    "D more": Arm("D, RL as long again", "rl-echo-more", "interleaved"),
    "D'": Arm("P, then RL on other questions", "rl-echo-other", "interleaved", "D'"),
    "E": Arm("RL without cold start", "rl-direct", "conditioned", "E"),
    "E'": Arm("RL on other questions, no cold start", "rl-direct-other", "conditioned", "E'"),
    "BF": Arm("cold start F, grounded", "cold-f", "grounded"),
    "CF": Arm("cold start F, interleaved", "cold-f", "interleaved"),
    "B'F": Arm("F, then RL, grounded", "rl-mixed-grounded", "grounded"),
    "DF": Arm("F, then RL, interleaved", "rl-mixed", "interleaved"),
    "A mid": Arm("A, of a base that knows sound in mid-text", "base-mid", "conditioned", "A"),
    "B mid": Arm("B, on that base", "cold-mid", "grounded", "B"),
    "C mid": Arm("C, on that base", "cold-mid", "interleaved", "C"),
    "B' mid": Arm("B', on that base", "rl-grounded-mid", "grounded", "B'"),
    "D mid": Arm("D, on that base", "rl-echo-mid", "interleaved", "D"),
    "B' gentle": Arm("B', on that base, gentler RL", "rl-grounded-gentle", "grounded", "B'"),
    "D gentle": Arm("D, on that base, gentler RL", "rl-echo-gentle", "interleaved", "D"),
    "B' gentle more": Arm("B' gentle, RL as long again", "rl-grounded-gentle-more", "grounded"),
    "D gentle more": Arm("D gentle, RL as long again", "rl-echo-gentle-more", "interleaved"),
    "nano": Arm("the nano that ships, interleaved", SHIPPED, "interleaved"),
    "nano grounded": Arm("the nano that ships, grounded", SHIPPED, "grounded"),
}
"""P is the paper's cold start, which has grounded chains alone. F goes beyond the paper and adds interleaved ones."""
CONTROLS: dict[str, tuple[Hears, ...]] = {
    "D": ("other", "silence", "random", "off", "oracle"),
    "DF": ("other", "silence", "random", "off", "oracle"),
    "C": ("oracle",), "CF": ("oracle",), "C mid": ("oracle",),
    "D mid": ("other", "silence", "random", "off", "oracle"),
    "D gentle": ("other", "silence", "random", "off", "oracle"),
}  # fmt: skip
"""Rows that are read again with something else in place of what is heard."""
HEARD = {
    "other": "another recording heard", "silence": "silence heard", "random": "random stretches heard",
    "off": "nothing inserted", "oracle": "the right stretch heard",
}  # fmt: skip
ARMS |= {
    f"{key} {hears}": replace(ARMS[key], title=f"{key}, {HEARD[hears]}", paper="", hears=hears)
    for key, every in CONTROLS.items() for hears in every
}  # fmt: skip
ARMS |= {
    "BF fine": Arm("BF, captions tell all that clips tell", "cold-fine", "grounded", fine=True),
    "CF fine": Arm("CF, captions tell all that clips tell", "cold-fine", "interleaved", fine=True),
}

DIFFERENCES = (
    ("A", "B", "the cold start"),
    ("B", "C", "hearing without having learnt to"),
    ("B", "B'", "RL, grounded"),
    ("C", "D", "RL, interleaved"),
    ("B", "D", "RL, interleaved, over the cold start"),
    ("B'", "D", "hearing again, after RL (the paper's claim)"),
    ("D", "D more", "RL as long again, heard"),
    ("B'", "B' more", "RL as long again, grounded"),
    ("B' more", "D more", "hearing again, after as much RL again"),
    ("B", "D more", "RL, interleaved and twice as long, over the cold start"),
    ("B'F", "D", "D against grounded RL on the other cold start"),
    ("A", "E", "RL without cold start"),
    ("E", "D", "the whole, against RL alone"),
    ("BF", "CF", "hearing again, after the cold start F"),
    ("B'F", "DF", "hearing again, after that and RL"),
    ("CF", "CF oracle", "the right stretch, after the cold start F"),
    ("BF", "CF oracle", "hearing the right stretch, after the cold start F"),
    ("B'", "CF", "the cold start F, heard, against RL on grounded chains"),
    ("B'", "DF", "F and RL, against RL on grounded chains"),
    ("CF", "DF", "RL over that"),
    ("A mid", "B mid", "the cold start, on a base that knows sound in mid-text"),
    ("B mid", "C mid", "hearing without having learnt to, on that base"),
    ("B mid", "B' mid", "RL, grounded, on that base"),
    ("C mid", "D mid", "RL, interleaved, on that base"),
    ("B mid", "D mid", "RL, interleaved, over the cold start, on that base"),
    ("B' mid", "D mid", "hearing again, after RL, on that base (the paper's claim)"),
    ("B mid", "B' gentle", "gentler RL, grounded"),
    ("C mid", "D gentle", "gentler RL, interleaved"),
    ("B mid", "D gentle", "gentler RL, interleaved, over the cold start (the paper's 13 points)"),
    ("B' gentle", "D gentle", "hearing again, after gentler RL (the paper's claim)"),
    ("D gentle", "D gentle more", "gentler RL as long again, heard"),
    ("B' gentle", "B' gentle more", "gentler RL as long again, grounded"),
    ("C mid", "D gentle more", "gentler RL, interleaved and twice as long"),
    ("B mid", "D gentle more", "that, over the cold start"),
    ("B' gentle more", "D gentle more", "hearing again, after as much gentler RL again"),
    ("nano grounded", "nano", "hearing again, in the nano that ships"),
    ("D", "D'", "other questions for RL"),
    ("D other", "D", "what is heard, in D"),
    ("DF other", "DF", "what is heard, in DF"),
    ("C mid", "CF", "the cold start F, against hearing without having learnt to"),
    ("D mid other", "D mid", "what is heard, in D mid"),
    ("D mid silence", "D mid", "sound in place of silence, in D mid"),
    ("D mid", "D mid off", "nothing inserted, in D mid"),
    ("D gentle other", "D gentle", "what is heard, in D gentle"),
    ("BF fine", "CF fine", "hearing again, where captions tell all that clips tell"),
)
"""From row, to row, what the difference shows."""
LISTENING = (
    "B", "B'", "C", "D", "D more", "CF", "DF", "B mid", "C mid", "D mid", "B' gentle", "D gentle", "D gentle more",
)  # fmt: skip
"""Rows whose way of listening is shown beside Echo's."""
DYNAMICS = (
    "reward", "reward_accuracy", "reward_segment", "reward_format", "reward_consistency", "segments", "heard_once",
    "heard_twice", "segment_seconds", "segment_overlap", "tokens", "kl",
)  # fmt: skip
