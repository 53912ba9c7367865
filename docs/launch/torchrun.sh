#!/usr/bin/env bash
# Train with torchrun, on one machine or on several that see the same run folder. On one:
#
#   docs/launch/torchrun.sh --config configs/luspo_qwen2_5_vl_7b_geometry3k.yaml
#
# On two, on each of them, with NODE_RANK=0 on the first and NODE_RANK=1 on the second:
#
#   NODES=2 NODE_RANK=0 FIRST_NODE=HOST docs/launch/torchrun.sh \
#       --config configs/luspo_qwen2_5_vl_32b_2nodes_geometry3k.yaml
#
# The same command again resumes. Variables: PROCESSES on each machine (its GPUs), PORT of the first
# (29500), NOTICE_S between SIGTERM and SIGKILL (300): longer than a step, see docs/runs.md.
set -o errexit -o nounset -o pipefail

nodes=${NODES:-1}
if [[ -z ${PROCESSES:-} ]]; then
    if ! gpus=$(nvidia-smi --list-gpus); then
        echo "torchrun.sh: nvidia-smi lists no GPUs; set PROCESSES to the processes of each machine" >&2
        exit 2
    fi
    PROCESSES=$(wc --lines <<<"$gpus")
fi
if ((nodes == 1)); then
    rendezvous=(--standalone)
else
    : "${NODE_RANK:?set it to the number of this machine, from 0}"
    : "${FIRST_NODE:?set it to the host name of the machine with NODE_RANK=0}"
    rendezvous=(--node_rank "$NODE_RANK" --master_addr "$FIRST_NODE" --master_port "${PORT:-29500}")
fi

exec python -m torch.distributed.run "${rendezvous[@]}" \
    --nnodes "$nodes" --nproc_per_node "$PROCESSES" --shutdown-timeout "${NOTICE_S:-300}" \
    -m vlm_rl.fit "$@" --trainer.num_nodes "$nodes" --trainer.devices "$PROCESSES"
