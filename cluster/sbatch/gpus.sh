#!/usr/bin/env bash
# One job of Protomer on several ranks with a GPU each: sbatch --partition=NAME cluster/sbatch/gpus.sh refine --backend cuda ...
#SBATCH --job-name=protomer
#SBATCH --ntasks=4
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --mem-per-cpu=4G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=protomer-%j.log
# Two minutes before its time is over every rank is asked to stop: one checkpoint is written, the job ends with 75 and goes on later.
#SBATCH --signal=USR1@120
set -uo pipefail

# module load ...          what your site needs to find Python, Protomer and the GPU's driver
# export PATH=$HOME/protomer/bin:$PATH

srun --mpi="${PROTOMER_SRUN_MPI:-pmi2}" --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" --gpus-per-task=1 \
  protomer "$@" --threads "$SLURM_CPUS_PER_TASK" --resume --overwrite
code=$?
if [ "$code" = 75 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
