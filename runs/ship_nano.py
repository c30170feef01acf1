"""Writes a trained nano as it ships: weights rounded to float16, which halves the file; they are used in float32.

usage: python runs/ship_nano.py TRAINED [FOLDER]   (default: the package's own, src/relisten/assets/nano)

What says whether a question lies outside of a model's world fits its weights alone, so it is removed from the folder;
`python runs/nano_scope.py fit BANK FOLDER` makes it again.
"""

import sys
from pathlib import Path

import torch

from relisten.files import SCOPE
from relisten.models import load

SHIPPED = Path(__file__).parent.parent / "src" / "relisten" / "assets" / "nano"

if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    trained, folder = sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else SHIPPED
    load(trained).save(folder, dtype=torch.float16)
    for name in ("scope.json", SCOPE):
        (folder / name).unlink(missing_ok=True)
    print(f"{folder}: {sum(path.stat().st_size for path in folder.iterdir()) / 1e6:.1f} MB")
