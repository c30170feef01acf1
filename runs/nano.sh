#!/usr/bin/env bash
# From nothing to the nano that relisten ships: training in five steps (about 75 minutes on two cores that do nothing
# else), then held-out accuracy. A stopped run goes on where it was.
# usage: runs/nano.sh [FOLDER]   (default out/nano; `make test` has installed what it needs)
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-out/nano}
export PATH="$PWD/.venv/bin:$PATH"

relisten train sft runs/nano_clips.yaml --output "$folder/clips"
relisten train sft runs/nano_base.yaml --output "$folder/base" --model "$folder/clips/model"
relisten train sft runs/nano_text.yaml --output "$folder/text" --model "$folder/base/model"
relisten train sft runs/nano_sft.yaml --output "$folder/sft" --model "$folder/text/model"
# Once more over the same scenes, from a lower rate.
relisten train sft runs/nano_sft.yaml --output "$folder/sft2" --model "$folder/sft/model" --steps 230 --learning-rate 1.2e-3
python runs/ship_nano.py "$folder/sft2/model" "$folder/nano"

# Held out: scenes that training never saw, from other waveforms and voices (seeds below 1,000,000 are not trained on).
relisten scenes "$folder/heldout" --num 600 --questions 2 --seed 500000 --split heldout
for arm in "interleaved own" "interleaved other" "interleaved silence" "grounded own" "conditioned own"; do
  read -r format hears <<<"$arm"
  relisten eval "$folder/heldout/questions.jsonl" "$folder/eval-$format-$hears" \
    --model "$folder/nano" --format "$format" --hears "$hears"
done
