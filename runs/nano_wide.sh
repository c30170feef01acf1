#!/usr/bin/env bash
# Trains a nano for both worlds: its own, and the world at the microphone. If it is stopped, run it again: it continues
# where it was. It has not been carried to its end yet; LAB.md says how far it came.
# usage: runs/nano_wide.sh EAR BANK [FOLDER]   EAR: own, or the file that `python runs/whisper_ear.py extract` has written;
#   BANK: the folder that runs/make_bank.py has made; FOLDER: default out/wide
set -euo pipefail
cd "$(dirname "$0")/.."
ear=$1 folder=${3:-out/wide}
export PATH="$PWD/.venv/bin:$PATH" PYTHONPATH="$PWD/runs" RELISTEN_BANK=$2 OMP_NUM_THREADS=1

train() {  # STAGE FROM
  export NANO=$2  # for whisper_ear:frozen
  if [ "$ear" = own ]; then
    relisten train sft "runs/wide_$1.yaml" --output "$folder/$1" --model "$NANO" --freeze "*visual.*"
  else
    relisten train sft "runs/wide_$1.yaml" --output "$folder/$1"
  fi
}
[ -d "$folder/start" ] || python runs/whisper_ear.py graft "$ear" "$folder/start"
start=$folder/start
if [ "$ear" != own ]; then  # a new ear first learns what single sounds are
  train clips "$start"
  start=$folder/clips/model
fi
train base "$start"
train sft "$folder/base/model"
relisten train grpo runs/wide_grpo.yaml --output "$folder/grpo" --model "$folder/sft/model"
python runs/ship_nano.py "$folder/grpo/model" "$folder/nano"
