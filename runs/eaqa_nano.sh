#!/usr/bin/env bash
# Fine-tunes the shipped nano on the chains of `relisten data build` and, for comparison, on the chains that the scenes come
# with: the same recordings, steps and number of rows. Then it asks both kinds of held-out questions. If it is stopped, run
# it again: it continues where it was.
# usage: runs/eaqa_nano.sh [FOLDER]   (default out/eaqa_nano). To try it quickly: STEPS=2 SCENES=40 HELDOUT=12
# SEED is the seed of training. Use three seeds, each with a folder of its own, before you believe a difference. MANNER=""
# gives the pipeline's usual chains, sentences of 80 words, which nano cannot write.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-out/eaqa_nano} steps=${STEPS:-500} scenes=${SCENES:-2500} heldout=${HELDOUT:-300} seed=${SEED:-0} manner=${MANNER-short}
export PATH="$PWD/.venv/bin:$PATH"

# Scenes for training, and held-out scenes from other waveforms and voices.
relisten scenes "$folder/scenes" --num "$scenes" --questions 4
relisten scenes "$folder/heldout" --num "$heldout" --questions 2 --seed 500000 --split heldout
build="relisten data build --source scenes --teacher rules --blind-margin 1${manner:+ --manner $manner}"
$build --root "$folder/scenes" --out "$folder/sets" --questions 4
$build --root "$folder/heldout" --out "$folder/heldout_sets" --questions 2 --seed 1
relisten data stats "$folder/sets"

train="relisten train sft --model nano --format interleaved --steps $steps --optimizer muon --learning-rate 3e-4
  --attention eager --no-bf16 --seed $seed"
$train --data "$folder/sets/sft.jsonl" --output "$folder/pipeline" --batch-size 16 --device-batch-size 16
$train --data "$folder/scenes/questions.jsonl" --output "$folder/chains" --batch-size 16 --device-batch-size 16

for name in start pipeline chains; do
  model=$([ "$name" = start ] && echo nano || echo "$folder/$name/model")
  relisten eval "$folder/heldout/questions.jsonl" "$folder/eval/$name-on-scenes" --model "$model"
  relisten eval "$folder/heldout_sets/sft.jsonl" "$folder/eval/$name-on-sets" --model "$model"
done
for questions in scenes sets; do
  relisten compare "$folder/eval/chains-on-$questions" "$folder/eval/pipeline-on-$questions" --out "$folder/compare-$questions"
done
