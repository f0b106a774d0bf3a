"""Half maps as images are compared with them: in a mask, and filtered place by place as far as the two agree there.

What a half map has of noise is compared with an image like the rest of it, and blurs what can be told of a CTF. So nothing is left of it
beyond the mask, and within it a Wiener filter with local signal (maps/local_wiener.py) leaves of each band what it has of signal.
Such weights may reach beyond the shell where the FSC of whole maps ends, and what is there tells defocus best.

Of a filtered half map V' of the mask's part V of it, the other half having noise of its own,

(1) kept(s) = sum_s Re(V'_a* V_b + V'_b* V_a) / 2 sum_s Re(V_a* V_b): the share of the signal that is left in a shell
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft

from protomer.declarations.ctf_refine import CtfRefineSettings
from protomer.errors import InputError
from protomer.imaging.images import common_frame
from protomer.maps.fsc_curves import FscSet
from protomer.maps.local_wiener import find_gains
from protomer.maps.mask_rule import support_by_rule
from protomer.maps.non_uniform import NonUniform
from protomer.maps.resolution import SPHERE_EDGE, SPHERE_RADIUS, measure_fsc
from protomer.maps.volumes import Halves, Volume
from protomer.tables.particles import Particles
from protomer_kernels.fourier import apply_shell_filter
from protomer_kernels.masks import sphere_mask
from protomer_kernels.shells import shell_cross_sums

FEWEST_SHELLS = 5
BEYOND = 1.15  # of the shell at which the FSC of whole maps falls below 0.143: so far the best places may reach
LEAST_KEPT = 0.05  # of a shell
HOW = NonUniform(window_factor=3.0, order=8)  # as refinements have it by default


@dataclass(frozen=True)
class Given:
    """What CTFs are refined with: half maps as images are compared with them, what each shell (shells,) kept of its signal, where the FSC
    of the half maps ends (A), and the finest resolution used (A)."""

    particles: Particles
    half_maps: Halves[Volume]
    kept: np.ndarray
    resolution_A: float
    finest_A: float


def in_mask(half_maps: Halves[Volume], mask: Volume | None, name: str) -> tuple[Volume, FscSet]:
    """The mask, or where none is given that of all density by rule, and the FSC in it."""
    if mask is None:
        made = support_by_rule(half_maps)
        mask, name = made.mask, made.name
    return mask, measure_fsc(half_maps, mask, name)


def prepared(particles: Particles, half_maps: Halves[Volume], mask: Volume, fsc: FscSet, settings: CtfRefineSettings) -> Given:
    """Half maps as the truth is expected from them, down to the finest resolution used. Raises InputError where too few shells are left."""
    box, pixel_A = common_frame(particles)
    resolution_A = fsc.resolution_A_at("corrected")
    finest_A = settings.max_resolution or resolution_A / BEYOND
    if not has_shells(box * pixel_A, settings.min_resolution, settings.max_resolution or resolution_A):
        raise InputError(f"resolutions from {settings.min_resolution:g} to {settings.max_resolution or resolution_A:.4g} Å",
                         f"at least {FEWEST_SHELLS} shells between them", "better half maps; or set min_resolution and max_resolution")
    finest_A = max(finest_A, 2.0 * pixel_A)
    shells = box * pixel_A / settings.min_resolution, min(box * pixel_A / finest_A, box / 2)
    filtered, kept = locally_filtered(half_maps, mask.data, shells)
    return Given(particles, filtered, kept, resolution_A, finest_A)


def has_shells(width_A: float, coarsest_A: float, finest_A: float) -> bool:
    """Whether enough shells lie between two resolutions."""
    return width_A / coarsest_A + FEWEST_SHELLS <= width_A / finest_A


def locally_filtered(half_maps: Halves[Volume], mask: np.ndarray, shells: tuple[float, float]) -> tuple[Halves[Volume], np.ndarray]:
    """Half maps in a mask (D, D, D), filtered from the one to the other of two shells, and eq. (1) (D // 2 + 1,)."""
    box, data = half_maps.a.box, half_maps.map(lambda half: half.data)
    sphere = sphere_mask(box, SPHERE_RADIUS * box, SPHERE_EDGE * box)
    gains = find_gains(data, sphere, shells[1], HOW, shells[0])
    weight = np.interp(np.arange(box // 2 + 1), gains.shells, gains.best)
    masked = data.map(lambda half: half * mask)
    filtered = masked.map(lambda half: gains.apply(apply_shell_filter(half, weight)))
    a, b, own_a, own_b = (scipy.fft.rfftn(half) for half in (*masked, *filtered))
    cross = 2.0 * shell_cross_sums(a, b)[:, 0]
    left = shell_cross_sums(own_a, b)[:, 0] + shell_cross_sums(own_b, a)[:, 0]
    kept = np.divide(left, cross, out=np.zeros_like(cross), where=cross > 0)
    return filtered.map(lambda half: Volume(half, half_maps.a.voxel_size_A)), np.clip(kept, LEAST_KEPT, 1.0)
