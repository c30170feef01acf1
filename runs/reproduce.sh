#!/usr/bin/env bash
# From the downloads to a table beside the paper's, in stages. Each can be stopped and started again; a finished one is
# skipped. docs/reproduce.md says what each stage needs, how long it takes, and which figures to expect.
#   runs/reproduce.sh                     all stages, into out/paper
#   runs/reproduce.sh build sft           these stages alone
#   SMOKE=1 runs/reproduce.sh             every stage with nano in the 7B's place, ten minutes on two cores, no network
# Settings, as environment variables: OUT (folder for results), DATA (folder with the downloads), PROCESSES (GPUs), MODEL;
# for the build TEACHER, URL, KEY (the variable that holds the key) and DESCRIBER; SHARDING=fsdp2 or zero3 for full
# fine-tuning.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"

stages=("$@")
[ ${#stages[@]} -gt 0 ] || stages=(weights data build sft grpo evaluate table)
if [ -n "${SMOKE:-}" ]; then
  out=${OUT:-out/smoke} processes=${PROCESSES:-2} model=nano
else
  out=${OUT:-out/paper} processes=${PROCESSES:-8} model=${MODEL:-data/Qwen2.5-Omni-7B}
fi
data=${DATA:-$([ -n "${SMOKE:-}" ] && echo "$out/data" || echo data)}
# Rows of the paper's ablation: name, the model's folder, format. "interleaved" answers hear their segments.
rows=("A $model conditioned" "B $out/sft/model grounded" "C $out/sft/model interleaved" "D $out/grpo/model interleaved")
mkdir -p "$out/done"

weights() { # Qwen2.5-Omni-7B
  [ -n "${SMOKE:-}" ] || [ -f "$model/config.json" ] || hf download Qwen/Qwen2.5-Omni-7B --local-dir "$model"
  relisten doctor
}

data() { # recordings with times to train on, and a benchmark to be measured by
  if [ -n "${SMOKE:-}" ]; then
    relisten scenes "$data/audioset" --num 16 --questions 0
    relisten scenes "$data/musicbench" --num 8 --questions 0 --seed 100
    relisten scenes "$data/mmar" --num 8 --questions 2 --seed 500000 --split heldout
    cp "$data/mmar/questions.jsonl" "$data/mmar/MMAR-meta.jsonl"
    return
  fi
  relisten data sources --root "$data"
  local missing=0 what
  for what in audioset/audioset_train_strong.tsv audioset/mid_to_display_name.tsv musicbench/MusicBench_train.json \
              mmar/MMAR-meta.jsonl mmau/mmau-test-mini.json; do
    [ -e "$data/$what" ] || { echo "missing: $data/$what" >&2; missing=1; }
  done
  [ $missing = 0 ] || { echo "docs/reproduce.md says where to get them; then start this stage again" >&2; return 1; }
}

build() { # questions, chains of thought, and the two sets: $out/data/all/sft.jsonl and rl.jsonl
  local corpus options=(--describer "${DESCRIBER:-http://localhost:8001/v1#Qwen/Qwen2.5-Omni-7B}") margin=0.1
  local benchmarks=("$data/mmar/MMAR-meta.jsonl" "$data/mmau/test-mini-audios")
  [ -z "${TEACHER:-}" ] || options+=(--teacher "$TEACHER")
  [ -z "${URL:-}" ] || options+=(--url "$URL")
  [ -z "${KEY:-}" ] || options+=(--key "$KEY")
  if [ -n "${SMOKE:-}" ]; then # too few questions to measure what their text gives away
    options=(--source scenes --describer "" --teacher rules --manner short --questions 2 --blind-margin 1) margin=1
    benchmarks=("$data/mmar/audio")
  fi
  for corpus in audioset musicbench; do
    relisten data build "runs/paper_$corpus.yaml" --root "$data/$corpus" --out "$out/data/sets/$corpus" \
      "${options[@]}" --benchmarks "${benchmarks[@]}"
    relisten data stats "$out/data/sets/$corpus"
  done
  relisten data join "$out/data/all" "$out"/data/sets/{audioset,musicbench} --blind-margin "$margin"
}

train() { # sft|grpo OPTIONS...
  if [ -n "${SHARDING:-}" ]; then
    accelerate launch --config-file "runs/accelerate_$SHARDING.yaml" --num_processes "$processes" -m relisten.cli train \
      "$1" "runs/paper_$1.yaml" --lora 0 "${@:2}"
  else
    torchrun --nproc-per-node "$processes" -m relisten.cli train "$1" "runs/paper_$1.yaml" "${@:2}"
  fi
}

small() { # BATCH: the options that turn the paper's settings into a smoke run
  echo --lora 0 --no-bf16 --steps 3 --batch-size "$1" --device-batch-size 2 --save-steps 1 --attention eager
}

sft() { # the cold start
  # shellcheck disable=SC2046
  train sft --model "$model" --data "$out/data/all/sft.jsonl" --output "$out/sft" $([ -z "${SMOKE:-}" ] || small 4)
}

grpo() { # the segments are really heard
  local set=rl
  [ -z "${SMOKE:-}" ] || set=sft # hardly a chain of `rules` fails its checks, so that the set for RL is too small
  # shellcheck disable=SC2046
  train grpo --model "$out/sft/model" --data "$out/data/all/$set.jsonl" --output "$out/grpo" \
    $([ -z "${SMOKE:-}" ] || { small 8; echo --mini-batch-size 4 --max-new-tokens 96; })
}

evaluate() { # every row, one process for each GPU, each with its share of the questions
  local row name folder format shard benchmark dtype=bfloat16 benchmarks=(mmar mmau-mini)
  [ -z "${SMOKE:-}" ] || { dtype=float32 benchmarks=(mmar); }
  for row in "${rows[@]}"; do
    read -r name folder format <<< "$row"
    for benchmark in "${benchmarks[@]}"; do
      local running=()
      for ((shard = 0; shard < processes; shard++)); do
        CUDA_VISIBLE_DEVICES=$shard relisten eval "$benchmark" "$out/eval/$benchmark-$name-$shard" --model "$folder" \
          --data "$data/${benchmark%-mini}" --format "$format" --dtype "$dtype" --temperature 0.7 --allow-missing \
          --shard "$shard/$processes" > "$out/eval-$benchmark-$name-$shard.log" 2>&1 &
        running+=($!)
      done
      for shard in "${!running[@]}"; do
        # Code 1: some questions could not be asked, and count as wrong. Anything else is a failure.
        wait "${running[$shard]}" || [ $? = 1 ] || { cat "$out/eval-$benchmark-$name-$shard.log" >&2; return 1; }
      done
    done
  done
}

table() { # beside the paper's
  [ -z "${SMOKE:-}" ] || echo "A smoke run: nano on a few questions, which has nothing to do with the paper's figures."
  python runs/beside_paper.py "$out/eval" | tee "$out/table.md"
}

for stage in "${stages[@]}"; do
  case $stage in weights | data | build | sft | grpo | evaluate | table) ;; *)
    echo "no stage $stage; there are weights, data, build, sft, grpo, evaluate, table" >&2; exit 2 ;;
  esac
  if [ -e "$out/done/$stage" ] && [ "$stage" != table ]; then
    echo "$stage: done (remove $out/done/$stage to do it again)"
  else
    echo "$stage: begun"
    "$stage"
    touch "$out/done/$stage"
  fi
done
