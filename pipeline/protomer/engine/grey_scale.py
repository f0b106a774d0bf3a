"""The grey scale of a start volume, fitted to the images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from protomer.engine.alignment import search_globally
from protomer.engine.model import Model
from protomer.engine.sums import residual_sums
from protomer.imaging.aberrations import usable_radius
from protomer.imaging.images import whitened
from protomer.refinement.setup import Setup, State

EXPECTED_SIGNAL_SHARE = 0.2  # of the low-frequency power, for the first guess
ROUNDS = 3


def calibrate(setup: Setup, state: State) -> Model:
    """The model with each half's start map multiplied by the grey scale that fits the first batch of that half.

    A wrong scale favours views of low or of high power. A first guess matches the power of images and slices at low frequency; then poses
    and scale, which depend on one another, are found in turn.
    """
    firsts = [next(n for n, batch in enumerate(setup.batches) if batch.key[0] == half) for half in (0, 1)]
    scales = [_fit_scale(setup, state, number) for number in firsts if number in setup.numbers]
    gathered = setup.team.gather_rows(np.array(scales, np.float64))  # shares are contiguous: half 0 comes first
    maps = {(half, fold): volume * np.float32(gathered[half]) for (half, fold), volume in state.model.maps.items()}
    return replace(state.model, maps=maps)


def _fit_scale(setup: Setup, state: State, number: int) -> float:
    """The factor by which the map of the batch's half must be multiplied."""
    key, rows, plane = setup.batches[number].key, setup.batches[number].rows, setup.store.plane
    shells = state.model.noise.shape[1]
    search, filaments = setup.search(state.band), setup.filaments_at(state.lattice)
    own = None if filaments is None else filaments.take(rows)
    length = plane.prefix(usable_radius(setup.particles, search.final_radius))
    crops, weights = setup.arithmetic.crops([setup.store.packed(number)]), state.model.root_weight(plane, length)
    batch = whitened(setup.particles, rows, crops, weights, plane, setup.pixel_size_A, setup.arithmetic)
    unscaled = replace(state.model, insertion_radius=search.final_radius).reference(key, plane, search, setup.arithmetic)
    low = unscaled.slices.shape[2]
    # the noise of a whitened coefficient has power 1 per unit of multiplicity, signal included: what exceeds the outer shells is signal
    excess = float((batch.data[:, :, 1:low] ** 2).sum()) * EXPECTED_SIGNAL_SHARE
    mean_power = (unscaled.slices[:, :, 1:low] ** 2).sum(axis=1).mean(axis=0)
    scale = float(np.sqrt(excess / max(float(((batch.amplitude[:, 1:low] ** 2) @ mean_power).sum()), 1e-30)))
    for _ in range(ROUNDS):
        reference = unscaled.scaled(scale)
        poses = search_globally(batch, reference, search, own)
        sums = residual_sums(batch, poses, reference, shells)
        part = sums[:, :, 1 : search.grid_radius].sum(axis=(0, 2))
        scale *= float(np.clip(part[1] / max(part[2], 1e-30), 0.2, 5.0))
    return scale
