#!/usr/bin/env bash
# From nothing to the nano that relisten ships: four stages of training, then held-out accuracy. Two cores are enough.
# A stopped run goes on where it was. usage: runs/nano.sh [FOLDER]   (default out/nano)
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-out/nano}
export OMP_NUM_THREADS=1 # one thread to train, one process to mix scenes: faster here than two threads

relisten train sft runs/nano_clips.yaml --output "$folder/clips"
relisten train sft runs/nano_base.yaml --output "$folder/base" --model "$folder/clips/model"
relisten train sft runs/nano_text.yaml --output "$folder/text" --model "$folder/base/model"
relisten train sft runs/nano_sft.yaml --output "$folder/sft" --model "$folder/text/model"

# Held out: scenes that training never saw, from other waveforms and voices (seeds below 1,000,000 are not trained on).
relisten scenes "$folder/heldout" --num 600 --questions 2 --seed 500000 --split heldout
for arm in "interleaved own" "interleaved other" "interleaved silence" "grounded own" "conditioned own"; do
  read -r format hears <<<"$arm"
  relisten eval "$folder/heldout/questions.jsonl" "$folder/eval-$format-$hears" \
    --model "$folder/sft/model" --format "$format" --hears "$hears"
done
