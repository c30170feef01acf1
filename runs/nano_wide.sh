#!/usr/bin/env bash
# Trains a nano for both worlds: its own, and the world at the microphone. If it is stopped, run it again: it continues
# where it was. After runs/nano.sh and the bank it takes about five hours on one core.
# usage: runs/nano_wide.sh NANO EAR BANK PACKAGES [FOLDER]   NANO: a nano of the first world, what runs/nano.sh leaves in
#   its folder's nano; EAR: what `python runs/whisper_ear.py` has written; BANK, PACKAGES: the folders of
#   runs/make_bank.py; FOLDER: default out/wide
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${5:-out/wide}
export PATH="$PWD/.venv/bin:$PATH" RELISTEN_BANK=$3 OMP_NUM_THREADS=1
[ -d "$folder/ear/model" ] || python runs/teach_ear.py "$1" "$2" "$4" "$folder/ear"
relisten train sft runs/wide_base.yaml --output "$folder/base" --model "$folder/ear/model"
relisten train sft runs/wide_sft.yaml --output "$folder/sft" --model "$folder/base/model"
relisten train sft runs/wide_varied.yaml --output "$folder/varied" --model "$folder/sft/model"
python runs/ship_nano.py "$folder/varied/model" "$folder/nano"
python runs/nano_scope.py fit "$3" "$folder/nano"
# RL changed nothing that was measured (LAB.md); to try it:
# relisten train grpo runs/wide_grpo.yaml --output "$folder/grpo" --model "$folder/varied/model"
