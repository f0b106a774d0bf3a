"""What a job is asked: settings, inputs, chains, and how they are read."""
