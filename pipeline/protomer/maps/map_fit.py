"""One map brought onto another by damped Gauss-Newton in six parameters, and how well their relation is then known.

A and G are the transforms of the reference and of the moved map (self_correlation.py, eq. 1), each divided by its own power in a shell.
The two may have any boxes and voxel sizes: both transforms are known at any frequency. With C(s) their correlation in shell s,

(1) A = C G + e, E |e|^2 = 1 - C^2                       two maps that share a signal, each with noise or differences of its own
(2) E = sum |A - C G|^2 / (1 - C^2), least where sum w Re(conj(A) G) is largest, w = C / (1 - C^2): shells that disagree count nothing
(3) covariance = (f H)^-1, H = sum C^2 / (1 - C^2) Re(conj(dG) dG), f = 2 (1 - exp(-x)) / x, x = number / (V B / 2): V the volume of the
    mask and B that of the band, so that V B / 2 coefficients have noise of their own, of which `number` frequencies, spread at random,
    see a share 1 - exp(-x). It knows of noise, and not of differences in shape
(4) score: sum Re(conj(A) G) / sqrt(sum |A|^2 sum |G|^2), so that each shell counts by its coefficients

The band grows from coarse to fine, C being taken anew in each. `ball_points` are spread over the whole ball: mates are both in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from protomer.maps.rigid_fit import moved_with_slopes, settle
from protomer.maps.rigid_motion import RigidMotion
from protomer.symmetry.self_correlation import LOWEST_SHELL, MapSpectrum, ball_points, in_group_frame

POINTS, MANY_POINTS, FEWEST_POINTS = 4000, 24000, 1500  # of a fit, of the last fit, of the coarsest
WIDEN = 1.5  # of the band from one fit to the next
MOST_ALIKE = 0.9999  # correlation of a shell at most: interpolation is not better
LEAST_ALIKE = 0.01
START_WAVES = 2.0  # particle radii per finest wave of the first band: its capture range is some 7 degrees
SETTLED_GAIN, SETTLED_FINELY = 1e-4, 1e-6  # of the score, for a coarse band and a fine one
AGREE = 0.2  # correlation of a shell down to which two maps are said to agree


@dataclass(frozen=True)
class MapPair:
    """A reference and a map to be brought onto it. Frequencies are in cycles per box of the reference."""

    reference: MapSpectrum
    volume: MapSpectrum

    @property
    def limit(self) -> float:
        """The finest |q| that both maps have."""
        return min(float(self.reference.limit), self.volume.limit / self.ratio)

    @property
    def ratio(self) -> float:
        """Extent of the map's box over that of the reference."""
        return self.volume.extent_A / self.reference.extent_A

    @property
    def radius_A(self) -> float:
        """That of the smaller particle."""
        return min(self.reference.radius_A, self.volume.radius_A)

    def shell_at(self, waves: float) -> float:
        """The |q| of so many waves per particle radius, at most the limit."""
        return min(max(waves * self.reference.extent_A / self.radius_A, LOWEST_SHELL + 2.0), self.limit)

    def independent(self, radius: float) -> float:
        """V B / 2 of eq. (3): how many complex numbers of the masked maps are independent up to a radius."""
        mask_A3 = min(s.fill * s.extent_A**3 for s in (self.reference, self.volume))
        return max(0.5 * mask_A3 * 4.19 * (radius**3 - LOWEST_SHELL**3) / self.reference.extent_A**3, 1.0)

    def whitened_reference(self, points: np.ndarray) -> np.ndarray:
        """A of eq. (1) at points (..., 3)."""
        return self.reference.sample(points) * np.sqrt(self.reference.whitening(np.linalg.norm(points, axis=-1)))

    def whitened_volume(self, points: np.ndarray, motion: RigidMotion) -> np.ndarray:
        """G of eq. (1) at points (..., 3)."""
        own = points * self.ratio
        return in_group_frame(self.volume, own, motion) * np.sqrt(self.volume.whitening(np.linalg.norm(own, axis=-1)))


@dataclass(frozen=True)
class MapFit:
    """A motion that brings a map onto a reference. Standard deviations along the worst-known direction; 0 for what was held."""

    motion: RigidMotion
    score: float  # eq. (4) up to `radius`
    radius: float  # finest |q| used, cycles per box of the reference
    resolution_A: float  # and its wavelength
    angle_sd_deg: float
    shift_sd_A: float
    covariance: np.ndarray  # (6, 6) of omega (rad) about, d (angstrom) along x, y, z


def march(pair: MapPair, start: RigidMotion, free: np.ndarray, first: float, last: float, most_points: int = POINTS) -> MapFit:
    """Fits in bands that widen from radius `first` to `last`. free: (6, p), as for rigid_fit.settle."""
    radius, motion = min(first, last), start
    while True:
        points = band_points(radius, most_points)
        motion = _settled(pair, points, motion, free)
        if radius >= last:
            return _finished(pair, points, motion, free, radius)
        radius = min(radius * WIDEN, last)


def band_points(radius: float, most_points: int = POINTS) -> np.ndarray:
    """As many frequencies as a band has coefficients, within bounds: (a, 3)."""
    return ball_points(int(np.clip(4.19 * radius**3, min(FEWEST_POINTS, most_points), most_points)), radius)


def score_at(pair: MapPair, motion: RigidMotion, radius: float) -> float:
    """Eq. (4) up to a radius."""
    points = band_points(radius)
    return correlation(pair.whitened_reference(points), pair.whitened_volume(points, motion))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Of complex numbers with no mean taken out: real part."""
    scale = float(np.sqrt(float((np.abs(a) ** 2).sum()) * float((np.abs(b) ** 2).sum())))
    return float((a.conj() * b).real.sum()) / max(scale, 1e-30)


def shell_correlations(pair: MapPair, motion: RigidMotion, number: int = 400) -> np.ndarray:
    """The correlation of the moved map with the reference shell by shell, (limit + 1,), shell 0 is 0. number: frequencies per shell."""
    directions = ball_points(number, 2.0)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    curve = np.zeros(int(pair.limit) + 1)
    for shell in range(1, len(curve)):
        points = shell * directions
        curve[shell] = correlation(pair.whitened_reference(points), pair.whitened_volume(points, motion))
    return curve


def last_shell_of_agreement(curve: np.ndarray) -> int:
    """The last shell before a smoothed curve first falls below AGREE."""
    smooth = np.convolve(np.pad(curve[1:], 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid")
    below = np.flatnonzero(smooth < AGREE)
    return int(below[0]) if len(below) else len(curve) - 1


def free_directions(turns: bool, shifts: bool) -> np.ndarray:
    """(6, p): which of (omega, d) may change."""
    return np.eye(6)[:, np.repeat([turns, shifts], 3)]


def _settled(pair: MapPair, points: np.ndarray, motion: RigidMotion, free: np.ndarray) -> RigidMotion:
    """Eq. (2) at its least in one band, with the weights of the place where it begins."""
    if not free.shape[1]:
        return motion
    reference = pair.whitened_reference(points)
    alike = _alike(points, reference, pair.whitened_volume(points, motion))
    weight = alike / (1.0 - alike**2)

    def equations(here: RigidMotion) -> tuple[np.ndarray, np.ndarray]:
        value, slope = _linearised(pair, points, here)
        slope = slope @ free
        gradient = np.einsum("ap,a,a->p", slope.conj(), weight, alike * value - reference).real
        return np.einsum("ap,a,aq->pq", slope.conj(), weight * alike, slope).real, gradient

    def score(here: RigidMotion) -> float:
        root = np.sqrt(weight)
        return correlation(root * reference, root * pair.whitened_volume(points, here))

    return settle(motion, equations, score, free, SETTLED_GAIN if len(points) < POINTS else SETTLED_FINELY)


def _linearised(pair: MapPair, points: np.ndarray, motion: RigidMotion) -> tuple[np.ndarray, np.ndarray]:
    """G (a,) and its derivatives (a, 6) at points (a, 3)."""
    own = points * pair.ratio
    root = np.sqrt(pair.volume.whitening(np.linalg.norm(own, axis=-1)))
    value, slope = moved_with_slopes(pair.volume, own, motion)
    return value * root, slope * root[:, None]


def _alike(points: np.ndarray, reference: np.ndarray, value: np.ndarray) -> np.ndarray:
    """C of eq. (1) at each point, from its shell and a little of its neighbours."""
    shell = np.rint(np.linalg.norm(points, axis=-1)).astype(int)
    sums = [np.bincount(shell, part) for part in ((reference.conj() * value).real, np.abs(reference) ** 2, np.abs(value) ** 2)]
    cross, a, b = (np.convolve(part, [0.25, 0.5, 0.25], mode="same") for part in sums)
    return np.clip(cross / np.maximum(np.sqrt(a * b), 1e-30), LEAST_ALIKE, MOST_ALIKE)[shell]


def _finished(pair: MapPair, points: np.ndarray, motion: RigidMotion, free: np.ndarray, radius: float) -> MapFit:
    """Eqs (3) and (4) at the place found."""
    reference = pair.whitened_reference(points)
    value, slope = _linearised(pair, points, motion)
    alike = _alike(points, reference, value)
    slope = slope @ free
    seen = len(points) / pair.independent(radius)
    information = 2.0 / seen * -np.expm1(-seen) * np.einsum("ap,a,aq->pq", slope.conj(), alike**2 / (1.0 - alike**2), slope).real
    covariance = free @ np.linalg.inv(information) @ free.T
    angle_sd, shift_sd = (float(np.sqrt(np.linalg.eigvalsh(part)[-1])) for part in (covariance[:3, :3], covariance[3:, 3:]))
    return MapFit(motion, correlation(reference, value), radius, pair.reference.extent_A / radius, float(np.rad2deg(angle_sd)), shift_sd,
                  covariance)
