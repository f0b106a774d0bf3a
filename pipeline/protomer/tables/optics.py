"""What the images of one optics group share, aberrations among it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from protomer.errors import InputError
from protomer_kernels.aberrations import is_whole

LEAST_STRETCH, MOST_STRETCH = 0.8, 1.25  # singular values of a magnification that a microscope may have


@dataclass(frozen=True)
class OpticsGroup:
    """What the images of one optics group share. `box` and `pixel_size_A` are those of the prepared (binned) images.

    Aberrations are those of protomer_kernels/aberrations.py: odd and even Zernike coefficients (radians, frequency in 1/angstrom, in
    RELION's order), and the matrix that takes an image's frequencies to those of the undistorted image, row by row. Raises InputError
    where they cannot be meant so.
    """

    name: str
    voltage_V: float
    spherical_aberration_A: float
    amplitude_contrast: float
    pixel_size_A: float
    box: int
    beam_tilt_rad: tuple[float, float] = (0.0, 0.0)
    odd_zernike: tuple[float, ...] = ()
    even_zernike: tuple[float, ...] = ()
    magnification: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 1.0)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require_usable(self)


def describe(group: OpticsGroup) -> str:
    """An optics group's aberrations in a few words, in a microscope's units."""
    words = []
    if any(group.beam_tilt_rad):
        words.append("tilt {:.3g}, {:.3g} mrad".format(*(1e3 * tilt for tilt in group.beam_tilt_rad)))
    for label, values in (("odd", group.odd_zernike), ("even", group.even_zernike)):
        if any(values):
            words.append(f"{np.count_nonzero(values)} {label} Zernike terms")
    stretches = np.linalg.svd(np.reshape(group.magnification, (2, 2)), compute_uv=False)
    if np.any(np.abs(stretches - 1.0) > 1e-9):
        words.append("frequencies stretched by {:+.2f} and {:+.2f} %".format(*(100.0 * (stretches - 1.0))))
    return "; ".join(words) or "none"


def _require_usable(group: OpticsGroup) -> None:
    """Raise InputError where an optics group's aberrations cannot be meant so."""
    for label, values, is_odd in (("odd", group.odd_zernike, True), ("even", group.even_zernike, False)):
        if not is_whole(len(values), is_odd):
            whole = "0, 2, 6, 12 or 20" if is_odd else "0, 1, 4, 9 or 16"
            raise InputError(f"optics group {group.name} has {len(values)} {label} Zernike coefficients",
                             f"all coefficients up to some order: {whole} of them",
                             "repair the list, filling up with zeros, or leave the column out")
    numbers = (*group.odd_zernike, *group.even_zernike, *group.beam_tilt_rad, *group.magnification)
    if not np.all(np.isfinite(numbers)):
        raise InputError(f"optics group {group.name} has aberrations that are no finite numbers", "finite numbers",
                         "repair them in the optics table, or leave the columns out")
    stretches = np.linalg.svd(np.reshape(group.magnification, (2, 2)), compute_uv=False)
    if not LEAST_STRETCH <= stretches[1] <= stretches[0] <= MOST_STRETCH:
        listed = ", ".join(f"{v:g}" for v in group.magnification)
        raise InputError(f"optics group {group.name} has the magnification matrix {listed}, which stretches by {stretches[1]:.3g} to "
                         f"{stretches[0]:.3g}", f"a matrix near 1, 0, 0, 1, with stretches between {LEAST_STRETCH} and {MOST_STRETCH}",
                         "repair it: zeros often mean what is to be added to 1, 0, 0, 1; leave the columns out where there is none")
