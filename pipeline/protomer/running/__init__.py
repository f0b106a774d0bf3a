"""How a job runs: its folder, ranks, batches, checkpoints, signals, log and progress."""
