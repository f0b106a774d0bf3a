"""The Cramér-Rao bound on poses: the least covariance that any unbiased method can reach for given images.

(1) M(k) = C(k) exp(-2 pi i k.t) V(R k), X = M + noise, E|noise|^2 = sigma^2(k), over the half plane of k
(2) J = sum_k 2 Re(conj dM/da dM/db) / sigma^2(k), a and b in (rotation about map x, y, z; shift x, y): the Fisher information
(3) covariance >= J^-1                                                  Cramér 1946; Rao 1945

The derivatives are central differences of exact image transforms (scatterers.py), so nothing here is shared with the engine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from protomer.simulation.scatterers import Scatterer
from protomer_kernels.ctf import CtfParameters, ctf_values
from protomer_kernels.nufft import half_plane_frequencies

STEP_RAD = 2e-3
BLOCK = 32


@dataclass(frozen=True)
class PoseBound:
    """The bound for n images."""

    covariance: np.ndarray  # (n, 5, 5) rotation about map x, y, z (radians), shift x, y (Å)

    @property
    def angle_deg(self) -> np.ndarray:
        """(n,) root mean square angle of the rotation error."""
        return np.asarray(np.rad2deg(np.sqrt(np.trace(self.covariance[:, :3, :3], axis1=1, axis2=2))))

    @property
    def shift_A(self) -> np.ndarray:
        """(n,) root mean square length of the shift error."""
        return np.asarray(np.sqrt(np.trace(self.covariance[:, 3:, 3:], axis1=1, axis2=2)))

    def medians(self, draws: int = 50, seed: int = 0) -> tuple[float, float]:
        """Medians over all images of the angle (degrees) and shift (Å) errors that Gaussians of these covariances would show."""
        white = np.random.default_rng(seed).standard_normal((len(self.covariance), draws, 5, 1))
        errors = np.linalg.cholesky(self.covariance)[:, None] @ white
        angle, shift_A = np.linalg.norm(errors[:, :, :3, 0], axis=2), np.linalg.norm(errors[:, :, 3:, 0], axis=2)
        return float(np.rad2deg(np.median(angle))), float(np.median(shift_A))


@dataclass(frozen=True)
class ImageModel:
    """How images are made of a scatterer. noise_variance: (box // 2 + 1,) E|noise|^2 of a unitary transform per shell."""

    scatterer: Scatterer
    gain: float
    box: int
    pixel_size_A: float
    noise_variance: np.ndarray


def pose_bound(model: ImageModel, ctf: CtfParameters, contrast: np.ndarray, rotation: np.ndarray,
               resolution_A: tuple[float, float] = (np.inf, 0.0)) -> PoseBound:
    """The bound (3) for n images of a rigid particle with rotations (n, 3, 3), CTFs of n images and contrasts (n,).

    resolution_A: coarsest and finest resolution of the coefficients that are used; by default all within the inscribed circle of the plane.
    """
    box, weights = model.box, _weights(model, resolution_A)
    ky, kx = half_plane_frequencies(box)
    flat_y, flat_x = (k.ravel() for k in np.meshgrid(ky, kx, indexing="ij"))
    values = np.empty((len(rotation), len(flat_x)), np.float32)
    ctf_values(ctf, flat_x, flat_y, 1.0 / (box * model.pixel_size_A), values)
    information = np.empty((len(rotation), 5, 5))
    for first in range(0, len(rotation), BLOCK):
        rows = slice(first, first + BLOCK)
        jacobian = _derivatives(model, rotation[rows]).reshape(len(rotation[rows]), 5, -1)
        scale = (values[rows].astype(np.float64) * contrast[rows, None] * model.gain / box) ** 2
        weighted = jacobian * (2.0 * scale * weights)[:, None]
        information[rows] = np.einsum("nak,nbk->nab", weighted.conj(), jacobian, optimize=True).real
    return PoseBound(np.linalg.inv(information))


def _derivatives(model: ImageModel, rotation: np.ndarray) -> np.ndarray:
    """(n, 5, box, box // 2 + 1) complex128: dF2 / d(rotation about map x, y, z; shift x, y), F2 the plain image transform at shift 0."""
    number, box = len(rotation), model.box
    none = np.zeros((number, 1, 2))

    def image_fts(matrices: np.ndarray) -> np.ndarray:
        return model.scatterer.image_fts(matrices[:, None], none, box, model.pixel_size_A).astype(np.complex128)

    here = image_fts(rotation)
    out = np.empty((number, 5, *here.shape[1:]), np.complex128)
    for axis, unit in enumerate(np.eye(3)):
        forth, back = (Rotation.from_rotvec(sign * STEP_RAD * unit).as_matrix() for sign in (1, -1))
        out[:, axis] = (image_fts(forth @ rotation) - image_fts(back @ rotation)) / (2 * STEP_RAD)
    ky, kx = half_plane_frequencies(box)
    ramp = 2j * np.pi / (box * model.pixel_size_A)  # shift = -t, so dM/dshift = +2 pi i k M
    out[:, 3], out[:, 4] = here * (ramp * kx), here * (ramp * ky[:, None])
    return out


def _weights(model: ImageModel, resolution_A: tuple[float, float]) -> np.ndarray:
    """1 / sigma^2 per coefficient, (box * (box // 2 + 1),) float64; 0 outside the band and where a coefficient's mate is counted."""
    ky, kx = half_plane_frequencies(model.box)
    radius = np.sqrt(ky[:, None] ** 2 + kx**2)
    period_A = model.box * model.pixel_size_A / np.maximum(radius, 1e-9)
    used = (radius < model.box / 2) & (radius > 0) & (period_A <= resolution_A[0]) & (period_A >= resolution_A[1])
    used &= (kx > 0) | (ky[:, None] > 0)
    shell = np.minimum(np.rint(radius).astype(int), model.box // 2)
    weights: np.ndarray = (used / model.noise_variance[shell]).ravel()
    return weights
