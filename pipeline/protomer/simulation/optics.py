"""The aberrations of a simulated microscope, on the frequencies of its images (formulas: protomer_kernels/aberrations.py)."""

from __future__ import annotations

import numpy as np

from protomer.simulation.draws import SimulationDesign
from protomer.tables.optics import OpticsGroup
from protomer_kernels.aberrations import beam_tilt_phase, magnified, zernike_sum
from protomer_kernels.ctf import electron_wavelength_A


def optics_of(design: SimulationDesign) -> OpticsGroup:
    """The optics group of all images. Raises InputError where its aberrations cannot be meant so."""
    return OpticsGroup(
        "simulated", design.voltage_V, design.spherical_aberration_A, design.amplitude_contrast, design.pixel_size_A, design.box,
        design.beam_tilt_rad, design.odd_zernike, design.even_zernike, design.magnification)


def even_turns(design: SimulationDesign, kx: np.ndarray, ky: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """What even aberrations add to gamma at frequencies in cycles per box: turns (1, K) float32 and the rows of `design.number` images."""
    if not any(design.even_zernike):
        return None
    turns = zernike_sum(design.even_zernike, False, *_frequencies(design, kx, ky)) / (2.0 * np.pi)
    return (turns - np.rint(turns)).astype(np.float32)[None], np.zeros(design.number, np.int64)


def odd_phase(design: SimulationDesign, kx: np.ndarray, ky: np.ndarray) -> np.ndarray | None:
    """exp(i chi), by which odd aberrations multiply images, complex64; None where there are none."""
    coma_A = tuple(design.spherical_aberration_A * tilt for tilt in design.beam_tilt_rad)
    if not any(design.odd_zernike) and not any(coma_A):
        return None
    x, y = _frequencies(design, kx, ky)
    chi = zernike_sum(design.odd_zernike, True, x, y) + beam_tilt_phase(coma_A, float(electron_wavelength_A(design.voltage_V)), x, y)
    return np.exp(1j * chi).astype(np.complex64)


def magnified_rotations(design: SimulationDesign, rotations: np.ndarray) -> np.ndarray:
    """R M (..., 3, 3) of rotations R."""
    magnification = np.eye(3)
    magnification[:2, :2] = np.reshape(design.magnification, (2, 2))
    return rotations @ magnification


def stretching(percent: float, angle_rad: float) -> tuple[float, float, float, float]:
    """The matrix, row by row, that multiplies frequencies by 1 + percent / 200 along an angle from x, and by 1 - percent / 200 across."""
    along = np.array([np.cos(angle_rad), np.sin(angle_rad)])
    half = percent / 200.0
    (a, b), (c, d) = (1.0 - half) * np.eye(2) + 2.0 * half * np.outer(along, along)
    return float(a), float(b), float(c), float(d)


def _frequencies(design: SimulationDesign, kx: np.ndarray, ky: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return magnified(np.reshape(design.magnification, (2, 2)) / (design.box * design.pixel_size_A), kx, ky)
