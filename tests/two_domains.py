"""A homodimer each of whose protomers has a domain that swings about a hinge by an amplitude of its own, for tests of variability."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from protomer.computing.arithmetic import CPU
from protomer.computing.mode_arithmetic import ModeArithmetic
from protomer.fixed_poses.scores import Seen
from protomer.maps.volumes import Volume
from protomer.simulation.dataset import SimulatedData, Simulator, noise_variance
from protomer.simulation.draws import SimulationDesign
from protomer.simulation.pose_trial import known_images
from protomer.simulation.scatterers import AtomModel
from protomer.symmetry.point_groups import operators
from protomer.variability.expectation import Views
from protomer.variability.posterior import posterior_of
from protomer_kernels.atoms import real_volume
from protomer_kernels.half_plane import HalfPlane
from protomer_kernels.masks import sphere_mask
from protomer_kernels.rotations import quaternions_from_matrices

HINGE_A, AXIS = np.array([16.0, 2.0, 0.0]), np.array([0.0, 0.6, 0.8])
CENTRES_A, RADII_A = np.array([[15.0, 0.0, 0.0], [38.0, 6.0, 2.0]]), (13.0, 11.0)  # the domain that stays, and the one that swings
ATOMS = (900, 550)
BFACTOR_A2 = 60.0


@dataclass(frozen=True)
class Moving:
    """Images, the amplitude (n, 2) of each protomer in standard deviations, the true mode (what one of them changes in the first protomer),
    and a mask around this protomer."""

    data: SimulatedData
    amplitude: np.ndarray
    mode: Volume
    mask: Volume


@functools.cache
def protomers(swing_rad: float = 0.0) -> AtomModel:
    """Both protomers as four bodies, domain by domain; that which swings is turned in the first protomer alone."""
    random = np.random.default_rng(2)
    bodies = []
    for centre, radius, number in zip(CENTRES_A, RADII_A, ATOMS, strict=True):
        points = random.standard_normal((number, 3))
        points *= (radius * random.uniform(0, 1, number) ** (1 / 3) / np.linalg.norm(points, axis=1))[:, None]
        blobs = centre + 0.55 * radius * random.standard_normal((9, 3)) / np.sqrt(3)
        nearest = blobs[np.argmin(np.linalg.norm(points[:, None] + centre - blobs, axis=2), axis=1)]
        bodies.append(0.45 * (points + centre) + 0.55 * nearest)
    turn = Rotation.from_rotvec(swing_rad * AXIS).as_matrix()
    swung = (bodies[1] - HINGE_A) @ turn.T + HINGE_A
    mate = operators("C2")[1]
    parts = [bodies[0], swung, bodies[0] @ mate.T, bodies[1] @ mate.T]
    positions = np.concatenate(parts)
    return AtomModel(positions, np.full(len(positions), 7.0, np.float32), BFACTOR_A2, tuple(np.cumsum([0, *map(len, parts[:-1])]).tolist()))


@functools.cache
def moving(number: int, box: int, pixel_A: float, snr: float, swing_deg: float, seed: int = 1) -> Moving:
    """Images of the dimer whose domains swing by `swing_deg` (standard deviation)."""
    simulator = Simulator((protomers(),), SimulationDesign(number, box, pixel_A, snr, seed=seed))
    amplitude = np.random.default_rng([seed, 7]).standard_normal((number, 2))
    simulator.truth = swinging(simulator, np.deg2rad(swing_deg) * amplitude)
    images = np.concatenate([block for _, block in simulator.blocks()])
    data = SimulatedData(images, simulator.truth, simulator.volume(), noise_variance(simulator.design), simulator.design)
    ends = [real_volume(protomers(sign * np.deg2rad(max(swing_deg, 1.0))).volume_ft(box, pixel_A), box) for sign in (1, -1)]
    mode = np.asarray(0.5 * simulator.gain * (ends[0] - ends[1]), np.float32)
    centre = CENTRES_A.mean(axis=0)[::-1] / pixel_A + box // 2
    mask = sphere_mask(box, 27.0 / pixel_A, 10.0 / pixel_A, tuple(centre))
    return Moving(data, amplitude, Volume(mode, pixel_A), Volume(mask, pixel_A))


def swinging(simulator: Simulator, angle_rad: np.ndarray) -> object:
    """The truth with the second and fourth body turned about their hinges by angles (n, 2)."""
    truth, mate = simulator.truth, operators("C2")[1]
    matrix, rotation, shift_A = truth.rotation_matrix, truth.body_rotation.copy(), truth.body_shift_A.copy()
    for protomer, (body, frame) in enumerate(((1, np.eye(3)), (3, mate))):
        turn = Rotation.from_rotvec(angle_rad[:, protomer, None] * (frame @ AXIS)).as_matrix()
        hinge = frame @ HINGE_A
        rotation[:, body] = quaternions_from_matrices(np.ascontiguousarray(np.swapaxes(turn, 1, 2) @ matrix))
        moved = np.einsum("nji,nj->ni", matrix, hinge - turn @ hinge)
        shift_A[:, body] = truth.shift_A - moved[:, :2]
    for body in (0, 2):
        rotation[:, body], shift_A[:, body] = truth.rotation, truth.shift_A
    return replace(truth, body_rotation=rotation, body_shift_A=shift_A)


def known_mode(made: Moving, radius: int) -> float:
    """Correlation of the amplitudes with the coordinates that follow from the true mean, mode, poses and noise, up to a Fourier radius."""
    design, truth = made.data.design, made.data.truth
    plane, found = HalfPlane(design.box, radius), np.empty((len(made.data.images), 2))
    views = Views.of(made.data.volume.data, made.mode.data[None], radius, ModeArithmetic(CPU))
    for first in range(0, len(found), 64):
        rows = slice(first, first + 64)
        batch, part = known_images(made.data, plane, radius, rows), truth.take(rows)
        for copy, operator in enumerate(operators("C2")):
            rotation = np.ascontiguousarray(operator @ part.rotation_matrix)
            seen = Seen(batch, np.arange(len(part)), rotation, part.shift_A / design.pixel_size_A)
            found[rows, copy] = posterior_of(views.seen_by(seen, plane.arrays(len(plane)))[1], None).mean[:, 0]
    return abs(float(np.corrcoef(found.ravel(), made.amplitude.ravel())[0, 1]))
