"""How good a map is: Fourier shell correlations between half maps that never met, and the resolutions they support.

(1) FSC: protomer_kernels.shells. Thresholds 0.143 (half maps) and 0.5: Rosenthal & Henderson (2003), J. Mol. Biol. 333, 721.
(2) corrected = (masked - randomised) / (1 - randomised): Chen et al. (2013), Ultramicroscopy 135, 24. `randomised` is the masked FSC
    after the phases of both half maps were randomised from the first shell whose unmasked FSC is below 0.8, as RELION does; the two
    shells from there on, into which the mask leaks true signal, keep the masked value. Values below zero are kept: they are what noise
    about zero looks like.
(3) SSNR of a half map = FSC / (1 - FSC); correlation of the sum of both halves with the truth = sqrt(2 FSC / (1 + FSC)) (Rosenthal
    & Henderson).
"""

from __future__ import annotations

import numpy as np

from protomer.errors import InputError
from protomer.maps.fsc_curves import FscSet
from protomer.maps.volumes import Halves, Volume
from protomer.randomness import generator
from protomer_kernels import masks
from protomer_kernels.fourier import phase_randomise
from protomer_kernels.shells import fourier_shell_correlation

RANDOMISE_BELOW = 0.8  # unmasked FSC below which phases are randomised
LEAK_SHELLS = 2  # shells from there on that keep the masked value
SPHERE_RADIUS, SPHERE_EDGE = 0.45, 0.05  # of the box: the spherical mask touches the faces of the box with its last zero


def shell_resolution_A(box: int, voxel_size_A: float) -> np.ndarray:
    """Resolution of each shell 0 .. box // 2, infinity first: (box // 2 + 1,) float64, angstrom."""
    shell = np.arange(box // 2 + 1, dtype=np.float64)
    return np.divide(box * voxel_size_A, shell, out=np.full_like(shell, np.inf), where=shell > 0)


def corrected_fsc(masked: np.ndarray, randomised: np.ndarray, randomised_from_shell: int) -> np.ndarray:
    """Equation (2) from LEAK_SHELLS past the shell from which phases were randomised."""
    spare = np.maximum(1 - randomised, 1e-6)
    corrected = (masked - randomised) / spare
    corrected[: randomised_from_shell + LEAK_SHELLS] = masked[: randomised_from_shell + LEAK_SHELLS]
    return corrected


def first_random_shell(unmasked: np.ndarray) -> int:
    """The first shell (from 1) whose unmasked FSC is below 0.8; the number of shells if there is none."""
    below = np.flatnonzero(unmasked[1:] < RANDOMISE_BELOW)
    return int(below[0]) + 1 if len(below) else len(unmasked)


def measure_fsc(half_maps: Halves[Volume], mask: Volume | None, mask_name: str, seed: int = 0) -> FscSet:
    """All curves between two half maps. Without a mask the soft sphere that touches the box takes its place, and the name says so.

    Raises InputError where box or voxel size of half maps and mask differ.
    """
    box, voxel_size_A = half_maps.a.box, half_maps.a.voxel_size_A
    _require_same_frame(half_maps, mask)
    sphere = masks.sphere_mask(box, SPHERE_RADIUS * box, SPHERE_EDGE * box)
    if mask is None:
        mask_name = f"soft sphere of radius {SPHERE_RADIUS:g} box (no mask was given)"
    window = sphere if mask is None else mask.data
    a, b = half_maps.a.data, half_maps.b.data
    unmasked = fourier_shell_correlation(a, b)
    spherical = fourier_shell_correlation(a * sphere, b * sphere)
    masked = spherical.copy() if mask is None else fourier_shell_correlation(a * window, b * window)
    from_shell = first_random_shell(unmasked)
    randomised = masked.copy()
    if from_shell <= box // 2:
        random_a, random_b = (phase_randomise(half, from_shell, generator(seed, which, "phase randomisation"))
                              for which, half in enumerate((a, b)))
        randomised = fourier_shell_correlation(random_a * window, random_b * window)
    return FscSet(np.arange(box // 2 + 1), shell_resolution_A(box, voxel_size_A), unmasked, spherical, masked, randomised,
                  corrected_fsc(masked, randomised, from_shell), mask_name, from_shell, box, voxel_size_A)


def _require_same_frame(half_maps: Halves[Volume], mask: Volume | None) -> None:
    """Raise InputError where half maps and mask do not lie on one grid (voxel sizes may differ by 1 in 1,000)."""
    first = half_maps.a
    for name, other in (("half map B", half_maps.b), ("the FSC mask", mask)):
        if other is not None and (other.box != first.box or abs(other.voxel_size_A / first.voxel_size_A - 1) > 1e-3):
            raise InputError(f"{name} has box {other.box} at {other.voxel_size_A:.4g} Å per voxel",
                             f"box {first.box} at {first.voxel_size_A:.4g} Å, as half map A",
                             "resample it, or give the file that belongs to these half maps")


def ssnr(fsc: np.ndarray) -> np.ndarray:
    """Spectral signal-to-noise ratio of one half map, equation (3); FSC is clipped to 0 .. 0.999."""
    clipped = np.clip(fsc, 0, 0.999)
    return clipped / (1 - clipped)


def combined_map_correlation(fsc: np.ndarray) -> np.ndarray:
    """Correlation of the sum of both half maps with the truth, equation (3), 0 where the FSC is negative: the FSC weight of a map."""
    positive = np.clip(fsc, 0, 1)
    return np.sqrt(2 * positive / (1 + positive))
