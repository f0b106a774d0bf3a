"""The volumes of all classes while they are found: running sums of slices, and the map that they give.

(1) S <- (1 - g) S + s: sums of numerator and weight with those of a batch, g = max(gain, 1 / steps so far)     (online EM: Cappé and
    Moulines 2009)
(2) V = numerator / (weight + mean weight of the shell / SSNR)                                            (wiener.py, eq. 1, one SSNR)

No half maps say what the SSNR is, and halves that are aligned to one reference would overstate it: it is SSNR throughout, up to the radius
of the step, which is what keeps noise out. Then the map is centred, cut to a sphere and made non-negative. All of it is done where the
sums lie, on the host or on a device; the prior stays on the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from protomer.engine.maximisation import Sums, regularised, solid_sphere
from protomer.refinement.setup import MASK_FRACTION
from protomer_kernels.fourier import low_pass, shift_volume
from protomer_kernels.insertion import volume_radius
from protomer_kernels.libraries import HOST, Library, library_of

SSNR = 5.0
COARSE_GAIN, FINE_GAIN = 0.3, 0.6  # the map goes this far to what EM would give: 0.1 needs three times the steps
EDGE_SHELLS = 2.0
MOST_CENTRING = 0.04  # of the box, in one step


@dataclass(frozen=True)
class Structures:
    """maps (K, b, b, b) float32; numerator (K, n, n, r + 1) complex64 and weight, float32, of eq. (1); steps: how many these hold;
    prior (K,) of the classes."""

    maps: np.ndarray
    numerator: np.ndarray
    weight: np.ndarray
    steps: int
    prior: np.ndarray

    @classmethod
    def nothing(cls, classes: int, box: int, radius: int, library: Library = HOST) -> Structures:
        """Before the first images: maps of zeros, and sums that serve slices up to `radius`."""
        r = volume_radius(radius)
        shape = (classes, 2 * r + 1, 2 * r + 1, r + 1)
        zeros = library.arrays.zeros
        maps = zeros((classes, box, box, box), np.float32)
        return cls(maps, zeros(shape, np.complex64), zeros(shape, np.float32), 0, np.full(classes, 1.0 / classes))

    def emptied(self, radius: int) -> Structures:
        """The same maps and prior, with sums that serve another radius."""
        fresh = Structures.nothing(len(self.maps), self.maps.shape[1], radius, library_of(self.maps))
        return replace(fresh, maps=self.maps, prior=self.prior)

    def added(self, batch: Sequence[Sums], gain: float) -> Structures:
        """Eq. (1)."""
        g = np.float32(max(gain, 1.0 / (self.steps + 1)))
        numerator = self.numerator * (1 - g) + np.stack([sums.numerator for sums in batch])
        weight = self.weight * (1 - g) + np.stack([sums.weight for sums in batch])
        return replace(self, numerator=numerator, weight=weight, steps=self.steps + 1)

    def sums(self, k: int) -> Sums:
        """Of one class; a copy, since solving uses it up."""
        return Sums(self.numerator[k].copy(), self.weight[k])


@dataclass(frozen=True)
class Shaping:
    """What a solved map is put through: operators (g, 3, 3) of the point group, centring, non-negativity, threads."""

    operators: np.ndarray
    centre: bool
    non_negative: bool
    threads: int

    def solved(self, sums: Sums, box: int, shells: int, radius: int) -> np.ndarray:
        """Eq. (2), low-passed at a radius, and shaped: (box, box, box) float32."""
        volume = low_pass(solved(sums, box, shells, self.threads), radius + 0.5, EDGE_SHELLS)
        sphere = solid_sphere(box, MASK_FRACTION, library=library_of(volume))
        if self.centre:
            volume = shift_volume(volume, -offset_px(volume * sphere, self.operators))
        volume = volume * sphere
        return (np.maximum(volume, np.float32(0.0)) if self.non_negative else volume).astype(np.float32, copy=False)


def solved(sums: Sums, box: int, shells: int, threads: int) -> np.ndarray:
    """Eq. (2). A class that no image shows has a map of zeros."""
    if float(sums.weight.max()) <= 0.0:
        nothing: np.ndarray = library_of(sums.weight).arrays.zeros((box,) * 3, np.float32)
        return nothing
    return regularised(sums, np.full(shells, SSNR), box, threads)


def offset_px(volume: np.ndarray, operators: np.ndarray) -> np.ndarray:
    """Where the centre of mass of the positive density lies (x, y, z), as far as the group leaves it free and one step may move it."""
    density = np.maximum(volume, np.float32(0.0)).astype(np.float64)
    axis, total = library_of(volume).arrays.arange(len(volume)) - len(volume) // 2, float(density.sum())
    if total <= 0.0:
        return np.zeros(3)
    centre = np.array([float((density.sum(axis=others) * axis).sum()) for others in ((0, 1), (0, 2), (1, 2))]) / total
    free, most = operators.mean(axis=0) @ centre, MOST_CENTRING * len(volume)
    return np.asarray(free * min(1.0, most / max(float(np.linalg.norm(free)), 1e-12)))
