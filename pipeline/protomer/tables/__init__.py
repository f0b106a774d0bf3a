"""Particle tables: made, checked, joined, selected."""
