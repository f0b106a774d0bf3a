"""Symmetry relaxed: a map that has a group only nearly, such as a dimer of which one protomer is modified.

Each image is searched for in one asymmetric unit, then climbs from every mate of what was found, and is told apart by its likelihood: it
counts at all mates by posterior (marginalise), or, once all has settled, at the best one alone (maximise; from the beginning that would
freeze what chance began with). The map has no symmetry imposed.

A start that is symmetric says nothing about mates, and marginalising would leave it symmetric for ever; so in the first iteration each
image counts at one mate drawn from its posterior, as in stochastic EM (Celeux and Diebolt 1985). What chance makes unequal, EM makes more
so. The two half-sets may then settle on frames that differ by an operator of the group: the second is put into the frame of the first.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from protomer.engine.pose_table import PoseTable
from protomer.maps.rigid_motion import RigidMotion, move_volume
from protomer.maps.volumes import Halves, Volume
from protomer_kernels.fourier import crop_volume
from protomer_kernels.rotations import matrices_from_quaternions, quaternions_from_matrices

LARGEST_BOX = 48  # in which frames are compared
CLEARLY_BETTER = 0.05  # in correlation, before a half is put into another frame


def frame_of_second_half(half_maps: Halves[np.ndarray], mates: np.ndarray) -> np.ndarray:
    """The operator (3, 3) that puts the second map (D, D, D) into the first one's frame: the one under which what they have beyond the
    group's symmetry correlates best; the identity, unless another is clearly better."""
    small = half_maps.map(lambda data: crop_volume(data, min(len(data), LARGEST_BOX)))
    first, second = small.map(lambda data: np.array([turned_map(data, g) for g in mates]))
    beyond = first[0] - first.mean(axis=0)
    others = second - second.mean(axis=0)
    scores = np.array([np.sum(beyond * other) for other in others])
    scores /= max(float(np.linalg.norm(beyond) * np.linalg.norm(others[0])), 1e-30)
    best = int(np.argmax(scores))
    return np.asarray(mates[best if scores[best] > scores[0] + CLEARLY_BETTER else 0])


def turned_half(poses: PoseTable, rows: np.ndarray, operator: np.ndarray) -> PoseTable:
    """The poses with those of some rows in the frame of the map turned by an operator: g R; shifts stay."""
    rotation = poses.rotation.copy()
    turned = operator @ matrices_from_quaternions(rotation[rows])
    rotation[rows] = quaternions_from_matrices(turned.reshape(-1, 3, 3)).reshape(*turned.shape[:2], 4)
    return replace(poses, rotation=rotation)


def mate_numbers(poses: PoseTable, mates: np.ndarray) -> np.ndarray:
    """Which mate of the rotation nearest the identity each image's heaviest mode is: (N,) int, 0 to len(mates) - 1."""
    rotation = matrices_from_quaternions(poses.rotation[:, 0])
    # R = g U with U in the asymmetric unit: of all g^-1 R, U is the one of the largest trace
    return np.asarray(np.argmax(np.einsum("gij,nij->ng", mates, rotation), axis=1))


def turned_map(data: np.ndarray, operator: np.ndarray) -> np.ndarray:
    """A map (D, D, D) turned by an operator (3, 3)."""
    if np.array_equal(operator, np.eye(3)):
        return data
    return move_volume(Volume(data, 1.0), RigidMotion(operator, np.zeros(3))).data
