"""report.html: one file with figures inside, readable without a network."""
