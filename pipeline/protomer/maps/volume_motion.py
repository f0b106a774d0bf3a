"""What settings and a mask come to as one rigid motion, and what it does to a map's symmetry and to its particles' images."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from protomer.config.setting_values import read_numbers
from protomer.declarations.volume import VolumeSettings
from protomer.errors import InputError, SettingsError
from protomer.maps.rigid_motion import MIRROR, RigidMotion
from protomer.maps.volumes import Volume
from protomer.symmetry.operator_sets import OperatorSet
from protomer.tables.particles import Particles

SAME_ANGLE, SAME_PLACE_A = 1e-3, 0.05


def motion_of(settings: VolumeSettings, mask: Volume | None) -> RigidMotion:
    """centre_on_mask, then rotate, then shift; after a flip, which also flips the mask. Raises InputError, SettingsError."""
    motion = RigidMotion.none()
    if settings.centre_on_mask:
        if mask is None:
            raise InputError("centre_on_mask without --mask", "the mask of the part that should lie in the box centre", "add --mask")
        centre_A = centre_of_mass_A(mask)
        motion = RigidMotion(np.eye(3), -(MIRROR @ centre_A if settings.flip_hand else centre_A))
    turn = np.eye(3) if settings.rotate is None else rotation_of(settings.rotate)
    shift_A = np.zeros(3) if settings.shift is None else np.array(read_numbers("shift", settings.shift, (3,), "A"))
    return RigidMotion(turn, shift_A).after(motion)


def rotation_of(text: str) -> np.ndarray:
    """(3, 3) from 'x,y,z,angle' or 'rot,tilt,psi', degrees. Raises SettingsError."""
    numbers = read_numbers("rotate", text, (3, 4), "deg")
    if len(numbers) == 3:
        return np.asarray(Rotation.from_euler("ZYZ", numbers, degrees=True).as_matrix())
    axis = np.array(numbers[:3])
    if np.linalg.norm(axis) < 1e-9:
        raise SettingsError(f"setting rotate: {text!r} has no axis", "an axis x,y,z of some length, then the angle",
                            "write rotate=0,0,1,90 for a quarter turn about z")
    return np.asarray(Rotation.from_rotvec(np.deg2rad(numbers[3]) * axis / np.linalg.norm(axis)).as_matrix())


def centre_of_mass_A(mask: Volume) -> np.ndarray:
    """(3,) x, y, z from the box centre, angstrom."""
    axis = np.arange(mask.box) - mask.box // 2
    weight = mask.data.astype(np.float64)
    sums = [weight.sum(axis=others) for others in ((0, 1), (0, 2), (1, 2))]
    return np.array([along @ axis for along in sums]) / weight.sum() * mask.voxel_size_A


def keeps_symmetry(group: str, motion: RigidMotion, is_flipped: bool) -> bool:
    """Whether a map with a point group on its axes has it on them still. Raises SettingsError where there is no such group."""
    before = OperatorSet.of_group(group)
    after = (before.mirrored() if is_flipped else before).moved(motion.rotation, motion.shift_A)
    if np.abs(after.translations_A).max() > SAME_PLACE_A:
        return False
    return all(np.abs(before.rotations - g).max(axis=(1, 2)).min() < SAME_ANGLE for g in after.rotations)


def off_their_images(particles: Particles) -> int:
    """How many particles have their centre outside their image."""
    half_A = np.array([group.box * group.pixel_size_A / 2 for group in particles.optics_groups])[particles.optics]
    return int((np.abs(particles.shift_A).max(axis=1) > half_A).sum())
