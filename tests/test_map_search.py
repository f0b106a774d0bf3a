"""Maps brought onto maps when nothing is known: against known motions, with margins and uncertainties that are right."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from protomer.maps.map_aligning import Side, spectrum_of
from protomer.maps.map_fit import MapPair, _linearised, free_directions, march
from protomer.maps.map_search import Alignment, Limits, align, displacement_A
from protomer.maps.rigid_fit import stepped
from protomer.maps.rigid_motion import MIRROR, RigidMotion, mirror_volume
from protomer.maps.volumes import Volume
from protomer.simulation.scatterers import AtomModel
from protomer.symmetry.self_correlation import MapSpectrum, ball_points, map_spectrum
from protomer_kernels.atoms import real_volume
from simulated import chain_model
from symmetric_maps import map_of, random_motion, with_noise

BOX, VOXEL_A, FINEST_A = 48, 4.0, 12.0


@functools.cache
def map_at(motion_seed: int | None = None, model_seed: int = 3, is_mirrored: bool = False, box: int = BOX, voxel_A: float = VOXEL_A,
           angle_deg: float | None = None, shift_A: float = 6.0) -> Volume:
    """The map of a chain without symmetry, its atoms mirrored and moved."""
    model = chain_model(200, model_seed, 300.0, size=0.8)
    positions_A = model.positions_A @ MIRROR if is_mirrored else model.positions_A
    if motion_seed is not None:
        positions_A = random_motion(motion_seed, shift_A, angle_deg).points(positions_A)
    moved = AtomModel(positions_A, model.weights, model.bfactor_A2)
    return Volume(real_volume(moved.volume_ft(box, voxel_A), box).astype(np.float32), voxel_A)


def spectrum(volume: Volume, finest_A: float = FINEST_A) -> MapSpectrum:
    return spectrum_of(Side("a map", volume, None), finest_A)


def noisy(volume: Volume, seed: int) -> Volume:
    """White noise of the map's own variance: a signal-to-noise ratio of 1."""
    noise = np.random.default_rng(seed).standard_normal(volume.data.shape, dtype=np.float32)
    return Volume(volume.data + np.float32(volume.data.std()) * noise, volume.voxel_size_A)


def errors(found: Alignment, moved_by: RigidMotion, is_mirrored: bool = False) -> tuple[float, float]:
    """Degrees and angstrom by which an alignment misses what undoes x' = motion(M x)."""
    undone = RigidMotion(MIRROR @ moved_by.rotation @ MIRROR, MIRROR @ moved_by.shift_A) if is_mirrored else moved_by
    left = found.fit.motion.after(undone)
    return left.angle_deg, left.distance_A


def test_a_noisy_map_mirrored_turned_and_moved_anywhere_is_brought_back_in_its_hand() -> None:
    found = align(spectrum(map_at()), spectrum(noisy(map_at(2, is_mirrored=True), 2)), Limits())
    angle_deg, distance_A = errors(found, random_motion(2, 6.0), is_mirrored=True)
    assert found.is_mirrored and angle_deg < 3.5 * found.fit.angle_sd_deg < 0.6 and distance_A < 3.5 * found.fit.shift_sd_A < 0.1 * VOXEL_A
    assert found.hand_margin is not None and found.hand_margin > 0.1 and found.equals == 0
    assert found.start_margin is None or found.start_margin > 0.1


def test_box_and_voxel_size_need_not_be_those_of_the_reference() -> None:
    other = map_at(4, box=61, voxel_A=3.1, angle_deg=15.0)
    found = align(spectrum(map_at()), spectrum(other), Limits(angle_deg=20.0, both_hands=False))
    angle_deg, distance_A = errors(found, random_motion(4, 6.0, 15.0))
    assert angle_deg < 0.05 and distance_A < 0.05 and found.fit.score > 0.99


def test_nothing_beyond_the_limits_is_returned() -> None:
    reference, volume = spectrum(map_at()), spectrum(map_at(5, angle_deg=24.0))
    found = align(reference, volume, Limits(angle_deg=25.0, both_hands=False))
    assert found.fit.motion.angle_deg == pytest.approx(24.0, abs=0.1) and found.fit.score > 0.99
    true_A = found.fit.motion.distance_A
    for limits in (Limits(20.0, 5.0, False), Limits(25.0, true_A - 0.5, False)):
        try:
            other = align(reference, volume, limits)
        except ValueError as error:
            assert "within the limits" in str(error)
        else:
            assert other.fit.motion.angle_deg <= limits.angle_deg and other.fit.motion.distance_A <= limits.shift_A
            assert other.fit.score < 0.8


def test_a_turn_or_a_shift_of_none_is_held() -> None:
    shifted = map_at(6, angle_deg=0.0)
    found = align(spectrum(map_at()), spectrum(shifted), Limits(angle_deg=0.0, both_hands=False))
    assert found.fit.motion.angle_deg < 1e-6 and errors(found, random_motion(6, 6.0, 0.0))[1] < 0.02 and found.fit.angle_sd_deg == 0.0
    turned = map_at(7, angle_deg=8.0, shift_A=0.0)
    found = align(spectrum(map_at()), spectrum(turned), Limits(angle_deg=12.0, shift_A=0.0, both_hands=False))
    assert found.fit.motion.distance_A == 0.0 and errors(found, random_motion(7, 0.0, 8.0))[0] < 0.02 and found.fit.shift_sd_A == 0.0


def test_equal_places_of_a_symmetric_map_are_told_and_the_smallest_turn_is_taken() -> None:
    moved_by = random_motion(8, 8.0, 150.0)
    found = align(spectrum(map_of("C2")), spectrum(map_of("C2", 8, 150.0)), Limits(both_hands=False))
    left = [found.fit.motion.after(moved_by).rotation, np.diag([-1.0, -1.0, 1.0]) @ found.fit.motion.after(moved_by).rotation]
    assert min(np.rad2deg(Rotation.from_matrix(turn).magnitude()) for turn in left) < 0.05
    half_turn = RigidMotion(np.diag([-1.0, -1.0, 1.0]), np.zeros(3))
    ways = [moved_by.inverse.angle_deg, half_turn.after(moved_by.inverse).angle_deg]
    assert found.equals == 1 and found.fit.motion.angle_deg == pytest.approx(min(ways), abs=0.05)
    assert found.start_margin is None or found.start_margin > 0.1


def test_a_map_that_is_its_own_mirror_image_keeps_its_hand_and_shows_no_margin() -> None:
    both = Volume(map_at().data + mirror_volume(map_at()).data, VOXEL_A)
    found = align(spectrum(both), spectrum(noisy(both, 9)), Limits(angle_deg=15.0))
    assert not found.is_mirrored and found.hand_margin == pytest.approx(0.0, abs=0.02) and found.fit.motion.angle_deg < 0.2


def test_the_stated_uncertainty_is_that_of_many_noisy_maps() -> None:
    pulls = []
    for seed in range(8):
        pair = MapPair(spectrum(noisy(map_at(), 100 + seed)), spectrum(noisy(map_at(), 200 + seed)))
        fit = march(pair, RigidMotion.none(), free_directions(True, True), 8.0, pair.limit)
        error = np.concatenate([Rotation.from_matrix(fit.motion.rotation).as_rotvec(), fit.motion.shift_A])
        pulls.append(error @ np.linalg.solve(fit.covariance, error))
    assert 0.6 < np.mean(pulls) / 6 < 1.7, "chi square of 6 parameters; 48 numbers know it to a fifth"


def test_aligning_back_is_the_inverse_within_the_uncertainty() -> None:
    a, b = spectrum(noisy(map_at(), 1)), spectrum(noisy(map_at(10, angle_deg=9.0), 2))
    limits = Limits(angle_deg=12.0, both_hands=False)
    there, back = align(a, b, limits).fit, align(b, a, limits).fit
    left = back.motion.after(there.motion)
    assert left.angle_deg < 3 * np.hypot(there.angle_sd_deg, back.angle_sd_deg)
    assert left.distance_A < 3 * np.hypot(there.shift_sd_A, back.shift_sd_A)


def test_the_derivatives_are_those_of_differences() -> None:
    pair = MapPair(spectrum(map_at()), spectrum(map_at(11, box=61, voxel_A=3.1)))
    points, motion = ball_points(50, 12.0), random_motion(12, 5.0, 40.0)
    value, slope = _linearised(pair, points, motion)
    np.testing.assert_allclose(value, pair.whitened_volume(points, motion), atol=1e-5)
    for parameter, step in enumerate([1e-4] * 3 + [1e-2] * 3):
        change = np.eye(6)[parameter] * step
        above, below = (pair.whitened_volume(points, stepped(motion, sign * change)) for sign in (1, -1))
        assert np.abs((above - below) / (2 * step) - slope[:, parameter]).max() < 3e-3 * np.abs(slope[:, parameter]).max()


def test_a_mirrored_spectrum_is_that_of_the_mirrored_map() -> None:
    volume = map_at(13, box=41, voxel_A=4.6)  # odd, and sampled no finer than it is: the same voxels on either side of the centre
    one, other = map_spectrum(volume, FINEST_A).mirrored(), map_spectrum(mirror_volume(volume), FINEST_A)
    points = ball_points(200, 14.0)
    for found, expected in zip(one.sample_with_gradient(points), other.sample_with_gradient(points), strict=True):
        assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(one.centre_A, other.centre_A, atol=1e-3)


def test_displacement_is_the_root_mean_square_over_the_particle() -> None:
    this, random = spectrum(map_at()), np.random.default_rng(14)
    inside = random.normal(size=(200000, 3))
    inside *= (this.radius_A * random.random(len(inside)) ** (1 / 3) / np.linalg.norm(inside, axis=1))[:, None]
    inside += this.centre_A
    first, second = random_motion(15), random_motion(16)
    direct = np.sqrt(((first.points(inside) - second.points(inside)) ** 2).sum(axis=1).mean())
    assert displacement_A(this, first, second) == pytest.approx(direct, rel=0.01)


def test_noise_in_both_maps_of_a_symmetric_particle_is_no_doubt_of_its_place() -> None:
    found = align(spectrum(with_noise(map_of("C2"), 0.05, 1)), spectrum(with_noise(map_of("C2"), 0.05, 2)),
                  Limits(angle_deg=30.0, both_hands=False))
    assert found.fit.motion.angle_deg < 0.5 and (found.start_margin is None or found.start_margin > 0.1)
