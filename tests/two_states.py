"""Images of two states of a particle and of junk, for tests of classification, and what Bayes' rule makes of them."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np

from protomer.engine.alignment import IDENTITY, Reference, search_globally
from protomer.engine.hypotheses import class_posterior, evidence
from protomer.engine.schedule import Band
from protomer.formats.hdf5 import write_particles
from protomer.formats.mrc import write_volume
from protomer.maps.volumes import Volume
from protomer.simulation.dataset import SimulatedData, Simulator, noise_variance
from protomer.simulation.draws import SimulationDesign
from protomer.simulation.pose_trial import known_images
from protomer.simulation.scatterers import AtomModel
from protomer_kernels.half_plane import HalfPlane, largest_radius
from reconstructions import as_particles
from simulated import chain_model

BOX, PIXEL_A, SHARE_OF_SECOND = 32, 4.5, 0.3


def states() -> tuple[AtomModel, AtomModel]:
    """A particle of three lobes, and the same with the small lobe elsewhere."""
    model = chain_model()
    small = np.linalg.norm(model.positions_A - np.array([24.0, -16.0, -12.0]), axis=1) < 18.0
    moved = model.positions_A.copy()
    moved[small] += np.array([-42.0, -6.0, 30.0])
    return model, AtomModel(moved, model.weights, model.bfactor_A2)


@functools.cache
def mixed(number: int = 400, snr: float = 0.1, junk: float = 0.0, second: float = SHARE_OF_SECOND, seed: int = 4
          ) -> tuple[SimulatedData, tuple[Volume, Volume]]:
    """Images of both states and junk; and the true map of each state."""
    design = SimulationDesign(number, BOX, PIXEL_A, snr, seed=seed, second_fraction=second, junk=junk)
    simulator = Simulator(states(), design)
    images = np.concatenate([block for _, block in simulator.blocks()])
    maps = simulator.volume(1), simulator.volume(2)
    return SimulatedData(images, simulator.truth, maps[0], noise_variance(design), design), maps


def write_files(folder: Path, data: SimulatedData, maps: tuple[Volume, Volume]) -> None:
    """folder/particles.h5 without poses, and the true maps as state1.mrc and state2.mrc."""
    particles = as_particles(data, folder).with_columns(rotation=np.tile([0.0, 0.0, 0.0, 1.0], (len(data.images), 1)),
                                                        shift_A=np.zeros((len(data.images), 2)))
    write_particles(folder / "particles.h5", replace(particles, has_poses=False))
    for number, volume in enumerate(maps, 1):
        write_volume(folder / f"state{number}.mrc", volume)


def posterior_by_bayes(data: SimulatedData, maps: tuple[Volume, Volume], prior: tuple[float, float]) -> np.ndarray:
    """(n, 2) with the true maps, noise, CTF and class sizes, poses unknown: what no method can do better than."""
    plane = HalfPlane(BOX, largest_radius(BOX))
    search = replace(Band.at(BOX, plane.radius), radius=plane.radius, iteration=5).search(BOX / 16)
    references = [Reference.prepare(volume.data, plane, plane.radius, IDENTITY, search) for volume in maps]
    parts = []
    for first in range(0, len(data.images), 64):
        images = known_images(data, plane, plane.radius, slice(first, first + 64))
        found = [search_globally(images, reference, search) for reference in references]
        log_odds = np.stack([evidence(poses, search.shift_extent_px) for poses in found], axis=1)
        parts.append(class_posterior(log_odds, np.log(prior), -np.inf))
    return np.concatenate(parts)
