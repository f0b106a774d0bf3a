"""The half plane of Fourier coefficients of an image, sorted by rings of |k|, so that a lower resolution is a prefix of every array.

A real image of `box` pixels is stored as its unitary Fourier transform about pixel box // 2,

    X(k) = 1/box sum_r x(r) exp(-2 pi i k.(r - box//2) / box),                                                            (1)

on the K integer points k = (kx, ky), |k| <= radius, with kx > 0, or kx = 0 and ky >= 0; the others follow from X(-k) = conj X(k).
Rings r - 1 < |k| <= r follow one another; within a ring the points go round by angle, so that neighbours in memory are neighbours in
the plane and in any slice of a volume (which keeps the volume's cells in cache).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.fft


@dataclass(frozen=True)
class HalfPlane:
    """Integer Fourier coordinates (cycles per box) up to `radius`, ring by ring; index 0 is the origin."""

    box: int
    radius: int

    def __post_init__(self) -> None:
        if not 1 <= self.radius <= largest_radius(self.box):
            raise ValueError(f"radius {self.radius} is outside 1..{largest_radius(self.box)} for a box of {self.box}")

    @cached_property
    def coordinates(self) -> np.ndarray:
        """(K, 2) int32: kx, ky."""
        kx, ky = np.meshgrid(np.arange(self.radius + 1), np.arange(-self.radius, self.radius + 1))
        keep = (kx * kx + ky * ky <= self.radius**2) & ((kx > 0) | (ky >= 0))
        kx, ky = kx[keep], ky[keep]
        ring = np.ceil(np.sqrt(kx * kx + ky * ky))
        order = np.lexsort((np.arctan2(ky, kx), ring))
        return np.stack([kx[order], ky[order]], axis=1).astype(np.int32)

    @cached_property
    def kx(self) -> np.ndarray:
        """(K,) float32."""
        return np.ascontiguousarray(self.coordinates[:, 0], np.float32)

    @cached_property
    def ky(self) -> np.ndarray:
        """(K,) float32."""
        return np.ascontiguousarray(self.coordinates[:, 1], np.float32)

    @cached_property
    def shell(self) -> np.ndarray:
        """(K,) int32: |k| rounded to the nearest integer."""
        return np.rint(np.sqrt((self.coordinates.astype(np.float64) ** 2).sum(1))).astype(np.int32)

    @cached_property
    def multiplicity(self) -> np.ndarray:
        """(K,) float32: how many coefficients of the whole plane each one stands for (1 at the origin, 2 elsewhere)."""
        twice = np.full(len(self.kx), 2.0, np.float32)
        twice[0] = 1.0
        return twice

    def prefix(self, radius: int) -> int:
        """How many coefficients have |k| <= radius; they are the first ones."""
        return int(np.count_nonzero((self.coordinates.astype(np.int64) ** 2).sum(1) <= int(radius) ** 2))

    def arrays(self, length: int) -> tuple[np.ndarray, np.ndarray, int]:
        """kx and ky of the first `length` coefficients, and the box, as kernels take them."""
        return self.kx[:length], self.ky[:length], self.box

    def __len__(self) -> int:
        return len(self.coordinates)


def largest_radius(box: int) -> int:
    """The largest radius whose coefficients all lie strictly inside Nyquist."""
    return (box - 1) // 2


def transform_images(images: np.ndarray, plane: HalfPlane, workers: int = 1) -> np.ndarray:
    """Images (n, D, D) of any box D >= plane.box to coefficients (n, K) complex64, eq. (1) for a crop to plane.box.

    A larger D is a Fourier crop that keeps grey values: the coefficients are scaled by plane.box / D on top of the unitary 1/D.
    """
    size = images.shape[-1]
    spectrum = scipy.fft.rfft2(scipy.fft.ifftshift(images, axes=(1, 2)), workers=workers)
    kx, ky = plane.coordinates[:, 0], plane.coordinates[:, 1]
    return (spectrum[:, ky % size, kx] * np.float32(plane.box / size**2)).astype(np.complex64, copy=False)
