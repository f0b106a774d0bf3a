"""What the optics groups' aberrations do to a batch of images: phases, magnification, and how far out images may be used.

Formulas are those of protomer_kernels/aberrations.py. Odd phases are taken out of the data when images are read, so that no kernel knows of
them; even ones enter the CTF; magnification enters where rotations take image frequencies to the map.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from protomer.tables.optics import OpticsGroup
from protomer.tables.particles import Particles
from protomer_kernels.aberrations import beam_tilt_phase, magnified, zernike_sum
from protomer_kernels.ctf import electron_wavelength_A
from protomer_kernels.half_plane import HalfPlane

OUTER_MARGIN = 0.49  # shells by which a Fourier volume reaches beyond its radius (slices.volume_radius), less rounding
TABLES = 256  # optics groups whose phases are kept


def even_turns(particles: Particles, rows: np.ndarray, plane: HalfPlane, length: int) -> tuple[np.ndarray, np.ndarray] | None:
    """What even aberrations add to gamma at the first `length` coefficients: turns (g, length) float32, and the row (n,) of each image
    among them; None where there are none. Whole turns are left out, which float32 would pay for."""
    groups = particles.optics_groups
    used, row = np.unique(particles.optics[rows], return_inverse=True)
    if not any(any(groups[g].even_zernike) for g in used):
        return None
    tables = [group_even_turns(groups[g], plane)[:length] for g in used]
    return np.stack(tables), row.reshape(-1).astype(np.int64)


def group_even_turns(group: OpticsGroup, plane: HalfPlane) -> np.ndarray:
    """What the even aberrations of an optics group add to gamma: turns (K,) float32, within half a turn."""
    return _even_turns(group.even_zernike, group.magnification, group.pixel_size_A, plane)


def correct_odd_phases(particles: Particles, rows: np.ndarray, plane: HalfPlane, crops: np.ndarray) -> None:
    """Multiply images' coefficients (n, K) complex64 by exp(-i chi), in place, whose optics groups have odd aberrations."""
    for g in np.unique(particles.optics[rows]):
        factor = odd_correction(particles.optics_groups[g], plane)
        if factor is not None:
            crops[particles.optics[rows] == g] *= factor


def odd_correction(group: OpticsGroup, plane: HalfPlane) -> np.ndarray | None:
    """exp(-i chi) of an optics group (K,) complex64; None where chi is zero."""
    coma_A = tuple(group.spherical_aberration_A * tilt for tilt in group.beam_tilt_rad)
    if not any(group.odd_zernike) and not any(coma_A):
        return None
    return _odd_correction(group.odd_zernike, coma_A, group.voltage_V, group.magnification, group.pixel_size_A, plane)


def magnification_of(groups: Sequence[OpticsGroup], of_images: np.ndarray) -> np.ndarray | None:
    """M (n, 2, 2) of images by their optics group (n,); None where all are the identity."""
    matrices = np.reshape([group.magnification for group in groups], (-1, 2, 2))
    return None if np.all(matrices == np.eye(2)) else matrices[of_images]


def usable_radius(particles: Particles, radius: int) -> int:
    """The largest Fourier radius of the particles' images whose points M k all lie within a Fourier volume for `radius`."""
    matrices = [np.reshape(particles.optics_groups[g].magnification, (2, 2)) for g in np.unique(particles.optics)]
    stretch = max((float(np.linalg.norm(matrix, 2)) for matrix in matrices), default=1.0)
    return min(radius, int((radius + OUTER_MARGIN) / stretch))


@lru_cache(TABLES)
def _even_turns(coefficients: tuple[float, ...], magnification: tuple[float, ...], pixel_size_A: float, plane: HalfPlane) -> np.ndarray:
    turns = zernike_sum(coefficients, False, *_frequencies(magnification, pixel_size_A, plane)) / (2.0 * np.pi)
    return (turns - np.rint(turns)).astype(np.float32)


@lru_cache(TABLES)
def _odd_correction(coefficients: tuple[float, ...], coma_A: tuple[float, ...], voltage_V: float, magnification: tuple[float, ...],
                    pixel_size_A: float, plane: HalfPlane) -> np.ndarray:
    x, y = _frequencies(magnification, pixel_size_A, plane)
    chi = zernike_sum(coefficients, True, x, y) + beam_tilt_phase(coma_A, float(electron_wavelength_A(voltage_V)), x, y)
    return np.exp(-1j * chi).astype(np.complex64)


def _frequencies(magnification: tuple[float, ...], pixel_size_A: float, plane: HalfPlane) -> tuple[np.ndarray, np.ndarray]:
    """M k in cycles per angstrom."""
    per_box = 1.0 / (plane.box * pixel_size_A)
    return magnified(np.reshape(magnification, (2, 2)) * per_box, plane.kx, plane.ky)
