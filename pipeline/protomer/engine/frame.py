"""The frame that all poses share, and how a refinement is kept in the one that it was given.

Any rigid motion of a map and of all its poses together leaves every image as it is, so nothing in the images holds a map in its place. A
mask m that cuts through density pulls it away: images show V, their reference is m V, and where all poses move by s, or turn, their
agreement changes by

(1) d/ds <V(x - s), m V> = 1/2 int V^2 grad m                    at s = 0: away from every edge that density reaches through

The map made from these poses has moved, the mask has not: each iteration moves the map by about the same step, both half maps alike, and
what was cut off comes into the mask. With poses R, t before and R', t' after, the common motion x' = Q x + d of a map is told by

(2) R' = Q R,    t' - t, both seen from the fulcrum, = (R'^T e)_xy,    d = f - Q f + e for a fulcrum at f

for most particles: by least squares, each particle weighted by 1 / (1 + (r / s)^2), r its residual and s the median one (Cauchy), so that
those whose poses truly changed hardly count. A group that is imposed leaves only motions along and about what is common to all its axes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.spatial.transform import Rotation

from protomer.engine.alignment import IDENTITY, Poses
from protomer.engine.local_alignment import Local, nearest_mates, seen_from
from protomer.engine.pose_table import PoseTable
from protomer.maps.rigid_motion import RigidMotion, moved_covariance
from protomer_kernels.rotations import matrices_from_quaternions, rotation_errors

MOST_POSES = 20_000  # that are asked, spread over the table: more would only take longer
ROUNDS = 30  # of reweighted least squares
LEAST_SPREAD = 1e-9  # radians and pixels: of residuals that are rounding
UNSEEN = 1e-6  # of the largest eigenvalue: directions along which all particles are viewed


def motion_from_given(local: Local, poses: PoseTable, operators: np.ndarray, mates: np.ndarray, pixel_A: float) -> RigidMotion:
    """The common motion of the heaviest modes since the given poses, eq. (2). operators (g, 3, 3), imposed; mates (m, 3, 3), relaxed."""
    rows = np.linspace(0, len(local.shift_px) - 1, min(len(local.shift_px), MOST_POSES)).round().astype(np.int64)
    after = matrices_from_quaternions(poses.rotation[rows, 0])
    before = nearest_mates(matrices_from_quaternions(local.rotation[rows]), after, mates)
    moved_px = seen_from(after, poses.shift_px[rows, 0], local.fulcrum_px) - seen_from(before, local.shift_px[rows], local.fulcrum_px)
    return common_motion(rotation_errors(before, after, IDENTITY), moved_px, after, (local.fulcrum_px, pixel_A), operators)


def common_motion(
    turn: np.ndarray, moved_px: np.ndarray, after: np.ndarray, at: tuple[np.ndarray, float], operators: np.ndarray = IDENTITY
) -> RigidMotion:
    """Eq. (2) from the turns (N, 3), radians, about the map's axes, the moves (N, 2) as seen from the fulcrum, and the rotations (N, 3, 3)
    after them. at: the fulcrum (3,), x, y, z in pixels from the box centre, and the pixel size in Å."""
    (fulcrum_px, pixel_A), every = at, np.broadcast_to(np.eye(3), (len(turn), 3, 3))
    omega = _robust_solution(every, turn)
    move_px = _robust_solution(after.transpose(0, 2, 1)[:, :2], moved_px)
    invariant = operators.mean(axis=0)
    shift_px = fulcrum_px - Rotation.from_rotvec(omega).as_matrix() @ fulcrum_px + move_px
    return RigidMotion(Rotation.from_rotvec(invariant @ omega).as_matrix(), invariant @ shift_px * pixel_A)


def _robust_solution(design: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """x (3,) for which design (N, a, 3) x is nearest to seen (N, a); 0 along directions that no row tells."""
    weight, x = np.ones(len(seen)), np.zeros(3)
    for _ in range(ROUNDS):
        normal = np.einsum("n,nap,naq->pq", weight, design, design)
        x = np.linalg.pinv(normal, UNSEEN, hermitian=True) @ np.einsum("n,nap,na->p", weight, design, seen)
        residual = np.linalg.norm(seen - design @ x, axis=1)
        weight = 1.0 / (1.0 + (residual / max(float(np.median(residual)), LEAST_SPREAD)) ** 2)
    return np.asarray(x)


def moved_poses(poses: Poses, motion: RigidMotion, pixel_A: float) -> Poses:
    """The poses, all modes and their covariances, of the map that a motion has moved."""
    shift_px, known = motion.shift_A / pixel_A, np.isfinite(poses.covariance).all(axis=1)
    rotation = motion.rotation @ poses.rotation
    covariance = moved_covariance(np.where(known[:, None], poses.covariance, 0.0), rotation[:, 0], motion.rotation, shift_px)
    covariance[~known] = np.inf
    shift = poses.shift_px + (np.swapaxes(rotation, -1, -2) @ shift_px)[..., :2]
    return replace(poses, rotation=rotation, shift_px=shift, covariance=covariance)


def moved_table(table: PoseTable, motion: RigidMotion, pixel_A: float) -> PoseTable:
    """The same for all particles."""
    return PoseTable.of(moved_poses(table.take(np.arange(len(table.weight))), motion, pixel_A))


def moved_at(motion: RigidMotion, point_A: np.ndarray) -> float:
    """How far (Å) a motion takes a point (3,), x, y, z from the box centre."""
    return float(np.linalg.norm(motion.points(point_A) - point_A))
