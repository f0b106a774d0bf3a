"""Small simulated data sets for tests, made once per process and without files."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from protomer.simulation.dataset import SimulatedData, simulate_dataset
from protomer.simulation.draws import SimulationDesign
from protomer.simulation.scatterers import AtomModel, with_symmetry
from protomer.symmetry.point_groups import operators

LOBES_A = np.array([[-18.0, 0.0, 0.0, 24.0], [18.0, 12.0, 4.0, 17.0], [24.0, -16.0, -12.0, 12.0]])  # centre x, y, z and radius
STEP_A = 3.8


@functools.cache
def chain_model(residues: int = 500, seed: int = 1, bfactor_A2: float = 60.0, size: float = 1.0) -> AtomModel:
    """Random chains of pseudo-residues (5 atoms each) in three unequal lobes: no symmetry, about 85 Å times `size` long."""
    random = np.random.default_rng(seed)
    share = LOBES_A[:, 3] ** 3 / (LOBES_A[:, 3] ** 3).sum()
    trace = np.concatenate([_confined_walk(random, round(residues * part), lobe * size) for part, lobe in zip(share, LOBES_A, strict=True)])
    positions_A = (trace[:, None] + random.normal(0.0, 1.4, (len(trace), 5, 3))).reshape(-1, 3)
    weights = random.choice(np.array([6, 6, 6, 7, 8], np.float32), len(positions_A))
    return AtomModel(positions_A - np.average(positions_A, axis=0, weights=weights), weights, bfactor_A2)


def _confined_walk(random: np.random.Generator, number: int, lobe: np.ndarray) -> np.ndarray:
    """(number, 3) steps of STEP_A that stay in a sphere (x, y, z, radius)."""
    trace, here = np.empty((number, 3)), lobe[:3]
    for n in range(number):
        steps = random.standard_normal((64, 3))
        tries = here + STEP_A * steps / np.linalg.norm(steps, axis=1, keepdims=True)
        here = tries[np.argmax(np.linalg.norm(tries - lobe[:3], axis=1) < lobe[3])]
        trace[n] = here
    return trace


@functools.cache
def symmetric_model(group: str, residues: int = 200, radius_A: float = 30.0, seed: int = 3) -> AtomModel:
    """Random chains under the operators of a point group; every copy is a rigid body."""
    return with_symmetry(chain_model(residues, seed, size=0.6), operators(group), radius_A)


@functools.cache
def chain_dataset(number: int = 200, box: int = 32, pixel_size_A: float = 4.0, snr: float = 0.1, **design: Any) -> SimulatedData:
    """Images of `chain_model` in memory; further names are fields of SimulationDesign."""
    return simulate_dataset(chain_model(), SimulationDesign(number, box, pixel_size_A, snr, **design))


@functools.cache
def symmetric_dataset(group: str, number: int = 200, box: int = 32, pixel_size_A: float = 4.5, snr: float = 0.1,
                      **design: Any) -> SimulatedData:
    """Images of `symmetric_model` in memory; further names are fields of SimulationDesign."""
    return simulate_dataset(symmetric_model(group), SimulationDesign(number, box, pixel_size_A, snr, **design))
