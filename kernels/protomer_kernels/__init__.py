"""Arithmetic on arrays for cryo-EM refinement: knows no file, rank, setting or clock."""
