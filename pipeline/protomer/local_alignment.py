"""The E-step of a local refinement: poses near given ones, under a Gaussian prior and within extents, about a fulcrum.

(1) Turning by omega about a fulcrum c (from the box centre, in the map's frame) leaves the image of c where it is:
        R' = exp(omega) R,    shift' = shift - (R^T c - R'^T c)_xy
(2) In the frame of the map moved by -c the same is a turn about the box centre: there the shift is shift - (R^T c)_xy, which (1) leaves.
(3) Back from there, errors omega and u of that shift move the shift by u + (R^T (c x omega))_xy.

So references are moved by -c, poses are put into their frame by (2) and back, and everything else is as in a global refinement.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from protomer.alignment import LEAST_WEIGHT, Poses, Reference, Search, climb_starts, refine_modes, thin_starts
from protomer.confidence import full_covariance
from protomer.images import Whitened
from protomer_kernels.half_plane import HalfPlane
from protomer_kernels.rotations import matrices_from_quaternions, turned_by
from protomer_kernels.slices import extract_slices

START_STEPS, FINAL_STARTS = 5, 2
FIRST_SHARE, LEAST_RADIUS = 0.5, 8  # of the band: how far the first climbs go
SPREAD_STARTS = np.concatenate([np.zeros((1, 3)), np.eye(3), -np.eye(3)])  # about the centre, in units of `spread_rad`
SAME_START_RAD = 0.01
_LOWER = np.tril_indices(5)


@dataclass(frozen=True)
class Local:
    """How poses are looked for near given ones.

    rotation (N, 4) and shift_px (N, 2): the given poses; rotation_prior_rad, shift_prior_px: standard deviations per axis, infinite without
    a prior; extent (2,): angle in radians and shift in pixels beyond which nothing is taken; fulcrum_px (3,): x, y, z from the box centre;
    recentre: whether prior and extents follow the poses; spread_rad: how far about the given rotation the first climbs start; rest: by
    half, the transform of what is not refined, seen at the given poses and taken from the images before they are compared.
    """

    rotation: np.ndarray
    shift_px: np.ndarray
    rotation_prior_rad: float
    shift_prior_px: float
    extent: np.ndarray
    fulcrum_px: np.ndarray
    recentre: tuple[bool, bool]
    spread_rad: float
    rest: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def precision(self) -> np.ndarray:
        """(5,) of the prior."""
        return np.array([self.rotation_prior_rad**-2.0] * 3 + [self.shift_prior_px**-2.0] * 2)

    def bounds(self, rows: np.ndarray, known: Poses) -> tuple[np.ndarray, np.ndarray]:
        """Priors (n, 16) and extent as kernels take them (newton.py), for some rows, of which `known` are the last poses."""
        given, last = matrices_from_quaternions(self.rotation[rows]), known.rotation[:, 0]
        rotation = last if self.recentre[0] else given
        at_given, at_last = seen_from(given, self.shift_px[rows], self.fulcrum_px), seen_from(last, known.shift_px[:, 0], self.fulcrum_px)
        at = at_last if self.recentre[1] else at_given
        precision = np.broadcast_to(self.precision, (len(rows), 5))
        return np.concatenate([rotation.reshape(-1, 9), at, precision], axis=1), self.extent


def seen_from(rotation: np.ndarray, shift_px: np.ndarray, fulcrum_px: np.ndarray) -> np.ndarray:
    """Eq. (2): shifts (..., 2) of rotations (..., 3, 3) in the frame of the map moved by -fulcrum."""
    return np.asarray(shift_px - (np.swapaxes(rotation, -1, -2) @ fulcrum_px)[..., :2])


def back_from(poses: Poses, fulcrum_px: np.ndarray) -> Poses:
    """Poses of the moved frame in the map's own, with their covariances, eq. (3)."""
    first = poses.rotation[:, 0]
    x, y, z = fulcrum_px
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    jacobian = np.tile(np.eye(5), (len(first), 1, 1))
    jacobian[:, 3:, :3] = (first.transpose(0, 2, 1) @ cross)[:, :2]
    covariance = jacobian @ full_covariance(poses.covariance, 1.0) @ jacobian.transpose(0, 2, 1)
    shift = poses.shift_px + (np.swapaxes(poses.rotation, -1, -2) @ fulcrum_px)[..., :2]
    return replace(poses, shift_px=shift, covariance=covariance[:, _LOWER[0], _LOWER[1]])


def align_locally(
    batch: Whitened, reference: Reference, search: Search, known: Poses, rows: np.ndarray, local: Local, is_first: bool
) -> Poses:
    """Poses of a batch of particles (table rows) in the frame of the reference, which is the map moved by -fulcrum.

    The first time, climbs start at the given pose and about it, and the best go on; later, at the modes that weigh something.
    """
    bounds = local.bounds(rows, known)
    if not is_first:
        shift = seen_from(known.rotation, known.shift_px, local.fulcrum_px)
        return refine_modes(batch, reference, search, known.rotation.copy(), shift, known.weight > LEAST_WEIGHT, bounds)
    centre, shift = bounds[0][:, :9].reshape(-1, 3, 3), bounds[0][:, 9:11]
    spread = min(local.spread_rad, 0.5 * float(local.extent[0]))
    rotation = np.stack([turned_by(spread * start, centre) for start in SPREAD_STARTS], axis=1)
    shift = np.repeat(shift[:, None], len(SPREAD_STARTS), axis=1)
    present = np.ones(shift.shape[:2], bool)
    radius = max(int(FIRST_SHARE * search.final_radius), min(LEAST_RADIUS, search.final_radius))
    sums = climb_starts(batch, reference, rotation, shift, present, (radius, START_STEPS), bounds)
    kept = thin_starts(rotation, shift, sums[..., 0], present, reference.operators, FINAL_STARTS, SAME_START_RAD)
    return refine_modes(batch, reference, search, *kept, bounds)


def without_rest(batch: Whitened, rest_ft: np.ndarray, local: Local, rows: np.ndarray, plane: HalfPlane) -> Whitened:
    """The batch less what is not refined, seen at the given poses."""
    number, length = batch.amplitude.shape
    slices = np.empty((number, 2, length), np.float32)
    rotations = batch.magnified(matrices_from_quaternions(local.rotation[rows]), np.arange(number)).astype(np.float32)
    kx, ky = plane.kx[:length], plane.ky[:length]
    extract_slices(rest_ft, rotations, kx, ky, slices)
    turns = local.shift_px[rows] @ np.stack([kx, ky]).astype(np.float64) / plane.box
    image = batch.amplitude * (slices[:, 0] + 1j * slices[:, 1]) * np.exp(2j * np.pi * turns)
    return replace(batch, data=batch.data - np.stack([image.real, image.imag], axis=1).astype(np.float32))
