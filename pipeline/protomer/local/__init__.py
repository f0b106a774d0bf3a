"""Refining a part of the particle, and whether to believe it."""
