"""Pictures of phase errors over the Fourier plane: what images say, and what was fitted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter

from protomer.report.drawing import INK, new_figure, styled
from protomer_kernels.half_plane import HalfPlane

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMOOTHED_PX = 1.5


@styled
def phase_figure(sums: np.ndarray, odd: np.ndarray, plane: HalfPlane, pixel_size_A: float) -> Figure:
    """Odd phases (radians) from sums (K, 6) of ctf_fit.py, smoothed, and those that were found (K,); over the whole plane."""
    figure, panels = new_figure(columns=2, width_in=8.0, height_in=3.8)
    length, limit = len(sums), float(np.hypot(plane.kx[: len(sums)], plane.ky[: len(sums)]).max())
    cross = np.zeros((2 * int(limit) + 1,) * 2, complex)
    fit, there = np.zeros(cross.shape), np.zeros(cross.shape, bool)
    x, y = (np.asarray(axis[:length], int) for axis in (plane.kx, plane.ky))
    middle = int(limit)
    for sign in (1, -1):
        at = middle + sign * y, middle + sign * x
        cross[at], fit[at], there[at] = sums[:, 0] + 1j * sign * sums[:, 5], sign * odd, True
    measured = np.angle(gaussian_filter(cross.real, SMOOTHED_PX) + 1j * gaussian_filter(cross.imag, SMOOTHED_PX))
    widest = middle / (plane.box * pixel_size_A)
    most = max(float(np.abs(fit).max()), 0.5)
    for panel, values, title in ((panels[0], measured, "what the images say"), (panels[1], fit, "fitted")):
        shown = panel.imshow(np.where(there, values, np.nan), origin="lower", cmap="RdBu", vmin=-most, vmax=most, interpolation="nearest",
                             extent=(-widest, widest, -widest, widest))
        panel.set(title=title, xlabel="1/Å", ylabel="1/Å")
        panel.grid(False)
    bar = figure.colorbar(shown, ax=panels, shrink=0.85, pad=0.02)
    bar.set_label("phase (radians)", color=INK)
    bar.ax.tick_params(color=INK, labelcolor=INK)
    return figure
