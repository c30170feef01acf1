"""The table of nano at the microphone, from the folders that runs/nano_report.sh has made.

usage: python runs/nano_desk.py FOLDER
"""

import json
import sys
from pathlib import Path

from relisten.data.worlds.microphone import CANNOT_TELL
from relisten.evals.runs import read_run
from relisten.evals.scoring import wilson
from relisten.same_text import is_right

ROWS = {
    "scenes at the microphone, interleaved": "desk-own",
    "segments only named": "desk-grounded",
    "another recording at the same times": "desk-other",
    "silence": "desk-silence",
    "nothing inserted": "desk-off",
    "always the right stretch": "desk-oracle",
    "held-out wordings": "wordings-own",
    "one word of a real person never heard, no choices": "words-own",
    "30 s": "desk-30-own",
    "60 s": "desk-60-own",
    "own scenes, --only-choices": "own-only",
    "scenes at the microphone, --only-choices": "desk-only",
    "segments only named, --only-choices": "desk-grounded-only",
    "held-out wordings, --only-choices": "wordings-only",
    "30 s, --only-choices": "desk-30-only",
    "60 s, --only-choices": "desk-60-only",
}


def row(name: str, right: int, num: int) -> str:
    """One line of a table: share, interval, n."""
    low, high = wilson(right, num)
    return f"| {name} | {right / max(1, num):.3f} | {low:.3f} to {high:.3f} | {num} |"


def right(record: dict[str, object]) -> bool:
    """Whether an answer is the right choice, or the right text where there are no choices."""
    return is_right(record["answer_prediction"], record["answer"])  # type: ignore[arg-type]


def speakers(events: Path) -> dict[str, str]:
    """Who speaks in each recording of one word."""
    clips = map(json.loads, events.read_text(encoding="utf-8").splitlines())
    return {clip["id"]: clip["events"][0]["voice"] for clip in clips}


def main(folder: Path) -> None:
    """Print the table, and how often "cannot tell" is right and wrong."""
    print("| at the microphone | accuracy | 95 % interval | n |", "|---|--:|--:|--:|", sep="\n")
    for name, run in ROWS.items():
        if (folder / run).is_dir():
            found = read_run(folder / run).records
            print(row(name, sum(map(right, found)), len(found)))
    if (folder / "words-own").is_dir():
        speaker = speakers(folder / "words" / "events.jsonl")
        said = [
            (speaker[record["id"].rpartition("-")[0]], right(record))
            for record in read_run(folder / "words-own").records
        ]
        for name in sorted(set(speaker.values())):
            answers = [ok for voice, ok in said if voice == name]
            print(row(f"one word by {name}", sum(answers), len(answers)))
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
