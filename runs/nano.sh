#!/usr/bin/env bash
# Trains a nano from nothing in four stages, then measures it on held-out scenes. If it is stopped, run it again: it
# continues where it was. Training takes two and a half hours on two cores, and measuring ten minutes. If the processor has
# instructions for bfloat16 (`relisten doctor` says so), BF16=--bf16 makes the first three stages 1.7 times as fast; the
# shipped weights were made that way.
# usage: runs/nano.sh [FOLDER]   (default out/nano; `make test` has installed what it needs)
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-out/nano}
export PATH="$PWD/.venv/bin:$PATH"

relisten train sft runs/nano_clips.yaml --output "$folder/clips" ${BF16:-}
relisten train sft runs/nano_base.yaml --output "$folder/base" --model "$folder/clips/model" ${BF16:-}
relisten train sft runs/nano_sft.yaml --output "$folder/sft" --model "$folder/base/model" ${BF16:-}
relisten train grpo runs/nano_grpo.yaml --output "$folder/grpo" --model "$folder/sft/model"
python runs/ship_nano.py "$folder/grpo/model" "$folder/nano"

runs/nano_report.sh "$folder/report" "$(realpath "$folder/nano")"
