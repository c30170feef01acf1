"""Puts sets of questions together into one file; the paths of their recordings are made relative to its folder.

usage: python runs/join_sets.py TO.jsonl SET.jsonl...
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from relisten import records


def main(to: Path, sets: list[Path]) -> None:
    """Write every line of the sets, in their order."""
    lines = []
    for path in sets:
        for _, row in records.entries(path):
            recording = os.path.relpath(path.absolute().parent / row["audio_path"], to.absolute().parent)
            lines.append(json.dumps({**row, "audio_path": Path(recording).as_posix()}, ensure_ascii=False) + "\n")
    records.write_atomic(to, "".join(lines))
    print(f"{to}: {len(lines):,} questions of {len(sets)} sets")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
