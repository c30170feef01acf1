#!/usr/bin/env bash
# Measures nano on held-out scenes in every format and with every control, and writes docs/nano-report.
# usage: runs/nano_report.sh [FOLDER] [MODEL] [BANK]   (default out/nano-report, the nano of the package and out/bank;
#   about 20 minutes for the first world, and about as much for the world at the microphone, if there is a BANK, which
#   runs/make_bank.py makes)
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-out/nano-report} model=${2:-nano} bank=${3:-out/bank}
export PATH="$PWD/.venv/bin:$PATH"

# Held-out scenes, mixed from other waveforms and voices (training only uses seeds from 1,000,000 on).
relisten scenes "$folder/heldout" --num 600 --questions 2 --seed 500000 --split heldout
for arm in "interleaved own" "grounded own" "conditioned own" "interleaved other" "interleaved silence" \
           "interleaved random" "interleaved neighbour" "interleaved off" "interleaved oracle"; do
  read -r format hears <<<"$arm"
  name=$([ "$format" = interleaved ] && echo "$hears" || echo "$format")
  relisten eval "$folder/heldout/questions.jsonl" "$folder/$name" --model "$model" --format "$format" --hears "$hears"
done
relisten eval "$folder/heldout/questions.jsonl" "$folder/own-only" --model "$model" --only-choices
runs() { for name in "$@"; do echo "$folder/$name"; done; }
relisten analyse $(runs own grounded conditioned) --attention 24 --model "$model" --out "$folder/analysis"
relisten report $(runs own grounded conditioned other silence random neighbour off oracle) --examples 1 \
  --title "nano on held-out questions of its own world" --out docs/nano-report/report.html

# Longer ones: 8 to 16 s.
relisten scenes "$folder/longer" --num 600 --questions 2 --seed 700000 --split heldout \
  --min-seconds 8 --max-seconds 16 --max-gap 2.5 --max-events 7
for format in interleaved grounded conditioned; do
  relisten eval "$folder/longer/questions.jsonl" "$folder/longer-$format" --model "$model" --format "$format"
done

# Recordings of one length: 100 scenes each, with their sounds spread over them, and with all sounds in the first 6 s.
for arm in "6 0.9" "12 3.5" "16 5" "20 7" "30 11" "60 24" "12 0.9" "30 0.9"; do
  read -r seconds gap <<<"$arm"
  relisten scenes "$folder/long-$seconds-$gap" --num 100 --questions 2 --seed 900000 --split heldout \
    --min-seconds "$seconds" --max-seconds "$seconds" --max-gap "$gap"
  for format in interleaved grounded; do
    relisten eval "$folder/long-$seconds-$gap/questions.jsonl" "$folder/long-$seconds-$gap-$format" \
      --model "$model" --format "$format"
  done
done
relisten compare $(runs grounded own)
relisten compare $(runs longer-grounded longer-interleaved)

# At the microphone: voices and recordings that no training used.
if [ ! -d "$bank" ]; then
  echo "There is no bank in $bank, so nothing is measured at the microphone; make it with: python runs/make_bank.py $bank"
  exit 0
fi
made() { relisten scenes "$folder/$1" --split heldout --sounds "$bank" "${@:2}"; }
asked() {  # SET FORMAT HEARS NAME [OPTION]
  relisten eval "$folder/$1/questions.jsonl" "$folder/$1-$4" --model "$model" --format "$2" --hears "$3" "${@:5}"
}
made desk --world microphone --num 600 --questions 2 --seed 10600000 --min-seconds 3 --max-seconds 16
for arm in "interleaved own own" "grounded own grounded" "interleaved other other" "interleaved silence silence" \
           "interleaved off off" "interleaved oracle oracle"; do
  read -r format hears name <<<"$arm"
  asked desk "$format" "$hears" "$name"
done
made wordings --world microphone --wordings heldout --num 600 --questions 2 --seed 10600000 --min-seconds 3 --max-seconds 16
made cannot --world microphone --absent 0.4 --num 600 --questions 2 --seed 10800000 --min-seconds 3 --max-seconds 16
made words --world words --num 1000 --questions 1 --seed 10700000
made desk-30 --world microphone --num 500 --questions 2 --seed 10900000 --min-seconds 30 --max-seconds 30
made desk-60 --world microphone --num 500 --questions 2 --seed 11000000 --min-seconds 60 --max-seconds 60
for set in wordings cannot words desk-30 desk-60; do asked "$set" interleaved own own; done
for set in desk wordings desk-30 desk-60; do asked "$set" interleaved own only --only-choices; done
asked desk grounded own grounded-only --only-choices
relisten compare $(runs desk-grounded desk-own)
relisten compare $(runs desk-grounded-only desk-only)
python runs/nano_desk.py "$folder" | tee "$folder/desk.md"
