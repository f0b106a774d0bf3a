"""Where classes differ: a subunit that is there or not, a domain that moved. Elsewhere a class's own map says only noise about it.

(1) D = u_k - c_k u (consensus.py), each half's own, filtered by tau_k^2 / (tau_k^2 + noise) so that shells count by what they know
(2) p(x) = mean of D_A D_B in a window about x: positive where both halves differ from the consensus in the same way
(3) z(x) = p(x) / sd, sd the spread of the same mean with D_B moved elsewhere, where nothing in it can agree with D_A but by chance
(4) place(x) = 1 where z is beyond SURE, 0 below POSSIBLE, linear between

The halves share the places and nothing else. Where no place is sure, differences are taken to lie anywhere.
"""

from __future__ import annotations

import numpy as np

from protomer.maps.volumes import Halves
from protomer_kernels.fourier import apply_shell_filter
from protomer_kernels.libraries import library_of

POSSIBLE, SURE = 2.0, 4.0
WINDOW = 0.5  # standard deviation of the window of eq. (2), of a period of the mean shell
ANYWHERE = np.ones(1, np.float32)


def differing_places(
    own_ft: Halves[np.ndarray], all_ft: Halves[np.ndarray], share: np.ndarray, ratio: np.ndarray, mask: np.ndarray
) -> np.ndarray:
    """Eq. (4), (D, D, D) float32; (1,) where they are not known. own_ft, all_ft: transforms (rfftn) of a class's half maps and of all
    images'; share, ratio (shells,): c_k and tau_k^2 over the noise; mask (D, D, D)."""
    box, shells = len(mask), len(mask) // 2 + 1
    known = np.resize(ratio / (1.0 + ratio), len(ratio))
    weight = known**2 * np.arange(len(known)) ** 2
    if weight.sum() <= 0.0:
        return ANYWHERE
    mean_shell = float((weight * np.arange(len(known))).sum() / weight.sum())
    difference = Halves(*(_difference(own, of_all, share, known, mask, shells)
                          for own, of_all in ((own_ft.a, all_ft.a), (own_ft.b, all_ft.b))))
    width = WINDOW * box / max(mean_shell, 1.0)
    gaussian_filter = library_of(mask).ndimage.gaussian_filter
    agreement = gaussian_filter(difference.a * difference.b, width, mode="constant")
    elsewhere = [gaussian_filter(difference.a * np.roll(difference.b, box // 3, axis), width, mode="constant") for axis in range(3)]
    spread = float(np.sqrt(np.mean([float(np.mean(chance[mask > 0.5] ** 2)) for chance in elsewhere])))
    z = agreement / max(spread, 1e-30)
    if float(z[mask > 0.5].max()) < SURE:
        return ANYWHERE
    return np.clip((z - POSSIBLE) / (SURE - POSSIBLE), 0.0, 1.0).astype(np.float32)


def _difference(own: np.ndarray, of_all: np.ndarray, share: np.ndarray, known: np.ndarray, mask: np.ndarray, shells: int) -> np.ndarray:
    """Eq. (1) of one half, (D, D, D)."""
    maps = [library_of(transform).fft.irfftn(transform, mask.shape) for transform in (own, of_all)]
    padded = [np.concatenate([curve[:shells], np.zeros(max(shells - len(curve), 0))]) for curve in (known, share * known)]
    return (apply_shell_filter(maps[0], padded[0]) - apply_shell_filter(maps[1], padded[1])) * mask
