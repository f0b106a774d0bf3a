"""Protomer: reproducible cryo-EM single-particle refinement."""

__version__ = "0.1.0"
