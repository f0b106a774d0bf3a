"""Poses of a batch of images against one reference: a global grid at low frequency, then Gauss-Newton marching outward in frequency."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from protomer.computing.arithmetic import CPU, Arithmetic
from protomer.engine.filaments import Filaments, GridPrior, filament_grid
from protomer.imaging.images import Whitened
from protomer_kernels.grid_scores import shift_ramps
from protomer_kernels.half_plane import HalfPlane
from protomer_kernels.newton import UNBOUNDED, covariance_and_log_determinant
from protomer_kernels.normal_equations import SUMS
from protomer_kernels.posterior import distinct_modes, mode_weights, presence_log_odds
from protomer_kernels.rotations import asymmetric_unit_rows, matrices_from_quaternions, shift_grid, super_fibonacci_grid
from protomer_kernels.slices import transform_volume

Bounds = tuple[np.ndarray, np.ndarray]  # of climbs from starts (n, m): priors (n, m, 19), or (1, 19) for all, and extent (2,) (newton.py)
IDENTITY = np.eye(3)[None]
MODES = 4
SAME_MODE_RAD = 0.12
STARTS_APART_RAD = 0.1
HOPELESS = 30.0  # log units below the best start
LEAST_WEIGHT = 1e-3  # of a mode that is climbed again or inserted


@dataclass(frozen=True)
class Stage:
    """One step of the march: climb to `radius` in at most `steps` steps after thinning to the best `keep` distinct starts."""

    keep: int
    radius: int
    steps: int


@dataclass(frozen=True)
class Search:
    """How poses are looked for. Radii are Fourier radii in cycles per box; shifts in pixels."""

    grid_radius: int
    grid_rotations: int  # over all of SO(3); divided by the order of the group
    shift_extent_px: float
    shift_step_px: float
    stages: tuple[Stage, ...]
    final_radius: int
    final_steps: int = 8
    tilt_extent_rad: float | None = None  # of filaments: how far from 90 degrees tilts are looked for

    @property
    def grid(self) -> np.ndarray:
        """Quaternions (G, 4) that are tried: quasi-uniform, or of filaments."""
        if self.tilt_extent_rad is None:
            return super_fibonacci_grid(self.grid_rotations)
        return filament_grid(1.0 / self.grid_radius, self.tilt_extent_rad)


@dataclass(frozen=True)
class Reference:
    """What images are compared with: a Fourier volume, and its slices at the grid's rotations where a global search is wanted.

    Poses that differ by one of `operators` are the same. Those that differ by one of `mates`, a group that the map has only nearly, look
    alike at low frequency: one of them is searched for, and all are climbed from there and told apart.
    """

    volume_ft: Any  # (n, n, r + 1, 2) float32, where `arithmetic` computes
    plane: HalfPlane
    operators: np.ndarray  # (g, 3, 3)
    mates: np.ndarray  # (m, 3, 3), the identity alone where symmetry is not relaxed
    grid: np.ndarray  # (G, 3, 3) float64
    slices: Any  # (G, 2, K) float32, K up to the grid's radius, likewise
    shifts_px: np.ndarray  # (S, 2)
    arithmetic: Arithmetic = CPU

    @classmethod
    def prepare(
        cls,
        volume: np.ndarray,
        plane: HalfPlane,
        radius: int,
        operators: np.ndarray,
        search: Search,
        mates: np.ndarray = IDENTITY,
        arithmetic: Arithmetic = CPU,
    ) -> Reference:
        """From a map (D, D, D): its transform up to `radius`, and the slices of the search's grid."""
        volume_ft = transform_volume(arithmetic.here(volume), radius, workers=arithmetic.threads)
        quaternions = search.grid
        grid = matrices_from_quaternions(quaternions[asymmetric_unit_rows(quaternions, alike(operators, mates))])
        slices = arithmetic.slices(volume_ft, grid, plane.arrays(plane.prefix(search.grid_radius)))
        shifts_px = shift_grid(search.shift_extent_px, search.shift_step_px)
        return cls(volume_ft, plane, operators, mates, grid, slices, shifts_px, arithmetic)

    @property
    def alike(self) -> np.ndarray:
        """The group under which a coarse search cannot, or need not, tell poses apart."""
        return alike(self.operators, self.mates)

    @property
    def modes(self) -> int:
        """How many modes an image may have."""
        return mode_count(self.mates)

    def with_mates(self, rotation: np.ndarray, shift: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Starts (n, k, ...) and all their mates, (n, k m, ...)."""
        mates = np.einsum("mij,nkjl->nkmil", self.mates, rotation).reshape(len(rotation), -1, 3, 3)
        return mates, np.repeat(shift, len(self.mates), axis=1), np.repeat(present, len(self.mates), axis=1)

    def scaled(self, factor: float) -> Reference:
        """The reference of the map times a factor."""
        return replace(self, volume_ft=self.volume_ft * np.float32(factor), slices=self.slices * np.float32(factor))


@dataclass(frozen=True)
class Poses:
    """Up to m modes for each of n images: rotation (n, m, 3, 3), shift_px (n, m, 2), weight (n, m), 0 where there is no mode; of the
    heaviest, which comes first, log_likelihood (n,) and covariance (n, 15) in radians and pixels; log_odds (n,) that the image holds the
    particle against noise alone."""

    rotation: np.ndarray
    shift_px: np.ndarray
    weight: np.ndarray
    log_likelihood: np.ndarray
    covariance: np.ndarray
    log_odds: np.ndarray


def alike(operators: np.ndarray, mates: np.ndarray) -> np.ndarray:
    """The group of poses that look alike: the mates (m, 3, 3) where a group is relaxed, else the operators (g, 3, 3)."""
    return mates if len(mates) > 1 else operators


def mode_count(mates: np.ndarray) -> int:
    """How many modes an image may have where it may lie at any of these mates (m, 3, 3)."""
    return max(MODES, len(mates))


def search_globally(
    batch: Whitened, reference: Reference, search: Search, filaments: Filaments | None = None
) -> Poses:
    """All of SO(3) (one asymmetric unit of it), or where filaments may lie, and a disc of shifts.

    The grid is read at R k, without magnification, which moves points by less than its step: 2 % are 0.3 coefficients at radius 14.
    """
    plane, number = reference.plane, len(batch.data)
    length = reference.slices.shape[2]
    ramps = shift_ramps(reference.shifts_px, plane.kx[:length], plane.ky[:length], plane.box)
    keep = search.stages[0].keep
    if filaments is None:
        best, best_shift = reference.arithmetic.best_of_grid(batch.arrays, reference.slices, ramps, keep)
    else:
        prior = GridPrior(filaments, reference.grid)
        best, best_shift = reference.arithmetic.best_of_windows(batch.arrays, reference.slices, ramps, prior, keep)
    rotation = reference.grid[best]
    shift = reference.shifts_px[best_shift].astype(np.float64)
    if filaments is not None:
        rotation, shift, _ = filaments.nearest_copies(rotation, shift)
    held = UNBOUNDED if filaments is None else filaments
    present = np.ones((number, best.shape[1]), bool)
    sums = np.empty((number, 0, SUMS))
    for at, stage in enumerate(search.stages):
        if at:
            rotation, shift, present = thin_starts(rotation, shift, sums[..., 0], present, reference.alike, stage.keep, STARTS_APART_RAD)
        sums = climb_starts(batch, reference, rotation, shift, present, (stage.radius, stage.steps), held)
    rotation, shift, present = thin_starts(rotation, shift, sums[..., 0], present, reference.alike, MODES, STARTS_APART_RAD)
    return refine_modes(batch, reference, search, *reference.with_mates(rotation, shift, present), held)


def refine_modes(
    batch: Whitened,
    reference: Reference,
    search: Search,
    rotation: np.ndarray,
    shift: np.ndarray,
    present: np.ndarray,
    held: Bounds | Filaments = UNBOUNDED,
) -> Poses:
    """Climbs from known modes (n, m) to the final radius and weighs what remains distinct. held: as in climb_starts."""
    sums = climb_starts(batch, reference, rotation, shift, present, (search.final_radius, search.final_steps), held)
    number, modes = present.shape
    covariance = np.empty((number * modes, 15))
    log_determinant = covariance_and_log_determinant(sums.reshape(-1, SUMS), covariance).reshape(number, modes)
    order = np.empty((number, reference.modes), np.int64)
    log_likelihood = np.where(present, sums[..., 0], -np.inf)
    distinct_modes(rotation, log_likelihood, reference.operators, min(SAME_MODE_RAD, np.pi / len(reference.mates)), order)
    picked, present = np.maximum(order, 0), order >= 0
    present &= np.take_along_axis(np.isfinite(log_likelihood), picked, axis=1)
    rows = np.arange(number)[:, None]
    weight, log_integral = mode_weights(log_likelihood[rows, picked], log_determinant[rows, picked], present)
    log_odds = presence_log_odds(log_integral, len(reference.operators), search.shift_extent_px)
    heaviest = np.argsort(-weight, axis=1, kind="stable")
    picked, weight = np.take_along_axis(picked, heaviest, axis=1), np.take_along_axis(weight, heaviest, axis=1)
    covariance = covariance.reshape(number, modes, 15)
    best = rows[:, 0], picked[:, 0]
    return Poses(rotation[rows, picked], shift[rows, picked], weight, log_likelihood[best], covariance[best], log_odds)


def at_nearest_copies(poses: Poses, filaments: Filaments) -> Poses:
    """The poses, each replaced by the equivalent one whose shift along the filament is within half a rise."""
    rotation, shift_px, copies = filaments.nearest_copies(poses.rotation, poses.shift_px)
    covariance = filaments.copied_covariances(poses.covariance, rotation[:, 0], copies[:, 0])
    return replace(poses, rotation=rotation, shift_px=shift_px, covariance=covariance)


def climb_starts(
    batch: Whitened,
    reference: Reference,
    rotation: np.ndarray,
    shift: np.ndarray,
    present: np.ndarray,
    reach: tuple[int, int],
    held: Bounds | Filaments = UNBOUNDED,
) -> np.ndarray:
    """Refine those starts (n, m) that are present, in place, over the coefficients within a radius and in so many steps at most (`reach`);
    sums (n, m, 21), 0 for the others. held: priors and extent, or what is known of filaments, whose log L then holds the prior."""
    radius, steps = reach
    plane, length = reference.plane, min(reference.plane.prefix(radius), batch.amplitude.shape[1])
    image, start = np.nonzero(present)
    turned, moved = rotation[image, start], shift[image, start]
    priors, extent = held.bounds(rotation) if isinstance(held, Filaments) else held
    own = (priors if priors.ndim == 2 else np.ascontiguousarray(priors[image, start]), extent)
    found = reference.arithmetic.climb(reference.volume_ft, (image, turned, moved), batch.climbable, plane.arrays(length), steps, own)
    rotation[image, start], shift[image, start] = turned, moved
    if isinstance(held, Filaments):
        found[:, 0] += held.psi_prior(rotation)[image, start]
    sums = np.zeros((*present.shape, SUMS))
    sums[image, start] = found
    return sums


def thin_starts(
    rotation: np.ndarray,
    shift: np.ndarray,
    log_likelihood: np.ndarray,
    present: np.ndarray,
    operators: np.ndarray,
    keep: int,
    apart_rad: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best `keep` starts that lie apart and are not hopeless; where there are fewer, the best one again, marked as not present."""
    order = np.empty((len(rotation), keep), np.int64)
    likely = np.where(present, log_likelihood, -np.inf)
    distinct_modes(rotation, likely, operators, apart_rad, order)
    rows, picked = np.arange(len(rotation))[:, None], np.where(order >= 0, order, order[:, :1])
    kept = (order >= 0) & (likely[rows, picked] > likely.max(axis=1, keepdims=True) - HOPELESS)
    return np.ascontiguousarray(rotation[rows, picked]), np.ascontiguousarray(shift[rows, picked]), kept
