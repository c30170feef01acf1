#!/usr/bin/env bash
# Trains a nano from nothing in four stages, then measures it on held-out scenes. A stopped run goes on where it was.
# Two and a half hours on two cores, then ten minutes for the measurements. With BF16=--bf16 the first three stages are
# 1.7 times as fast where the processor has it (`relisten doctor` says so); the shipped weights were made that way.
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
