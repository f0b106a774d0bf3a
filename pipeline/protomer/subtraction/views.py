"""Particles' views of a map, as their images show them, and the images themselves as they are refined."""

from __future__ import annotations

import numpy as np

from protomer.formats.mrc import StackReader
from protomer.imaging.aberrations import odd_correction, usable_radius
from protomer.imaging.images import contrast_transfer, read_images
from protomer.tables.particles import Particles
from protomer_kernels.fourier import crop_images
from protomer_kernels.half_plane import HalfPlane
from protomer_kernels.rotations import matrices_from_quaternions
from protomer_kernels.seen_views import seen_coefficients
from protomer_kernels.slices import extract_slices


def usable_length(particles: Particles, plane: HalfPlane, radius: int) -> int:
    """How many coefficients of the particles' images a Fourier volume for `radius` serves."""
    return plane.prefix(usable_radius(particles, radius))


class Views:
    """Views of some particles: rotations, shifts, CTFs with all aberrations and grey scales are found once, for several maps.

    length: how many coefficients (usable_length). posed_as: rows whose poses are taken instead of the particles' own.
    """

    def __init__(self, particles: Particles, rows: np.ndarray, plane: HalfPlane, length: int, posed_as: np.ndarray | None = None) -> None:
        self._plane, self.length = plane, length
        self._optics, self._groups = particles.at("optics", rows), particles.optics_groups
        pixel_A, poses = self._groups[int(self._optics[0])].pixel_size_A, rows if posed_as is None else posed_as
        transfer = contrast_transfer(particles, rows, plane, length, pixel_A)
        rotations = matrices_from_quaternions(particles.at("rotation", poses))
        if transfer.magnification is not None:
            rotations[:, :, :2] = rotations[:, :, :2] @ transfer.magnification
        self._rotations, self._amplitude = rotations.astype(np.float32), transfer.values
        self._shift_px = particles.at("shift_A", poses) / pixel_A

    def of(self, volume_ft: np.ndarray) -> np.ndarray:
        """Coefficients (n, length) complex64 of the images that show a map (transform_volume), phases of odd aberrations among them."""
        kx, ky, box = self._plane.arrays(self.length)
        slices = np.empty((len(self._rotations), 2, self.length), np.float32)
        extract_slices(volume_ft, self._rotations, kx, ky, slices)
        out = np.empty((len(slices), self.length, 2), np.float32)
        seen_coefficients(slices, self._shift_px, self._amplitude, (kx, ky, box), out)
        seen = out.view(np.complex64)[..., 0]
        for group in np.unique(self._optics):
            correction = odd_correction(self._groups[group], self._plane)
            if correction is not None:
                seen[self._optics == group] *= correction[: self.length].conj()
        return seen


def refined_images(particles: Particles, rows: np.ndarray, box: int, readers: dict[int, StackReader]) -> np.ndarray:
    """Images (n, box, box) float32 as they are refined: normalised and binned, with their noise and aberrations. Copies of one picture are
    read once."""
    _, first, back = np.unique(particles.pictures(rows), return_index=True, return_inverse=True)
    images = read_images(particles, rows[first], readers)
    return (images if images.shape[-1] == box else crop_images(images, box))[back.reshape(-1)]
