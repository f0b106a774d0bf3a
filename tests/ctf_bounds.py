"""The least errors that defocus and beam tilt can be known with: the Cramér-Rao bound of exact images, sharing nothing with the engine.

Poses and the particle are taken for known: what refinements must find of them as well can only make errors larger.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from protomer.simulation.cramer_rao import ImageModel, _weights
from protomer.simulation.dataset import SimulatedData, Simulator
from protomer.simulation.draws import true_ctf
from protomer.simulation.scatterers import AtomModel
from protomer_kernels.ctf import CtfParameters, ctf_values, electron_wavelength_A
from protomer_kernels.nufft import half_plane_frequencies

STEP_A, BLOCK = 5.0, 200


@dataclass(frozen=True)
class CtfBound:
    """defocus_A (n,): least standard deviation of each image's defocus; tilt_rad: of either component of the tilt of them all."""

    defocus_A: np.ndarray
    tilt_rad: float


def ctf_bound(model: AtomModel, data: SimulatedData, band_A: tuple[float, float]) -> CtfBound:
    """The bound from the coefficients between two resolutions."""
    box, pixel_A = data.design.box, data.design.pixel_size_A
    ky, kx = (k.ravel() / (box * pixel_A) for k in np.meshgrid(*half_plane_frequencies(box), indexing="ij"))
    information_A2, power = np.empty(len(data.truth)), np.zeros(len(kx))
    for first in range(0, len(data.truth), BLOCK):
        rows = slice(first, first + BLOCK)
        part = replace(data, truth=data.truth.take(rows))
        slices, weight, _ = seen_without_ctf(model, part, part.truth.rotation_matrix, band_A)
        ctf = true_ctf(data.design, part.truth)
        up, down = (transfer(data, replace(ctf, defocus_u_A=ctf.defocus_u_A + step, defocus_v_A=ctf.defocus_v_A + step), len(slices))
                    for step in (STEP_A, -STEP_A))
        information_A2[rows] = (weight * np.abs(slices * (up - down) / (2.0 * STEP_A)) ** 2).sum(axis=1)
        power += (weight * np.abs(slices * transfer(data, ctf, len(slices))) ** 2).sum(axis=0)
    coma = 2.0 * np.pi * data.design.spherical_aberration_A * float(electron_wavelength_A(data.design.voltage_V)) ** 2 * (kx**2 + ky**2)
    terms = np.stack([kx, ky, coma * kx, coma * ky])  # shifts that all images share are unknown too
    covariance = np.linalg.inv((terms * power) @ terms.T)
    return CtfBound(information_A2**-0.5, float(np.sqrt(0.5 * (covariance[2, 2] + covariance[3, 3]))))


def seen_without_ctf(
    model: AtomModel, data: SimulatedData, matrices: np.ndarray, band_A: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, ImageModel]:
    """Exact transforms (n, K) of projections in the images' scale, and 2 / sigma^2 (K,) of the coefficients in the band."""
    box, pixel_A = data.design.box, data.design.pixel_size_A
    made = ImageModel(model, Simulator((model,), data.design).gain, box, pixel_A, data.noise_variance)
    flat = made.scatterer.image_fts(matrices[:, None], np.zeros((len(matrices), 1, 2)), box, pixel_A).reshape(len(matrices), -1)
    return flat * (made.gain / box * data.truth.contrast[:, None]), 2.0 * _weights(made, band_A), made


def transfer(data: SimulatedData, parameters: CtfParameters, number: int) -> np.ndarray:
    """(number, K) float64 CTFs."""
    box = data.design.box
    ky, kx = (k.ravel() for k in np.meshgrid(*half_plane_frequencies(box), indexing="ij"))
    out = np.empty((number, len(kx)), np.float32)
    ctf_values(parameters, kx, ky, 1.0 / (box * data.design.pixel_size_A), out)
    return out.astype(np.float64)
