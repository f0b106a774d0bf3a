"""What each job is called, takes and may be told: light modules that import no numerics."""
