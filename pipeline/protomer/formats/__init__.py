"""Foreign formats: the only place that knows other programs' units, names and signs."""
