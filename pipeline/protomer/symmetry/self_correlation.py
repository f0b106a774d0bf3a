"""How well a map agrees with its own copies under the operators of a group, anywhere in its Fourier transform.

A map is moved by x' = Q x + d; its transform in the group's frame is then, at any frequency q (cycles per box of edge L),

(1) G(q) = F(Q^T q) exp(-2 pi i q.d / L)                                      F by trigonometric interpolation (volume_sampling.py)
(2) dG/domega = -(q x grad G),  dG/dd = -2 pi i q G / L                       for a further turn exp([omega]x) and shift after (Q, d)
(3) grad F is the transform of (-2 pi i x / N) v(x)

Frequencies come in orbits {g q}: G is the same at all members where the map has the group and lies on its axes. One sampling of the
orbits gives the correlation under every operator,

(4) C_g = sum w Re(G(q) conj G(g q)) / sum w |G|^2, w = 1 / (mean |F|^2 of the shell)        so that each shell counts by its coefficients

and the residual r = G - (mean of G over the orbit), whose power is P (J - 1) / J for noise of power P and orbits of J.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy import ndimage

from protomer.maps.mask_rule import SPHERE_RADIUS, find_support
from protomer.maps.rigid_motion import RigidMotion
from protomer.maps.volumes import Halves, Volume
from protomer_kernels import masks
from protomer_kernels.field_sampling import interleave, sample_fields
from protomer_kernels.fourier import crop_volume, low_pass
from protomer_kernels.shells import shell_power
from protomer_kernels.volume_sampling import sampling_grid

SPARE = 1.25  # frequencies kept beyond the finest one used, so that interpolation near it is exact
SMALLEST_PART = 0.1  # of the largest part's voxels: a smaller one is dust
LOWEST_SHELL = 1.0  # what is coarser says only how large the particle is


@dataclass(frozen=True)
class MapSpectrum:
    """The band-limited transform of a masked map, ready to be sampled; frequencies in cycles per box, lengths in angstrom."""

    rows: np.ndarray  # F, to be sampled (field_sampling.py)
    all_rows: np.ndarray  # F, and i times its gradient along x, y, z
    limit: int  # finest |q| that can be sampled
    extent_A: float  # L, edge of the box
    power: np.ndarray  # (limit + 1,) mean |F|^2 per shell
    noise: np.ndarray | None  # (limit + 1,) the same for the noise of the map, from half maps
    fill: float  # mean of the squared mask: the share of the box in which there is noise
    centre_A: np.ndarray  # (3,) centre of mass of the density in the mask, from the box centre
    radius_A: float  # root mean square distance of the density from it, times sqrt(5/3): that of a ball
    voxel_size_A: float

    def shell(self, resolution_A: float) -> float:
        """The |q| of a resolution, at most the limit."""
        return min(self.extent_A / resolution_A, float(self.limit))

    def sample(self, points: np.ndarray) -> np.ndarray:
        """F at points (..., 3): complex64."""
        return sample_fields(self.rows, 1, self.limit, points)[..., 0]

    def sample_with_gradient(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """F (...) and eq. (3) (..., 3) at points (..., 3): complex64."""
        fields = sample_fields(self.all_rows, 4, self.limit, points)
        return fields[..., 0], -1j * fields[..., 1:]

    def mirrored(self) -> MapSpectrum:
        """That of the map mirrored, z -> -z about its centre: F(M q)."""
        all_rows = self.all_rows[::-1].copy()
        shape = all_rows.shape
        all_rows.reshape(*shape[:2], -1, 4, 2)[..., 3, :] *= -1.0  # the derivative along z
        return replace(self, rows=self.rows[::-1].copy(), all_rows=all_rows, centre_A=self.centre_A * np.array([1.0, 1.0, -1.0]))

    def whitening(self, radius: np.ndarray) -> np.ndarray:
        """The weight of eq. (4) at radii |q|."""
        shells = np.arange(len(self.power))
        return 1.0 / np.interp(radius, shells[1:], self.power[1:])


def map_spectrum(volume: Volume, finest_A: float, mask: Volume | None = None, half_maps: Halves[Volume] | None = None) -> MapSpectrum:
    """The spectrum of a map down to a resolution. mask: unset, `wide_mask`. half_maps: for the power of the noise.

    Raises ValueError where the box holds fewer than 3 shells down to that resolution, or where the map is constant in the mask.
    """
    box, extent_A = volume.box, volume.box * volume.voxel_size_A
    limit = min(int(extent_A / finest_A), (box - 1) // 2)
    if limit < 3:
        raise ValueError(f"a box of {extent_A:.0f} Å has {limit} shells down to {finest_A:.1f} Å; at least 3 are needed")
    window = (mask if mask is not None else wide_mask(volume)).data
    outside = volume.data[window < 0.01]
    solvent = np.float32(np.median(outside)) if outside.size else np.float32(0.0)
    masked = (volume.data - solvent) * window
    if not masked.any() or float(masked.std()) < 1e-6 * float(np.abs(masked).max()):
        raise ValueError("the map is constant inside its mask")
    small_box = min(box, 2 * int(np.ceil(SPARE * limit)) + 4)
    small = crop_volume(masked, small_box).astype(np.float32)
    noise = None
    if half_maps is not None:
        difference = (half_maps.a.data - half_maps.b.data) * np.float32(0.5) * window
        noise = shell_power(crop_volume(difference, small_box))[: limit + 1]
    centre_A, radius_A = _extent(masked, volume.voxel_size_A)
    power = shell_power(small)[: limit + 1]
    grids = _grids(small, limit)
    return MapSpectrum(interleave(grids[:1]), interleave(grids), limit, extent_A, np.maximum(power, 1e-9 * power.max()), noise,
                       float((window.astype(np.float64) ** 2).mean()), centre_A, radius_A, volume.voxel_size_A)


def wide_mask(volume: Volume) -> Volume:
    """The density of the map's mask rule, but with every part that is not small (protomers need not touch), grown, with a soft edge.

    It is made from the map alone, so that it has the symmetry of the map wherever its axes are; a sphere where there is no density.
    """
    box, step_A = volume.box, volume.voxel_size_A
    support = find_support(volume)
    inside = masks.sphere_mask(box, SPHERE_RADIUS * box, 0) > 0
    dense = (low_pass(volume.data, box * step_A / support.low_pass_A, 2) > support.level) & inside
    labels, number = ndimage.label(dense)
    edge_px = max(5.0, support.low_pass_A / step_A)
    if number == 0:
        return Volume(masks.sphere_mask(box, SPHERE_RADIUS * box - edge_px, edge_px), step_A)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    parts = (sizes > SMALLEST_PART * sizes.max())[labels]
    grown_px = max(2.0, support.low_pass_A / 2 / step_A)
    distance = masks.distance_to(parts, int(np.ceil(grown_px + edge_px)))
    return Volume(masks.raised_cosine(distance - np.float32(grown_px), edge_px), step_A)


def _grids(small: np.ndarray, limit: int) -> tuple[np.ndarray, ...]:
    """F and, but for the factor -i (a grid stands for a real volume), its gradient, eq. (3)."""
    box = len(small)
    axis = (np.arange(box) - box // 2).astype(np.float32)
    arms = (axis[None, None, :], axis[None, :, None], axis[:, None, None])
    scale = np.float32(2 * np.pi / box)
    return (sampling_grid(small, limit), *(sampling_grid(small * (scale * arm), limit) for arm in arms))


def _extent(masked: np.ndarray, voxel_size_A: float) -> tuple[np.ndarray, float]:
    """Centre of mass [x, y, z] and radius of the positive density, angstrom."""
    density = np.maximum(masked, 0).astype(np.float64)
    axis = (np.arange(len(masked)) - len(masked) // 2) * voxel_size_A
    profiles = [density.sum((0, 1)), density.sum((0, 2)), density.sum((1, 2))]
    total = max(float(density.sum()), 1e-30)
    centre = np.array([float((profile * axis).sum()) / total for profile in profiles])
    square = sum(float((profile * (axis - c) ** 2).sum()) / total for profile, c in zip(profiles, centre, strict=True))
    return centre, float(np.sqrt(5.0 / 3.0 * square))


def ball_points(number: int, radius: float) -> np.ndarray:
    """(number, 3) frequencies spread evenly over the ball LOWEST_SHELL <= |q| <= radius (Roberts' R3 sequence): float64."""
    root = 1.2207440846057596  # of x^4 = x + 1: its powers are the least commensurate steps in three dimensions
    u = np.mod(0.5 + np.outer(np.arange(1, number + 1), root ** -np.arange(1.0, 4.0)), 1.0)
    length = np.cbrt(LOWEST_SHELL**3 + u[:, 0] * (max(radius, LOWEST_SHELL + 0.5) ** 3 - LOWEST_SHELL**3))
    z, angle = 1 - 2 * u[:, 1], 2 * np.pi * u[:, 2]
    across = np.sqrt(1 - z * z)
    return length[:, None] * np.stack([across * np.cos(angle), across * np.sin(angle), z], axis=1)


@dataclass(frozen=True)
class Orbits:
    """Frequencies {g q} of a group's operators: `points` (J, A, 3); operators (J, 3, 3), identity first; the radius that they fill."""

    points: np.ndarray
    operators: np.ndarray
    radius: float

    @property
    def shells(self) -> np.ndarray:
        """|q| of each orbit: (A,)."""
        return np.asarray(np.linalg.norm(self.points[0], axis=1))


def orbits(operators: np.ndarray, number: int, radius: float) -> Orbits:
    """About `number` frequencies up to `radius` in all, in orbits of the group."""
    start = ball_points(max(number // len(operators), 16), radius)
    return Orbits(np.einsum("gij,aj->gai", operators, start), np.asarray(operators, np.float64), radius)


def in_group_frame(spectrum: MapSpectrum, points: np.ndarray, motion: RigidMotion) -> np.ndarray:
    """Eq. (1) at points (..., 3) of the group's frame: complex128."""
    phase = np.exp(-2j * np.pi / spectrum.extent_A * (points @ motion.shift_A))
    return np.asarray(spectrum.sample(points @ motion.rotation) * phase)


def operator_correlations(values: np.ndarray, weight: np.ndarray, operators: np.ndarray) -> np.ndarray:
    """Eq. (4) for every operator, (J,): values (J, A) of G on orbits, weight (A,)."""
    table = _products(np.round(operators, 6).tobytes(), len(operators))
    total = float((weight * np.abs(values) ** 2).sum())
    return np.array([float((weight * (values.conj() * values[row]).real).sum()) / total for row in table])


@lru_cache(maxsize=32)
def _products(packed: bytes, order: int) -> np.ndarray:
    """table[g, j] = index of the operator g * j."""
    operators = np.frombuffer(packed).reshape(order, 3, 3)
    products = np.einsum("gij,hjk->ghik", operators, operators)
    distance = np.abs(products[:, :, None] - operators[None, None]).max(axis=(3, 4))
    if float(distance.min(axis=2).max()) > 1e-3:
        raise ValueError("the operators are not a group: a product of two of them is not among them")
    return np.asarray(distance.argmin(axis=2))


def mean_correlation(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The mean of eq. (4) over all operators but the identity, (...): values (..., J, A), weight (A,)."""
    order = values.shape[-2]
    mean_power = (weight * np.abs(values.mean(axis=-2)) ** 2).sum(axis=-1) * order
    power = (weight * np.abs(values) ** 2).sum(axis=(-1, -2))
    return np.asarray((order * mean_power / power - 1.0) / (order - 1.0))


def correlations_by_shell(spectrum: MapSpectrum, operators: np.ndarray, motion: RigidMotion, number: int = 400) -> np.ndarray:
    """Eq. (4) shell by shell, a Fourier shell correlation per operator: (J, limit + 1), shell 0 is 0. number: frequencies per shell."""
    per_orbit = max(number // len(operators), 12)
    curves = np.zeros((len(operators), spectrum.limit + 1))
    directions = ball_points(per_orbit, 2.0)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    for shell in range(1, spectrum.limit + 1):
        points = np.einsum("gij,aj->gai", operators, shell * directions)
        curves[:, shell] = operator_correlations(in_group_frame(spectrum, points, motion), np.ones(per_orbit), operators)
    return curves
