#!/usr/bin/env bash
# Trains a nano from nothing in three stages, then measures it on held-out scenes. A stopped run goes on where it was.
# About an hour on two cores (67 minutes beside other work), then some ten minutes for the measurements.
# usage: runs/nano.sh [FOLDER]   (default out/nano; `make test` has installed what it needs)
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-out/nano}
export PATH="$PWD/.venv/bin:$PATH"

relisten train sft runs/nano_clips.yaml --output "$folder/clips"
relisten train sft runs/nano_base.yaml --output "$folder/base" --model "$folder/clips/model"
relisten train sft runs/nano_sft.yaml --output "$folder/sft" --model "$folder/base/model"
python runs/ship_nano.py "$folder/sft/model" "$folder/nano"

runs/nano_report.sh "$folder/report" "$(realpath "$folder/nano")"
