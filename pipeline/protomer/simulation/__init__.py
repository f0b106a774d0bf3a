"""Simulated data with known truth, and how far from the truth a result is."""
