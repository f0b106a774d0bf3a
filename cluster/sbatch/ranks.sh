#!/usr/bin/env bash
# One job of Protomer on several ranks, over as many nodes as they need: sbatch --partition=NAME cluster/sbatch/ranks.sh refine ...
#SBATCH --job-name=protomer
#SBATCH --ntasks=4
#SBATCH --cpus-per-task=8
#SBATCH --mem-per-cpu=4G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=protomer-%j.log
# Two minutes before its time is over every rank is asked to stop: one checkpoint is written, the job ends with 75 and goes on later.
#SBATCH --signal=USR1@120
set -uo pipefail

# module load ...          what your site needs to find Python and Protomer
# export PATH=$HOME/protomer/bin:$PATH

# mpich (which comes with Protomer) speaks pmi2; a site's Open MPI speaks pmix. Without --kill-on-bad-exit the other ranks outlive a dead one.
srun --mpi="${PROTOMER_SRUN_MPI:-pmi2}" --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
  protomer "$@" --threads "$SLURM_CPUS_PER_TASK" --resume --overwrite
code=$?
if [ "$code" = 75 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
