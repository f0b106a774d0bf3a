"""Filaments in the one loop: the lattice that is imposed and refined, what is known of their poses, where they start, what is told."""
