"""Maps of symmetric models for tests, moved off their axes where asked, made once per process."""

from __future__ import annotations

import functools

import numpy as np
from scipy.spatial.transform import Rotation

from protomer.maps.rigid_motion import RigidMotion
from protomer.maps.volumes import Volume
from protomer.simulation.scatterers import AtomModel, with_symmetry
from protomer.symmetry.point_groups import operators, rotation_about
from protomer_kernels.atoms import real_volume
from simulated import chain_model

BOX, VOXEL_A = 48, 4.0
BFACTOR_A2 = 300.0


@functools.cache
def model_of(group: str, axes: str = "relion") -> AtomModel:
    """Chains under a group, each copy 33 Å from the axis along x and 12 Å along z so that no further symmetry arises."""
    base = chain_model(150, 3, BFACTOR_A2, size=0.6)
    lifted = AtomModel(base.positions_A + np.array([0.0, 6.0, 12.0]), base.weights, BFACTOR_A2)
    return with_symmetry(lifted, operators(group, axes), 33.0 if group[0] != "I" else 48.0)


def random_motion(seed: int, shift_A: float = 8.0, angle_deg: float | None = None) -> RigidMotion:
    random = np.random.default_rng(seed)
    axis = random.normal(size=3)
    turn = Rotation.random(rng=random) if angle_deg is None else Rotation.from_rotvec(np.deg2rad(angle_deg) * axis / np.linalg.norm(axis))
    return RigidMotion(turn.as_matrix(), random.uniform(-shift_A, shift_A, 3))


@functools.cache
def map_of(group: str, seed: int | None = None, angle_deg: float | None = None, axes: str = "relion", shift_A: float = 8.0) -> Volume:
    """The map of `model_of`; with a seed, its atoms moved by `random_motion` first."""
    model = model_of(group, axes)
    motion = RigidMotion.none() if seed is None else random_motion(seed, shift_A, angle_deg)
    moved = AtomModel(motion.points(model.positions_A), model.weights, model.bfactor_A2)
    return Volume(real_volume(moved.volume_ft(BOX, VOXEL_A), BOX).astype(np.float32), VOXEL_A)


def with_noise(volume: Volume, sigma: float, seed: int) -> Volume:
    """White noise of `sigma` times the map's largest value added."""
    noise = np.random.default_rng(seed).standard_normal(volume.data.shape, dtype=np.float32)
    return Volume(volume.data + np.float32(sigma * float(volume.data.max())) * noise, volume.voxel_size_A)


def off_axes(motion: RigidMotion, group: str, axes: str = "relion") -> tuple[float, float]:
    """How far a motion misses the axes of a group, degrees and angstrom, after what leaves the group the same is taken out."""
    ops = operators(group, axes)
    kept = np.where(np.abs(ops.mean(0)) < 1e-9, 0.0, ops.mean(0))
    shift_A = float(np.linalg.norm((np.eye(3) - kept) @ motion.shift_A))
    if kept.any():
        return float(np.rad2deg(np.arccos(min(1.0, abs(motion.rotation[2, 2]))))), shift_A
    wider = ops
    if group == "D2":
        wider = operators("O")
    elif group[0] == "D":
        wider = np.concatenate([ops, rotation_about((0, 0, 1), np.pi / int(group[1:])) @ ops])
    elif group == "T":  # its 3-fold on z, a 2-fold in the plane of y and z: a quarter turn about that one
        wider = np.concatenate([ops, rotation_about((0, np.sqrt(2 / 3), np.sqrt(1 / 3)), np.pi / 2) @ ops])
    return min(float(np.rad2deg(Rotation.from_matrix(h @ motion.rotation).magnitude())) for h in wider), shift_A
