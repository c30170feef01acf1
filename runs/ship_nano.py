"""Writes a trained nano as it ships: weights rounded to float16, which halves the file; they are used in float32.

usage: python runs/ship_nano.py TRAINED [FOLDER]   (default: the package's own, src/relisten/assets/nano)
"""

import sys
from pathlib import Path

import torch

from relisten.models import load

SHIPPED = Path(__file__).parent.parent / "src" / "relisten" / "assets" / "nano"

if __name__ == "__main__":
    trained, folder = sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else SHIPPED
    load(trained).save(folder, dtype=torch.float16)
    print(f"{folder}: {sum(path.stat().st_size for path in folder.iterdir()) / 1e6:.1f} MB")
