"""Pictures of a map about its axis, and of how well it agrees with itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from protomer.maps.volumes import Volume
from protomer.report.drawing import GREY, INK, PALETTE, add_bar, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def axis_figure(before: Volume, after: Volume, fold: int) -> Figure:
    """The map seen along z before and after it was moved, its copy turned by 360 / fold degrees, and the difference of the last two."""
    seen = [volume.data.sum(axis=0, dtype=np.float64) for volume in (before, after)]
    copy = _turned(seen[1], 360.0 / fold)
    figure, axes = new_figure(columns=4, width_in=11.0, height_in=3.1)
    low, high = np.percentile(np.concatenate([plane.ravel() for plane in seen]), (0.5, 99.8))
    pictures = [(seen[0], "before, along z"), (seen[1], "after, along z"), (copy, f"after, turned by {360 / fold:.4g}°"),
                (seen[1] - copy + (low + high) / 2, "difference of the last two")]
    for panel, (plane, title) in zip(axes, pictures, strict=True):
        panel.imshow(plane, cmap="gray", origin="lower", vmin=low, vmax=max(high, low + 1e-12), interpolation="nearest")
        panel.plot([len(plane) // 2], [len(plane) // 2], "+", color=PALETTE[0], markersize=9)
        panel.set_title(title)
        panel.set(xlabel="x", ylabel="y", xticks=[], yticks=[])
        panel.grid(False)
        panel.spines[:].set_visible(False)
    return figure


def _turned(plane: np.ndarray, angle_deg: float) -> np.ndarray:
    """A picture (y, x) turned anticlockwise about pixel D // 2."""
    cosine, sine = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    matrix = np.array([[cosine, -sine], [sine, cosine]])  # of (y, x), from the new picture to the old
    centre = np.full(2, len(plane) // 2, float)
    return np.asarray(ndimage.affine_transform(plane, matrix, centre - matrix @ centre, order=3, mode="nearest"))


@styled
def helix_figure(surface: np.ndarray, step_A: float, marks: Sequence[tuple[float, float]]) -> Figure:
    """Self-correlation (turns, moves) over turns from -180 to 180 degrees and moves; marks: the first copies of a helix."""
    figure, (panel,) = new_figure(width_in=8.5, height_in=4.6)
    turns, moves = surface.shape
    picture = panel.imshow(np.roll(surface, turns // 2, axis=0).T, cmap="viridis", origin="lower", aspect="auto", interpolation="nearest",
                           vmin=min(0.0, float(np.percentile(surface, 1))), vmax=1.0,
                           extent=(-180.0 - 180.0 / turns, 180.0 - 180.0 / turns, -step_A / 2, (moves - 0.5) * step_A))
    for number, (twist_deg, rise_A) in enumerate(marks):
        panel.plot([twist_deg], [rise_A], "o", markerfacecolor="none", markeredgecolor="white", markersize=13 if number == 0 else 8)
    panel.set(xlabel="turn about z (degrees, right-handed positive)", ylabel="move along z (Å)")
    panel.grid(False)
    add_bar(figure, picture, panel, "self-correlation")
    return figure


@styled
def operator_figure(curves: Mapping[str, np.ndarray], extent_A: float, expected: np.ndarray | None, other: str = "the copy") -> Figure:
    """Correlation of the map with its copy under each operator, or with others, shell by shell; `expected`: what the half maps allow."""
    figure, (panel,) = new_figure(height_in=3.4)
    for (name, curve), colour in zip(curves.items(), PALETTE * (1 + len(curves) // len(PALETTE)), strict=False):
        panel.plot(np.arange(1, len(curve)) / extent_A, curve[1:], color=colour, linewidth=1.3, label=name)
    if expected is not None:
        panel.plot(np.arange(1, len(expected)) / extent_A, expected[1:], color=INK, linestyle="--", label="expected from the half maps")
    panel.axhline(0.0, color=GREY, linewidth=0.8)
    panel.set(xlabel="spatial frequency (1/Å)", ylabel=f"Fourier shell correlation with {other}", ylim=(-0.3, 1.03))
    if len(curves) <= 12:
        panel.legend(loc="lower left", ncols=2)
    return figure
