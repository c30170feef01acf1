"""Prints the figures of runs/reproduce.sh beside the paper's, as a Markdown table.

usage: python runs/beside_paper.py FOLDER   (with BENCHMARK-ROW-SHARD folders that `relisten eval` wrote)
The paper's average on MMAR is the mean over its seven modalities (macro); the benchmark's own figure is over all
questions (micro). Both are given, so that each is compared with its like.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

from relisten.evals.figures import summary
from relisten.evals.predictions import read_predictions
from relisten.reports.tables import PAPER

ON_MINI = {"D": 0.8041}
"""The paper's accuracy on MMAU test-mini, by the row of its ablation."""
HEADER = ("benchmark", "row", "what it is", "n", "accuracy", "95 % interval", "mean of modalities", "the paper",
          "segments heard", "well formed", "no answer")  # fmt: skip


def main(folder: Path) -> None:
    """Score the shards of each row together and print a line for each."""
    shards: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for path in sorted(folder.glob("*-*-*/answers.jsonl")):
        benchmark, row, _ = path.parent.name.rsplit("-", 2)
        shards[benchmark, row].append(path.parent)
    if not shards:
        raise SystemExit(f"{folder}: holds no BENCHMARK-ROW-SHARD folders; run the stage evaluate first")
    notes = []
    print("|" + "|".join(f" {name} " for name in HEADER) + "|\n|" + "|".join(["---"] * len(HEADER)) + "|")
    for (benchmark, row), paths in shards.items():
        given = read_predictions(paths)
        notes += [f"{benchmark} {row}: {note}" for note in given.notes]
        found = summary(given.records, given.format, "wrong")
        every = found["rows"]["all"]
        published = PAPER[row].accuracy if benchmark == "mmar" else ON_MINI.get(row)
        cells = [
            benchmark, row, PAPER[row].name, f"{every['n']:,}", f"{every['accuracy']:.3f}",
            "{:.3f} to {:.3f}".format(*every["interval"]), _share(found["macro"].get("modality")), _share(published),
            f"{found['listens_per_answer']:.2f}", f"{found['well_formed']:.1%}", f"{every['n'] - every['answered']:,}",
        ]  # fmt: skip
        print("|" + "|".join(f" {cell} " for cell in cells) + "|")
    print("\nA question without an answer counts as wrong. On MMAR, compare the paper with the mean of modalities.")
    for note in notes:
        print(note)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
