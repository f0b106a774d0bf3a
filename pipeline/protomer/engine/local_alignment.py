"""The E-step of a local refinement: poses near given ones, under a Gaussian prior and within extents, about a fulcrum.

(1) Turning by omega about a fulcrum c (from the box centre, in the map's frame) leaves the image of c where it is:
        R' = exp(omega) R,    shift' = shift - (R^T c - R'^T c)_xy
(2) In the frame of the map moved by -o the shift is shift - (R^T o)_xy.
(3) Back from there, errors omega and u of that shift move the shift by u + (R^T (o x omega))_xy.

References are moved so that the part's centre o is their origin, where their transforms are best interpolated; poses are put into their
frame by (2) and back. The fulcrum decides where the prior and the extent hold the shift (pose_steps.py, eq. 2), and what first starts turn
about.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from protomer.computing.arithmetic import CPU, Arithmetic
from protomer.engine.alignment import IDENTITY, LEAST_WEIGHT, Poses, Reference, Search, climb_starts, refine_modes, thin_starts
from protomer.engine.confidence import full_covariance
from protomer.imaging.images import Whitened
from protomer_kernels.half_plane import HalfPlane
from protomer_kernels.rotations import matrices_from_quaternions, turned_by

START_STEPS, FINAL_STARTS = 5, 2
FIRST_SHARE, LEAST_RADIUS = 0.5, 8  # of the band: how far the first climbs go
SPREAD_STARTS = np.concatenate([np.zeros((1, 3)), np.eye(3), -np.eye(3)])  # about the centre, in units of `spread_rad`
SAME_START_RAD = 0.01
_LOWER = np.tril_indices(5)


@dataclass(frozen=True)
class Rest:
    """What a local refinement leaves where it is: `by_half`, its transforms, where `arithmetic` computes; centre_px (3,), x, y, z from the
    box centre; mobility: how far it is taken to move in the frame of the whole, over how far the part does (1 at most: the lighter part
    moves further)."""

    by_half: tuple[Any, Any]
    centre_px: np.ndarray
    mobility: float
    arithmetic: Arithmetic = CPU

    def image(self, batch: Whitened, half: int, rotation: np.ndarray, shift_px: np.ndarray, plane: HalfPlane) -> Any:
        """(n, 2, K): a batch's view of it at rotations (n, 3, 3) and shifts (n, 2)."""
        return batch.of_map(self.by_half[half], rotation, shift_px, plane, self.arithmetic)

    def moved(self, rotation: np.ndarray, shift_px: np.ndarray, turn: np.ndarray, move_px: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rotations and shifts after a turn (n, 3), in radians, about its centre and a move (n, 2), of the part; the rest moves less."""
        turned = Rotation.from_rotvec(self.mobility * turn).as_matrix() @ rotation
        there = seen_from(rotation, shift_px, self.centre_px) - seen_from(turned, np.zeros_like(shift_px), self.centre_px)
        return turned, there + self.mobility * move_px


@dataclass(frozen=True)
class Local:
    """How poses are looked for near given ones.

    rotation (N, 4) and shift_px (N, 2): the given poses; rotation_prior_rad, shift_prior_px: standard deviations per axis, infinite without
    a prior; extent (2,): angle in radians and shift in pixels beyond which nothing is taken; fulcrum_px and origin_px (3,): x, y, z from
    the box centre; recentre: whether prior and extents follow the poses; spread_rad: how far about the given rotation the first climbs
    start; rest: what is not refined; takes_rest: whether that, seen at the given poses, is taken from the images before they are compared.
    """

    rotation: np.ndarray
    shift_px: np.ndarray
    rotation_prior_rad: float
    shift_prior_px: float
    extent: np.ndarray
    fulcrum_px: np.ndarray
    origin_px: np.ndarray
    recentre: tuple[bool, bool]
    spread_rad: float
    rest: Rest | None = None
    takes_rest: bool = False

    @property
    def precision(self) -> np.ndarray:
        """(5,) of the prior."""
        return np.array([self.rotation_prior_rad**-2.0] * 3 + [self.shift_prior_px**-2.0] * 2)

    def bounds(self, rows: np.ndarray, known: Poses, mates: np.ndarray = IDENTITY) -> np.ndarray:
        """Priors (n, m, 19) as kernels take them (newton.py) of some rows, last found at `known`, about each of the mates (m, 3, 3)."""
        given, last = (mates @ r[:, None] for r in (matrices_from_quaternions(self.rotation[rows]), known.rotation[:, 0]))
        rotation = last if self.recentre[0] else given
        at_given = seen_from(given, self.shift_px[rows, None], self.fulcrum_px)
        at_fulcrum = seen_from(last, known.shift_px[:, :1], self.fulcrum_px) if self.recentre[1] else at_given
        at_origin = seen_from(rotation, at_fulcrum, -self.lever_px)
        same = np.broadcast_to(np.concatenate([self.precision, self.lever_px]), (*rotation.shape[:2], 8))
        return np.concatenate([rotation.reshape(*rotation.shape[:2], 9), at_origin, same], axis=2)

    @property
    def lever_px(self) -> np.ndarray:
        """(3,) from the origin of references to the fulcrum."""
        return self.fulcrum_px - self.origin_px


def nearest_priors(priors: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Of priors (n, m, 19) at the mates of a pose, the one about the mate nearest to each rotation (n, s, 3, 3): (n, s, 19)."""
    centre = priors[..., :9].reshape(*priors.shape[:2], 3, 3)
    nearest = np.argmax(np.einsum("nmij,nsij->nsm", centre, rotation), axis=2)
    return np.take_along_axis(priors, nearest[..., None], axis=1)


def seen_from(rotation: np.ndarray, shift_px: np.ndarray, origin_px: np.ndarray) -> np.ndarray:
    """Eq. (2): shifts (..., 2) of rotations (..., 3, 3) in the frame of the map moved by -origin."""
    return np.asarray(shift_px - (np.swapaxes(rotation, -1, -2) @ origin_px)[..., :2])


def back_from(poses: Poses, origin_px: np.ndarray) -> Poses:
    """Poses of the moved frame in the map's own, with their covariances, eq. (3)."""
    first = poses.rotation[:, 0]
    x, y, z = origin_px
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    jacobian = np.tile(np.eye(5), (len(first), 1, 1))
    jacobian[:, 3:, :3] = (first.transpose(0, 2, 1) @ cross)[:, :2]
    known = np.isfinite(poses.covariance).all(axis=1)
    covariance = jacobian @ full_covariance(np.where(known[:, None], poses.covariance, 0.0), 1.0) @ jacobian.transpose(0, 2, 1)
    covariance[~known] = np.inf
    shift = poses.shift_px + (np.swapaxes(poses.rotation, -1, -2) @ origin_px)[..., :2]
    return replace(poses, shift_px=shift, covariance=covariance[:, _LOWER[0], _LOWER[1]])


def nearest_mates(given: np.ndarray, found: np.ndarray, mates: np.ndarray) -> np.ndarray:
    """Of the mates g R of given rotations (N, 3, 3) those nearest to the found ones."""
    if len(mates) == 1:
        return given
    chosen = np.argmax([np.einsum("nij,nij->n", g @ given, found) for g in mates], axis=0)
    return np.asarray(mates[chosen] @ given)


def align_locally(
    batch: Whitened, reference: Reference, search: Search, known: Poses, rows: np.ndarray, local: Local, is_first: bool
) -> Poses:
    """Poses of a batch of particles (table rows) in the frame of the reference, which is the map moved by -origin.

    The first time, climbs start at the given pose and about it, and the best go on; later, at the modes that weigh something. Where a
    group is relaxed, at the given pose's mates too, and later at the heaviest mode and its mates, each under the prior about its own mate.
    """
    priors, extent = local.bounds(rows, known, reference.mates), local.extent
    if not is_first:
        starts = _known_starts(known, reference, local)
    else:
        spread = min(local.spread_rad, 0.5 * float(extent[0]))
        centre, at = priors[..., :9].reshape(*priors.shape[:2], 3, 3), priors[..., 9:11]
        turned = [turned_by(spread * start, centre.reshape(-1, 3, 3)).reshape(centre.shape) for start in SPREAD_STARTS]
        rotation = np.concatenate(turned, axis=1)
        at_fulcrum = np.tile(seen_from(centre, at, local.lever_px), (1, len(SPREAD_STARTS), 1))
        shift = seen_from(rotation, at_fulcrum, -local.lever_px)
        present = np.ones(shift.shape[:2], bool)
        radius = max(int(FIRST_SHARE * search.final_radius), min(LEAST_RADIUS, search.final_radius))
        bounds = nearest_priors(priors, rotation), extent
        sums = climb_starts(batch, reference, rotation, shift, present, (radius, START_STEPS), bounds)
        keep = FINAL_STARTS * len(reference.mates)
        starts = thin_starts(rotation, shift, sums[..., 0], present, reference.operators, keep, SAME_START_RAD)
    return refine_modes(batch, reference, search, *starts, (nearest_priors(priors, starts[0]), extent))


def _known_starts(known: Poses, reference: Reference, local: Local) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rotations, shifts in the reference's frame and presence of modes to climb from: those that weigh, or the heaviest and its mates."""
    rotation, shift, present = known.rotation.copy(), known.shift_px, known.weight > LEAST_WEIGHT
    if len(reference.mates) > 1:
        rotation, shift, present = reference.with_mates(rotation[:, :1], shift[:, :1], np.ones((len(rotation), 1), bool))
    return rotation, seen_from(rotation, shift, local.origin_px), present


def without_rest(batch: Whitened, half: int, local: Local, rows: np.ndarray, plane: HalfPlane) -> Whitened:
    """The batch less what is not refined, seen at the given poses."""
    assert local.rest is not None
    rotation, shift_px = matrices_from_quaternions(local.rotation[rows]), local.shift_px[rows]
    return replace(batch, data=batch.data - local.rest.image(batch, half, rotation, shift_px, plane))
