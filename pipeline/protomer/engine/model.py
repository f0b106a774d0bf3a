"""What one E-step compares images with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from protomer.computing.arithmetic import CPU, Arithmetic
from protomer.engine.alignment import IDENTITY, Reference, Search
from protomer.running.batches import Key
from protomer.tables.particles import Particles
from protomer_kernels.fourier import shift_volume
from protomer_kernels.half_plane import HalfPlane
from protomer_kernels.insertion import fixed_point_scale


@dataclass(frozen=True)
class Model:
    """Maps, and how noisy images are: `noise` (groups, shells) is sigma^2 of each shell; maps are of the images' field of view.
    `mates` (m, 3, 3): a group that the maps have only nearly (alignment.Reference)."""

    maps: Mapping[Key, np.ndarray]
    noise: np.ndarray
    operators: np.ndarray
    insertion_radius: int
    mates: np.ndarray = field(default_factory=lambda: IDENTITY)
    origin_px: np.ndarray = field(default_factory=lambda: np.zeros(3))  # where references have their origin, from the box centre

    def reference(self, key: Key, plane: HalfPlane, search: Search, arithmetic: Arithmetic = CPU) -> Reference:
        """The map of a half and fold, to compare images with, its origin in the box centre."""
        volume = self.about_origin(self.maps[key], plane)
        return Reference.prepare(volume, plane, self.insertion_radius, self.operators, search, self.mates, arithmetic)

    def about_origin(self, volume: np.ndarray, plane: HalfPlane) -> np.ndarray:
        """A map of the images' field of view with the origin of references moved to the box centre."""
        return shift_volume(volume, -self.origin_px * len(volume) / plane.box) if self.origin_px.any() else volume

    def root_weight(self, plane: HalfPlane, length: int) -> np.ndarray:
        """sqrt(m) / sigma at the first `length` coefficients: (groups, length) float32."""
        return np.sqrt(plane.multiplicity[:length] / self.noise[:, plane.shell[:length]]).astype(np.float32)


def insertion_scale(largest: np.ndarray, particles: Particles, model: Model) -> float:
    """The fixed-point scale of an iteration, from bounds alone, so that every rank finds the same.

    largest (groups, shells): the largest |X| of any image.
    """
    greatest_scale = float(np.abs(particles.scale).max())
    shells = min(largest.shape[1], model.noise.shape[1])
    terms = 2.0 * np.maximum(greatest_scale * largest[:, :shells], greatest_scale**2) / model.noise[:, :shells]
    return fixed_point_scale(float(terms.max()), len(particles) * len(model.operators))
