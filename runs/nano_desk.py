"""The table of nano at the microphone, from the folders that runs/nano_report.sh has made.

usage: python runs/nano_desk.py FOLDER
"""

import sys
from pathlib import Path

from relisten.data.worlds.microphone import CANNOT_TELL
from relisten.evals.runs import read_run
from relisten.evals.scoring import wilson
from relisten.same_text import is_right

ROWS = {
    "scenes at the microphone, interleaved": "desk-own",
    "the same, segments only named": "desk-grounded",
    "the same, another recording at the same times": "desk-other",
    "the same, silence": "desk-silence",
    "the same, nothing inserted": "desk-off",
    "the same, always the right stretch": "desk-oracle",
    "held-out wordings": "wordings-own",
    "one word of a real person never heard, no choices": "words-own",
    "30 s": "desk-30-own",
    "60 s": "desk-60-own",
}


def row(name: str, right: int, num: int) -> str:
    """One line of a table: share, interval, n."""
    low, high = wilson(right, num)
    return f"| {name} | {right / max(1, num):.3f} | {low:.3f} to {high:.3f} | {num} |"


def right(record: dict[str, object]) -> bool:
    """Whether an answer is the right choice, or the right text where there are no choices."""
    return is_right(record["answer_prediction"], record["answer"])  # type: ignore[arg-type]


def main(folder: Path) -> None:
    """Print the table, and how often "cannot tell" is right and wrong."""
    print("| at the microphone | accuracy | 95 % interval | n |", "|---|--:|--:|--:|", sep="\n")
    for name, run in ROWS.items():
        if (folder / run).is_dir():
            found = read_run(folder / run).records
            print(row(name, sum(map(right, found)), len(found)))
    if not (folder / "cannot-own").is_dir():
        return
    found = read_run(folder / "cannot-own").records
    absent = [r for r in found if r["answer"] == CANNOT_TELL]
    present = [r for r in found if r["answer"] != CANNOT_TELL]
    kept = [r for r in found if not is_right(r["answer_prediction"], CANNOT_TELL)]
    print("", '| with "cannot tell" among the choices | share | 95 % interval | n |', "|---|--:|--:|--:|", sep="\n")
    print(row("the sound is not there: it says so", sum(map(right, absent)), len(absent)))
    untold = sum(is_right(r["answer_prediction"], CANNOT_TELL) for r in present)
    print(row("the sound is there: it says that it cannot tell", untold, len(present)))
    print(row("coverage: questions that it answers", len(kept), len(found)))
    print(row("risk: of these, wrong", sum(not right(r) for r in kept), len(kept)))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
