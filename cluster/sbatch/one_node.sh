#!/usr/bin/env bash
# One job of Protomer on one node, without Snakemake: sbatch --partition=NAME cluster/sbatch/one_node.sh refine --particles imported ...
#SBATCH --job-name=protomer
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=32G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=protomer-%j.log
# Two minutes before its time is over the job is asked to write a checkpoint: it then ends with 75, and goes on in a new place in the queue.
#SBATCH --signal=USR1@120
set -uo pipefail

# module load ...          what your site needs to find Python and Protomer
# export PATH=$HOME/protomer/bin:$PATH

srun --ntasks=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" protomer "$@" --threads "$SLURM_CPUS_PER_TASK" --resume --overwrite
code=$?
if [ "$code" = 75 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
