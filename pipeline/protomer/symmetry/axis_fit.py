"""The axes of a group brought onto a map, by damped Gauss-Newton on its own copies, and how well they are then known.

(1) E = sum_q w |r(q)|^2, r = G - mean of G over the orbit of q (self_correlation.py), in the parameters omega, d that the group leaves
    free: those of Cn are the tilt of its axis and its place across the axis
(2) w = C(s) / P(s): the correlation between mates in shell s over the power of their differences, taken anew at each step; P is at least
    that of the noise where half maps tell it
(3) covariance = H^-1, H = f sum C(s)^2 / P(s) Re(conj(dr) dr): of dr, a share C is signal; the gradient of (1) also has the variance of
    noise times noise, and H V^-1 H (White 1982, Econometrica 50, 1) with these weights is this sum;
    f = min(1, fill volume / number): neighbouring frequencies of a map in a mask do not have independent noise

The band grows from coarse to fine, each time from the place found before: the capture range of E is a quarter of its finest wave.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from protomer.maps.rigid_fit import moved_with_slopes, settle
from protomer.maps.rigid_motion import RigidMotion
from protomer.maps.volumes import Halves, Volume
from protomer.symmetry.self_correlation import (
    LOWEST_SHELL,
    MapSpectrum,
    Orbits,
    in_group_frame,
    map_spectrum,
    mean_correlation,
    operator_correlations,
    orbits,
)

POINTS = 8000  # frequencies of the last fit
FEWEST_POINTS = 1500
WIDEN = 1.5  # of the band from one fit to the next
SMALLEST_NOISE = 1e-4  # of the power of a shell: interpolation is not better
COARSE_WAVES = 3.0  # particle radii per finest wave of the first band: its capture range is some 5 degrees
DEFAULT_FINEST_A, DEFAULT_VOXELS = 8.0, 3.0  # finest resolution where none is set: whichever is coarser


@dataclass(frozen=True)
class AxisFit:
    """A motion that puts a map onto a group's axes. Standard deviations along the worst-known free direction."""

    motion: RigidMotion
    operators: np.ndarray  # (g, 3, 3)
    correlation: np.ndarray  # (g,) eq. (4) of self_correlation at the fit, identity first
    score: float  # mean of it over all operators but the identity
    angle_sd_deg: float
    shift_sd_A: float
    resolution_A: float  # finest wave used
    covariance: np.ndarray  # (6, 6) of omega (rad) about, d (angstrom) along the group's x, y, z; 0 where the group leaves all the same


@dataclass(frozen=True)
class AxisError:
    """How far a map that should lie on a group's axes is from them: what `axis_error` measures."""

    angle_deg: float  # by which it must be turned
    angle_sd_deg: float
    offset_A: float  # by which its centre (for Cn: its axis) must be moved
    offset_sd_A: float
    voxel_size_A: float
    correlation: np.ndarray  # (g,) under each operator as the map stands, identity first
    best_correlation: np.ndarray  # (g,) after `motion`
    resolution_A: float  # finest wave used
    motion: RigidMotion  # that takes the map onto the axes

    @property
    def offset_voxels(self) -> float:
        """The offset in voxels."""
        return self.offset_A / self.voxel_size_A


def axis_error(volume: Volume, operators: np.ndarray, mask: Volume | None = None, half_maps: Halves[Volume] | None = None,
               finest_A: float | None = None) -> AxisError:
    """Angle and offset between a map and the axes it should be on, found near them (within about 10 degrees and a tenth of its diameter).

    operators: (g, 3, 3) of the point group, about the box centre. mask: unset, by rule. half_maps: for the uncertainty. finest_A: finest
    wave used; unset: 8 Å or 3 voxels, whichever is coarser. Raises ValueError for fewer than two operators or too small a box.
    """
    spectrum = map_spectrum(volume, finest_A or default_finest_A(volume), mask, half_maps)
    fit = march(spectrum, operators, RigidMotion.none(), COARSE_WAVES)
    here = correlations_at(spectrum, operators, RigidMotion.none(), spectrum.limit)
    return AxisError(fit.motion.angle_deg, fit.angle_sd_deg, _offset_A(fit.motion, operators), fit.shift_sd_A, volume.voxel_size_A, here,
                     fit.correlation, fit.resolution_A, fit.motion)


def default_finest_A(volume: Volume) -> float:
    """The finest wave used where none is asked for."""
    return max(DEFAULT_FINEST_A, DEFAULT_VOXELS * volume.voxel_size_A)


def _offset_A(motion: RigidMotion, operators: np.ndarray) -> float:
    """How far the centre or axis of symmetry was from the box centre, across what the group leaves free."""
    return float(np.linalg.norm((np.eye(3) - kept_directions(operators)) @ motion.shift_A))


def kept_directions(operators: np.ndarray) -> np.ndarray:
    """(3, 3) projection on the directions that all operators keep: the axis of Cn, nothing for the other groups."""
    mean = np.asarray(operators, np.float64).mean(axis=0)
    return np.where(np.abs(mean) < 1e-9, 0.0, mean)


def free_parameters(operators: np.ndarray) -> np.ndarray:
    """(6, p) orthonormal columns: the turns and shifts (omega, d) that the group does not leave all the same. Raises ValueError for C1."""
    across = np.eye(3) - kept_directions(operators)
    values, vectors = np.linalg.eigh(across)
    basis = vectors[:, values > 0.5]
    if len(operators) < 2 or not basis.shape[1]:
        raise ValueError("a group of one operator has no axes")
    zero = np.zeros_like(basis)
    return np.block([[basis, zero], [zero, basis]])


def correlations_at(spectrum: MapSpectrum, operators: np.ndarray, motion: RigidMotion, radius: float) -> np.ndarray:
    """Correlation under each operator (g,) for a given motion, over all shells up to a radius."""
    these = orbits(operators, _number_of(radius, len(operators)), radius)
    return operator_correlations(in_group_frame(spectrum, these.points, motion), spectrum.whitening(these.shells), these.operators)


def march(spectrum: MapSpectrum, operators: np.ndarray, start: RigidMotion, waves: float, widest: float | None = None) -> AxisFit:
    """Fits in bands that widen from `waves` particle radii per finest wave up to the radius `widest` (unset: the limit)."""
    last = float(spectrum.limit) if widest is None else min(widest, float(spectrum.limit))
    radius = min(max(waves * spectrum.extent_A / spectrum.radius_A, LOWEST_SHELL + 2.0), last)
    motion = start
    while True:
        these = orbits(operators, _number_of(radius, len(operators)), radius)
        motion = _settle(spectrum, these, motion)
        if radius >= last:
            return _finished(spectrum, these, motion)
        radius = min(radius * WIDEN, last)


def _number_of(radius: float, order: int) -> int:
    """How many frequencies a band needs: as many as it has coefficients, within bounds."""
    return int(np.clip(4.19 * radius**3, max(FEWEST_POINTS, 24 * order), max(POINTS, 60 * order)))


def _settle(spectrum: MapSpectrum, these: Orbits, motion: RigidMotion) -> RigidMotion:
    """Eq. (1) minimised in one band."""
    free, whitening = free_parameters(these.operators), spectrum.whitening(these.shells)

    def equations(here: RigidMotion) -> tuple[np.ndarray, np.ndarray]:
        residual, slope = _linearised(spectrum, these, here, free)
        w = _weights(spectrum, these, residual)[0]
        return np.einsum("jap,a,jaq->pq", slope.conj(), w, slope).real, np.einsum("jap,a,ja->p", slope.conj(), w, residual).real

    return settle(motion, equations, lambda here: _score(spectrum, these, here, whitening), free)


def _score(spectrum: MapSpectrum, these: Orbits, motion: RigidMotion, weight: np.ndarray) -> float:
    return float(mean_correlation(in_group_frame(spectrum, these.points, motion), weight))


def _linearised(spectrum: MapSpectrum, these: Orbits, motion: RigidMotion, free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """r (J, A) of eq. (1) and its derivatives (J, A, p) in the free parameters."""
    value, slopes = moved_with_slopes(spectrum, these.points, motion)
    slope = slopes @ free
    return value - value.mean(axis=0), slope - slope.mean(axis=0)


def _weights(spectrum: MapSpectrum, these: Orbits, residual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eq. (2) for each orbit, (A,), and the correlation between mates in its shell, (A,)."""
    order, shell = len(these.operators), np.rint(these.shells).astype(int)
    counts = np.maximum(np.bincount(shell), 1)
    apart = np.bincount(shell, (np.abs(residual) ** 2).mean(axis=0)) / counts * order / (order - 1)
    power = np.interp(np.arange(len(apart)), np.arange(len(spectrum.power)), spectrum.power)
    noise = np.maximum(apart, SMALLEST_NOISE * power)
    if spectrum.noise is not None:
        noise = np.maximum(noise, np.interp(np.arange(len(apart)), np.arange(len(spectrum.noise)), spectrum.noise))
    correlation = np.clip(1.0 - noise / power, 0.01, 1.0)
    return (correlation / noise)[shell], correlation[shell]


def _finished(spectrum: MapSpectrum, these: Orbits, motion: RigidMotion) -> AxisFit:
    """Eq. (3) at the place found."""
    free = free_parameters(these.operators)
    residual, slope = _linearised(spectrum, these, motion, free)
    weight = np.prod(_weights(spectrum, these, residual), axis=0)
    number = these.points.shape[0] * these.points.shape[1]
    coefficients = spectrum.fill * 4.0 / 3.0 * np.pi * (these.radius**3 - LOWEST_SHELL**3)
    information = min(1.0, coefficients / number) * np.einsum("jap,a,jaq->pq", slope.conj(), weight, slope).real
    covariance = free @ np.linalg.inv(information) @ free.T
    values = in_group_frame(spectrum, these.points, motion)
    correlation = operator_correlations(values, spectrum.whitening(these.shells), these.operators)
    return AxisFit(motion, these.operators, correlation, float(correlation[1:].mean()),
                   float(np.rad2deg(np.sqrt(np.linalg.eigvalsh(covariance[:3, :3])[-1]))),
                   float(np.sqrt(np.linalg.eigvalsh(covariance[3:, 3:])[-1])), spectrum.extent_A / these.radius, covariance)
