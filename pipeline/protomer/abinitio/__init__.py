"""Volumes from nothing: stochastic expectation-maximisation at low resolution, from poses drawn at random."""
