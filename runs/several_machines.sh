#!/bin/sh
# Trains on several machines with 8 GPUs each. Start it on every machine, with the same MASTER (the address of the first
# machine) and the machine's own RANK_OF_MACHINE (0, 1, ...). All machines must see the run folder, the data and the model
# on a shared disk.
#   MASTER=10.0.0.1 MACHINES=2 RANK_OF_MACHINE=0 sh runs/several_machines.sh grpo runs/paper_grpo.yaml
# SHARDING=fsdp2 or SHARDING=zero3 shards the weights over all processes, so that full fine-tuning fits:
#   SHARDING=fsdp2 MASTER=... sh runs/several_machines.sh grpo runs/paper_grpo.yaml --lora 0
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
