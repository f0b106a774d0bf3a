"""Particles that move with their map: what is reconstructed from them is the moved map, and runs that were aligned are better together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from protomer.maps.fsc_curves import first_crossing
from protomer.maps.map_aligning import Side, spectrum_of
from protomer.maps.map_search import Limits, align
from protomer.maps.placement import Placement, place_particles, place_volume
from protomer.maps.rigid_motion import Frame, RigidMotion, mirror_particles, move_particles
from protomer.maps.volumes import Volume
from protomer.tables.particle_sets import joined
from protomer_kernels.atoms import real_volume
from protomer_kernels.masks import sphere_mask
from protomer_kernels.shells import fourier_shell_correlation
from reconstructions import as_particles, rebuilt
from simulated import chain_dataset, chain_model

BOX, PIXEL_A = 32, 4.5
INSIDE = sphere_mask(BOX, BOX / 2 - 5, 4)


def some_motion(seed: int, angle_deg: float) -> RigidMotion:
    random = np.random.default_rng(seed)
    axis = random.normal(size=3)
    turn = Rotation.from_rotvec(np.deg2rad(angle_deg) * axis / np.linalg.norm(axis))
    return RigidMotion(turn.as_matrix(), random.uniform(-5, 5, 3))


def agreement(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return fourier_shell_correlation((one * INSIDE).astype(np.float32), (other * INSIDE).astype(np.float32))


@pytest.mark.parametrize("is_mirrored", [False, True])
def test_the_map_of_moved_particles_is_the_moved_map(tmp_path: Path, is_mirrored: bool) -> None:
    particles = as_particles(chain_dataset(300, BOX, PIXEL_A, 0.5), tmp_path)
    halves, together = rebuilt(particles)
    placement = Placement(some_motion(1, 130.0), is_mirrored, Frame(BOX, PIXEL_A))
    moved = place_volume(Volume(together.astype(np.float32), PIXEL_A), placement)
    curve = agreement(rebuilt(place_particles(particles, placement))[1], moved.data)
    resolved = int(first_crossing(agreement(halves.a, halves.b), 0.143))
    resolved = min(resolved, BOX * 3 // 8)  # at three quarters of Nyquist the interpolation of the reconstruction begins to tell
    assert resolved >= 8 and curve[1:resolved].min() > 0.99


@pytest.mark.parametrize("is_mirrored", [False, True])
def test_runs_refined_apart_and_aligned_are_together_no_worse_than_either(tmp_path: Path, is_mirrored: bool) -> None:
    """Two halves of a data set, the second with its map in another frame, and mirrored; found from the maps alone."""
    particles = as_particles(chain_dataset(300, BOX, PIXEL_A, 0.5), tmp_path)
    first, second = particles.take(np.arange(0, 300, 2)), particles.take(np.arange(1, 300, 2))
    elsewhere = move_particles(second, some_motion(2, 25.0))
    elsewhere = mirror_particles(elsewhere) if is_mirrored else elsewhere
    maps = [Volume(rebuilt(table)[1].astype(np.float32), PIXEL_A) for table in (first, elsewhere)]
    spectra = [spectrum_of(Side("a map", volume, None), 3 * PIXEL_A) for volume in maps]
    found = align(*spectra, Limits(angle_deg=30.0))
    assert found.is_mirrored == is_mirrored
    placement = Placement(found.fit.motion, found.is_mirrored, Frame(BOX, PIXEL_A))
    together = joined([first, place_particles(elsewhere, placement)])
    assert len(together) == 300 and len(together.stacks) == 1
    truth = real_volume(chain_model().volume_ft(BOX, PIXEL_A), BOX)
    of_all, of_first, of_second = (agreement(rebuilt(table)[1], truth)[1:13] for table in (together, first, second))
    assert of_all.mean() > max(of_first.mean(), of_second.mean()) and (of_all > np.maximum(of_first, of_second) - 0.01).all()
    in_truth = agreement(rebuilt(particles)[1], truth)[1:13]
    assert np.abs(of_all - in_truth).max() < 0.02, "as good as if they had never been apart"
