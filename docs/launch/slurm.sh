#!/usr/bin/env bash
#SBATCH --job-name=vlm_rl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@900
#SBATCH --requeue
#SBATCH --open-mode=append
#
# Train under SLURM, one task for each GPU, on nodes that see the same run folder:
#
#   sbatch docs/launch/slurm.sh runs/luspo_32b \
#       --config configs/luspo_qwen2_5_vl_32b_2nodes_geometry3k.yaml
#
# The first word is the run folder. Options of sbatch win over the lines above. The environment of
# the shell that calls sbatch is that of the job: activate the virtual environment there.
#
# 900 s before the time limit, which must be longer than a step and a checkpoint, every task gets
# SIGUSR1: the run saves and ends with status 0. It is then queued again until its steps are done.
set -o errexit -o nounset -o pipefail

run_dir=${1:?"name the run folder first, then the options of vlm_rl.fit"}
shift
started=$(mktemp)

srun --kill-on-bad-exit=1 python -m vlm_rl.fit "$@" --run_dir "$run_dir" \
    --trainer.num_nodes "$SLURM_JOB_NUM_NODES" --trainer.devices "$SLURM_NTASKS_PER_NODE"

# Written when all steps are done. A run of an earlier job with fewer steps has left an older one.
if [[ ! $run_dir/summary.json -nt $started ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
