"""Batches of images as two half-curves on the Ewald sphere (formulas: protomer_kernels/ewald.py)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from protomer.imaging.aberrations import OUTER_MARGIN, magnification_of, usable_radius
from protomer.imaging.images import Whitened, contrast_transfer
from protomer.tables.particles import Particles
from protomer_kernels.ewald import half_curves, height_form, heights, overlap
from protomer_kernels.half_plane import HalfPlane

USUAL_DIAMETER = 2.0 / 3.0  # of a particle, in boxes
QUARTER_TURN = 0.5 * np.pi


@dataclass(frozen=True)
class Ewald:
    """How the curvature of the Ewald sphere is taken into account. sign: h of eq. (1), +1 or -1; diameter: of the particle, in boxes."""

    sign: int
    diameter: float = USUAL_DIAMETER

    def __post_init__(self) -> None:
        if self.sign not in (-1, 1) or not 0 < self.diameter <= 1:
            raise ValueError(f"expected a sign of +1 or -1 and a diameter of up to 1 box, found {self.sign} and {self.diameter}")


def ewald_whiten(
    crops: np.ndarray, particles: Particles, rows: np.ndarray, plane: HalfPlane, pixel_size_A: float, root_weight: np.ndarray, ewald: Ewald
) -> tuple[Whitened, Whitened]:
    """The half-curves at +e and -e of a batch, ready for insertion.

    crops (n, >= K) complex64, root_weight (n, K) float32 = sqrt(m) / sigma, as for images.whiten.
    """
    length = root_weight.shape[1]
    in_phase = contrast_transfer(particles, rows, plane, length, pixel_size_A)
    quadrature = contrast_transfer(particles, rows, plane, length, pixel_size_A, retarded_rad=QUARTER_TURN)
    form = forms_of(particles, rows, plane.box * pixel_size_A, ewald.sign)
    correlated = overlap(heights(form, plane.kx[:length], plane.ky[:length]), ewald.diameter)
    factor, amplitude = half_curves(in_phase.values, quadrature.values, correlated)
    scaled, amplitude = crops[:, :length] * root_weight, amplitude * root_weight
    curves = []
    for data, curvature in ((scaled * factor, form), (scaled * np.conj(factor), -form)):
        pair = np.stack([data.real, data.imag], axis=1).astype(np.float32, copy=False)
        curves.append(Whitened(pair, amplitude, in_phase.magnification, curvature.astype(np.float32)))
    return curves[0], curves[1]


def forms_of(particles: Particles, rows: np.ndarray, width_A: float, sign: int) -> np.ndarray:
    """Heights of images as quadratic forms (n, 3) of their frequencies."""
    group = particles.optics[rows]
    voltage_V = np.array([g.voltage_V for g in particles.optics_groups])[group]
    return height_form(sign, voltage_V, width_A, magnification_of(particles.optics_groups, group))


def curved_radius(particles: Particles, radius: int, width_A: float) -> int:
    """As usable_radius, for points that lie above or below the plane too."""
    groups = [particles.optics_groups[g] for g in np.unique(particles.optics)]
    stretch = max(float(np.linalg.norm(np.reshape(g.magnification, (2, 2)), 2)) for g in groups)
    lowest_V = min(g.voltage_V for g in groups)
    usable = usable_radius(particles, radius)
    while usable > 1:
        farthest = usable * stretch
        highest = float(height_form(1, np.array([lowest_V]), width_A)[0, 0]) * farthest**2
        if np.hypot(farthest, highest) <= radius + OUTER_MARGIN:
            break
        usable -= 1
    return usable
