#!/bin/sh
# Training on several machines of 8 GPUs. Start it on each, with the same MASTER (the first machine's address) and its
# own RANK_OF_MACHINE (0, 1, ...). The run folder, the data and the model must lie on a disk that all machines see.
#   MASTER=10.0.0.1 MACHINES=2 RANK_OF_MACHINE=0 sh runs/several_machines.sh grpo runs/paper_grpo.yaml
# With SHARDING=fsdp2 or zero3 before it, weights are split over all processes, and settings may leave LoRA out:
#   SHARDING=fsdp2 MASTER=... sh runs/several_machines.sh grpo runs/paper_grpo.yaml --lora 0 --dtype float32
# Tested with DDP as two "machines" of one process (GPUS=1) on one CPU; not tested on machines apart, on GPUs, or with
# SHARDING here.
set -eu
: "${MASTER:?the address of the first machine}" "${MACHINES:?how many machines}" "${RANK_OF_MACHINE:?0 on the first}"
gpus=${GPUS:-8} port=${PORT:-29500}
if [ -n "${SHARDING:-}" ]; then
    exec accelerate launch --config-file "$(dirname "$0")/accelerate_$SHARDING.yaml" \
        --num_machines "$MACHINES" --num_processes $((MACHINES * gpus)) --machine_rank "$RANK_OF_MACHINE" \
        --main_process_ip "$MASTER" --main_process_port "$port" -m relisten.cli train "$@"
fi
exec torchrun --nnodes "$MACHINES" --nproc-per-node "$gpus" --node-rank "$RANK_OF_MACHINE" \
    --master-addr "$MASTER" --master-port "$port" -m relisten.cli train "$@"
