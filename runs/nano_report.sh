#!/usr/bin/env bash
# Measures nano on held-out scenes in every format and with every control, and writes docs/nano-report.
# usage: runs/nano_report.sh [FOLDER] [MODEL]   (default out/nano-report and the nano of the package; about 15 minutes)
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-out/nano-report} model=${2:-nano}
export PATH="$PWD/.venv/bin:$PATH"

# Held-out scenes, mixed from other waveforms and voices (training only uses seeds from 1,000,000 on).
relisten scenes "$folder/heldout" --num 600 --questions 2 --seed 500000 --split heldout
for arm in "interleaved own" "grounded own" "conditioned own" "interleaved other" "interleaved silence" \
           "interleaved random" "interleaved neighbour" "interleaved off" "interleaved oracle"; do
  read -r format hears <<<"$arm"
  name=$([ "$format" = interleaved ] && echo "$hears" || echo "$format")
  relisten eval "$folder/heldout/questions.jsonl" "$folder/$name" --model "$model" --format "$format" --hears "$hears"
done
runs() { for name in "$@"; do echo "$folder/$name"; done; }
relisten analyse $(runs own grounded conditioned) --attention 24 --model "$model" --out "$folder/analysis"
relisten report $(runs own grounded conditioned other silence random neighbour off oracle) --examples 1 \
  --title "nano on 1,152 held-out questions" --out docs/nano-report/report.html

# Longer ones: 8 to 16 s.
relisten scenes "$folder/longer" --num 600 --questions 2 --seed 700000 --split heldout \
  --min-seconds 8 --max-seconds 16 --max-gap 2.5 --max-events 7
for format in interleaved grounded conditioned; do
  relisten eval "$folder/longer/questions.jsonl" "$folder/longer-$format" --model "$model" --format "$format"
done
relisten compare $(runs grounded own)
relisten compare $(runs longer-grounded longer-interleaved)
