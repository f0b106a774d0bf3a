"""Segments of filaments: straight helices that run through their images from end to end, several segments of each.

(1) A segment whose centre is a beyond the first subunit's place along the axis is seen, of the helix's copies (CONVENTIONS), from the one
    that is nearest: n = round(a / rise), R = Rz(-n twist) R_0, shift = (a - n rise) (R_0^T z)_xy + what it lies beside the axis
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from protomer.randomness import combine, normal, uniform

FIELD = 1.5  # boxes: the field from which an image is cut, so that the filament runs through all of its corners
LENGTH = 1.46  # boxes: of the filament; more than the diagonal of an image
FILAMENTS_PER_MICROGRAPH = 5


@dataclass(frozen=True)
class FilamentDesign:
    """Twist (rad) and rise (Å) of the helix; segments of each filament and the step (Å) between them; the standard deviation of tilts about
    90 degrees (rad), and that of the stated priors about the true tilt and psi (rad)."""

    twist_rad: float
    rise_A: float
    segments: int
    step_A: float
    tilt_sd_rad: float = 0.0
    prior_sd_rad: float = 0.0

    def of_image(self, number: int) -> np.ndarray:
        """The filament of each of `number` images, from 0."""
        return np.arange(number) // self.segments

    def copies(self, box: int, pixel_size_A: float) -> int:
        """How many subunits run through the images: an odd number."""
        return 2 * int(LENGTH * box * pixel_size_A / self.rise_A / 2) + 1


def field_box(box: int) -> int:
    """Pixels along the edge of the field from which images of `box` pixels are cut: even, and as the box is about its centre."""
    return box + 2 * int(np.ceil((FIELD - 1) * box / 2))


def cut_out(images: np.ndarray, box: int) -> np.ndarray:
    """The middle of images (..., f, f), or of volumes (f, f, f): pixel f // 2 becomes box // 2."""
    field = images.shape[-1]
    first = field // 2 - box // 2
    part = slice(first, first + box)
    return np.ascontiguousarray(images[part, part, part] if images.shape[0] == field and images.ndim == 3 else images[..., part, part])


def segment_poses(design: FilamentDesign, number: int, across_A: float, seed: int, stream: str) -> tuple[np.ndarray, np.ndarray]:
    """Rotations (n, 4) and shifts (n, 2) of the segments, which lie up to across_A beside the axis."""
    filament = design.of_image(number).astype(np.uint64)
    rot, psi, first = (uniform(seed, filament, f"{stream}/filament {what}") for what in ("rot", "psi", "start"))
    tilt = np.pi / 2 + design.tilt_sd_rad * normal(seed, filament, f"{stream}/filament tilt")
    along_A = design.rise_A * first + design.step_A * (np.arange(number) % design.segments)
    copies = np.rint(along_A / design.rise_A)
    rotation = Rotation.from_euler("ZYZ", np.stack([2 * np.pi * rot - copies * design.twist_rad, tilt, 2 * np.pi * psi], axis=1))
    axis = rotation.as_matrix()[:, 2, :2]
    beside = np.stack([-axis[:, 1], axis[:, 0]], axis=1) / np.linalg.norm(axis, axis=1, keepdims=True)
    away_A = across_A * (2 * uniform(seed, np.arange(number, dtype=np.uint64), f"{stream}/beside") - 1)
    return rotation.as_quat(), (along_A - copies * design.rise_A)[:, None] * axis + away_A[:, None] * beside


def filament_columns(design: FilamentDesign, rotation: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Columns of a STAR file: micrograph, filament, length along it, and priors as picking leaves them, a polarity drawn for each
    filament."""
    number = len(rotation)
    filament = design.of_image(number)
    _, tilt, psi = Rotation.from_quat(rotation).as_euler("ZYZ", degrees=True).T
    keys = np.stack([combine(np.arange(number, dtype=np.uint64), axis) for axis in range(2)], axis=1)
    error = np.rad2deg(design.prior_sd_rad) * normal(seed, keys, "simulate/priors")
    turned = uniform(seed, filament.astype(np.uint64), "simulate/polarity") < 0.5
    tilt_prior = np.where(turned, 180 - tilt, tilt) + error[:, 0]
    psi_prior = np.mod(np.where(turned, psi + 180, psi) + error[:, 1] + 180, 360) - 180
    return {"rlnMicrographName": np.array([f"micrograph_{n // FILAMENTS_PER_MICROGRAPH + 1:05d}.mrc" for n in filament.tolist()], object),
            "rlnHelicalTubeID": filament % FILAMENTS_PER_MICROGRAPH + 1,
            "rlnHelicalTrackLengthAngst": design.step_A * (np.arange(number) % design.segments),
            "rlnAngleTiltPrior": tilt_prior, "rlnAnglePsiPrior": psi_prior}
