"""How good a map is in each direction: Fourier shell correlations in cones.

(1) conical FSC: protomer_kernels/cones.py, cones of 20 degrees from axis to side, as Tan et al. (2017), Nature Methods 14, 793, have them
    The sums are taken over three neighbouring shells; where a cone holds too few coefficients, it has the correlation of the whole shell
(2) area of a direction: the sum of its conical FSC from the first shell to where it first falls below 0.143
(3) cFAR, conical FSC area ratio: the least area over the greatest: 1 for a map that is equally good in all directions. The name, the
    definition and 0.5 as the value below which a map is called anisotropic are those of cryoSPARC's orientation diagnostics.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft

from protomer.maps.fsc_curves import first_crossing
from protomer.maps.volumes import Halves, Volume
from protomer.tables.views import even_directions
from protomer_kernels.cones import cone_cross_sums
from protomer_kernels.shells import correlation_from_sums, shell_cross_sums

HALF_ANGLE_DEG = 20.0
DIRECTIONS = 100  # axes of cones over a half sphere: 14 degrees apart
THRESHOLD = 0.143
FEWEST = 24  # coefficients of three shells in a cone, Friedel mates counted, that tell something of its direction


@dataclass(frozen=True)
class DirectionalFsc:
    """directions (n, 3) [x, y, z]; fsc (n, shells) float64, shell 0 first; width_A: edge of the box."""

    directions: np.ndarray
    fsc: np.ndarray
    width_A: float

    @property
    def area(self) -> np.ndarray:
        """Eq. (2), in shells: (n,)."""
        ends = [first_crossing(curve, THRESHOLD) for curve in self.fsc]
        return np.array([np.clip(curve[1:int(np.ceil(end)) + 1], 0, 1).sum() for curve, end in zip(self.fsc, ends, strict=True)])

    @property
    def cfar(self) -> float:
        """Eq. (3); 0 where no direction has any area."""
        area = self.area
        return float(area.min() / area.max()) if area.max() > 0 else 0.0

    @property
    def resolution_A(self) -> np.ndarray:
        """Where each curve falls below 0.143: (n,), infinity where it begins there."""
        shell = np.array([first_crossing(curve, THRESHOLD) for curve in self.fsc])
        return np.divide(self.width_A, shell, out=np.full(len(shell), np.inf), where=shell > 0)


def directional_fsc(half_maps: Halves[Volume], mask: np.ndarray) -> DirectionalFsc:
    """Eq. (1) of two half maps in a mask (D, D, D), to the last shell."""
    box = half_maps.a.box
    axes = even_directions(2 * DIRECTIONS)[:DIRECTIONS]
    spectra = half_maps.map(lambda half: fft.rfftn(half.data * mask))
    sums = over_three_shells(cone_cross_sums(spectra.a, spectra.b, axes, np.deg2rad(HALF_ANGLE_DEG), box // 2))
    whole = correlation_from_sums(over_three_shells(shell_cross_sums(spectra.a, spectra.b)[None]))
    return DirectionalFsc(axes, np.where(sums[..., 3] >= FEWEST, correlation_from_sums(sums[..., :3]), whole),
                          box * half_maps.a.voxel_size_A)


def over_three_shells(sums: np.ndarray) -> np.ndarray:
    """Sums (n, shells, ...) of each shell and its two neighbours; shell 0, the mean of the maps, stays by itself."""
    out = sums.copy()
    out[:, 2:] += sums[:, 1:-1]
    out[:, 1:-1] += sums[:, 2:]
    return out
