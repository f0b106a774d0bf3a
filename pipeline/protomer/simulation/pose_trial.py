"""The engine's search with everything known but the poses: true map, true noise, true CTF. What it then misses of the Cramér-Rao bound is
its own fault, but for what the bound does not know: it is reached only where an image tells its pose so well that the model is linear
within the error.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from protomer.engine.alignment import Poses, Reference, Search, refine_modes, search_globally
from protomer.engine.confidence import full_covariance
from protomer.engine.schedule import GRID_RADII, Band
from protomer.imaging.aberrations import group_even_turns, odd_correction
from protomer.imaging.images import Transfer, Whitened, whiten
from protomer.simulation.cramer_rao import ImageModel, PoseBound, pose_bound
from protomer.simulation.dataset import SimulatedData, Simulator
from protomer.simulation.draws import true_ctf
from protomer.simulation.optics import optics_of
from protomer.simulation.scatterers import Scatterer
from protomer_kernels.ctf import ctf_values
from protomer_kernels.half_plane import HalfPlane, largest_radius, transform_images
from protomer_kernels.rotations import rotation_errors

BATCH = 64
SHIFT_EXTENT = 1 / 16  # of the box, as in a refinement
LOST_DEG = 10.0


@dataclass(frozen=True)
class PoseTrial:
    """What was found in n images. Parameters: rotation about map x, y, z (radians), shift x, y (Å)."""

    error: np.ndarray  # (n, 5) found less true
    covariance: np.ndarray  # (n, 5, 5) that the engine gives
    bound: PoseBound
    top_weight: np.ndarray  # (n,) of the heaviest mode
    shortfall: np.ndarray  # (n,) log-likelihood reached by climbing from the truth, less that of the heaviest mode

    @property
    def angle_deg(self) -> np.ndarray:
        """(n,) angle of the rotation's error."""
        return np.asarray(np.rad2deg(np.linalg.norm(self.error[:, :3], axis=1)))

    @property
    def shift_A(self) -> np.ndarray:
        """(n,) length of the shift's error."""
        return np.asarray(np.linalg.norm(self.error[:, 3:], axis=1))

    def with_one_mode(self, least_weight: float = 0.99) -> PoseTrial:
        """The images whose posterior has one mode and that are not lost."""
        rows = (self.top_weight > least_weight) & (self.angle_deg < LOST_DEG)
        bound = PoseBound(self.bound.covariance[rows])
        return PoseTrial(self.error[rows], self.covariance[rows], bound, self.top_weight[rows], self.shortfall[rows])

    def over_bound(self) -> tuple[float, float]:
        """Median error of rotation and shift over the median of errors that have the bound's covariances."""
        angle_deg, shift_A = self.bound.medians()
        return float(np.median(self.angle_deg)) / angle_deg, float(np.median(self.shift_A)) / shift_A

    def squares(self) -> np.ndarray:
        """(5,) mean over images of (error / predicted standard deviation)^2: 1 where the engine knows how wrong it is."""
        return np.asarray((self.error**2 / np.einsum("nii->ni", self.covariance)).mean(axis=0))


def try_poses(data: SimulatedData, scatterer: Scatterer, radius: int | None = None) -> PoseTrial:
    """Search all images of a simulated data set of one scatterer over all of SO(3), with coefficients up to `radius` (None: all)."""
    box, pixel_A = data.design.box, data.design.pixel_size_A
    plane = HalfPlane(box, largest_radius(box))
    radius = plane.radius if radius is None else radius
    search = replace(Band.at(box, radius), radius=radius, iteration=len(GRID_RADII)).search(SHIFT_EXTENT * box)
    reference = Reference.prepare(data.volume.data, plane, radius, np.eye(3)[None], search)
    true_rotation, true_shift_px = data.truth.rotation_matrix, data.truth.shift_A / pixel_A
    found, shortfall = [], []
    for first in range(0, len(data.truth), BATCH):
        rows = slice(first, first + BATCH)
        batch = known_images(data, plane, radius, rows)
        found.append(search_globally(batch, reference, search))
        best = from_truth(batch, reference, search, true_rotation[rows], true_shift_px[rows])
        shortfall.append(best.log_likelihood - found[-1].log_likelihood)
    rotation, shift_px, weight, covariance = (
        np.concatenate([getattr(poses, name) for poses in found]) for name in ("rotation", "shift_px", "weight", "covariance")
    )
    images = ImageModel(scatterer, Simulator((scatterer,), data.design).gain, box, pixel_A, data.noise_variance)
    finest_A = box * pixel_A / (radius + 1e-6)
    bound = pose_bound(images, true_ctf(data.design, data.truth), data.truth.contrast, true_rotation, (np.inf, finest_A))
    turn = rotation_errors(true_rotation, np.ascontiguousarray(rotation[:, 0]), np.eye(3)[None])
    error = np.concatenate([turn, pixel_A * (shift_px[:, 0] - true_shift_px)], axis=1)
    return PoseTrial(error, full_covariance(covariance, pixel_A), bound, weight[:, 0], np.concatenate(shortfall))


def known_images(data: SimulatedData, plane: HalfPlane, radius: int, rows: slice) -> Whitened:
    """Some images whitened with the true noise, the true CTF, aberrations and contrast."""
    length, truth, group = plane.prefix(radius), data.truth.take(rows), optics_of(data.design)
    transfer = np.empty((len(truth), length), np.float32)
    per_box = 1.0 / (data.design.box * data.design.pixel_size_A)
    parameters, added = true_ctf(data.design, truth), (group_even_turns(group, plane)[None, :length], np.zeros(len(truth), np.int64))
    ctf_values(parameters, plane.kx[:length], plane.ky[:length], per_box, transfer, added)
    transfer *= truth.contrast[:, None].astype(np.float32)
    root_weight = np.sqrt(plane.multiplicity[:length] / data.noise_variance[plane.shell[:length]]).astype(np.float32)
    crops, correction = transform_images(data.images[rows], plane), odd_correction(group, plane)
    matrices = np.tile(np.reshape(group.magnification, (2, 2)), (len(truth), 1, 1))
    corrected = crops if correction is None else crops * correction
    return whiten(corrected, Transfer(transfer, matrices), root_weight[None], np.zeros(len(truth), np.int64))


def from_truth(batch: Whitened, reference: Reference, search: Search, rotation: np.ndarray, shift_px: np.ndarray) -> Poses:
    """The climb from the true poses (n, 3, 3) and (n, 2)."""
    return refine_modes(batch, reference, search, rotation[:, None].copy(), shift_px[:, None].copy(), np.ones((len(rotation), 1), bool))
