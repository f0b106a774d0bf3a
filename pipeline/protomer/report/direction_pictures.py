"""Pictures of what depends on direction: values over the sphere, and Fourier shell correlations in cones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from protomer.maps.directional import THRESHOLD, DirectionalFsc
from protomer.report.drawing import BLUE, GREY, INK, ORANGE, new_figure, styled
from protomer.report.figures import resolution_axis

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS, ROWS = 240, 120


@styled
def sphere_figure(directions: np.ndarray, values: np.ndarray, label: str, limits: tuple[float, float]) -> Figure:
    """Values (n,) of axes (n, 3), the same at both ends, over the sphere in Mollweide's equal-area map; each point has its nearest's."""
    figure, (axes,) = new_figure(width_in=8.0, height_in=3.8)
    up, across = np.meshgrid(np.linspace(-1, 1, ROWS), np.linspace(-2, 2, COLUMNS), indexing="ij")
    inside = (across / 2) ** 2 + up**2 < 1
    t = np.arcsin(up[inside])
    latitude = np.arcsin(np.clip((2 * t + np.sin(2 * t)) / np.pi, -1, 1))
    longitude = np.pi * across[inside] / (2 * np.cos(t))
    points = np.stack([np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], axis=1)
    _, nearest = cKDTree(np.concatenate([directions, -directions])).query(points)
    picture = np.full(inside.shape, np.nan)
    picture[inside] = np.concatenate([values, values])[nearest]
    shown = axes.imshow(picture, origin="lower", extent=(-2, 2, -1, 1), cmap="viridis", vmin=limits[0], vmax=limits[1],
                        interpolation="nearest")
    for text, place in (("+z", (0, 1.06)), ("−z", (0, -1.1)), ("+x", (0, 0)), ("+y", (1, 0))):
        axes.annotate(text, place, ha="center", va="center", fontsize=8.5, color=INK if abs(place[1]) > 1 else "white",
                      annotation_clip=False)
    bar = figure.colorbar(shown, ax=axes, shrink=0.8, pad=0.02)
    bar.set_label(label, color=INK)
    bar.ax.tick_params(color=INK, labelcolor=INK)
    axes.set(xlim=(-2.05, 2.05), ylim=(-1.15, 1.15), aspect="equal")
    axes.axis("off")
    return figure


@styled
def cone_figure(found: DirectionalFsc) -> Figure:
    """The conical FSCs: their range, their mean, the directions of least and greatest area."""
    figure, (axes,) = new_figure(height_in=3.6)
    frequency = np.arange(found.fsc.shape[1]) / found.width_A
    axes.fill_between(frequency, found.fsc.min(axis=0), found.fsc.max(axis=0), color=GREY, alpha=0.3, linewidth=0, label="all directions")
    area = found.area
    best, worst = found.fsc[np.argmax(area)], found.fsc[np.argmin(area)]
    for curve, name, colour in ((best, "best direction", BLUE), (worst, "worst direction", ORANGE), (found.fsc.mean(axis=0), "mean", INK)):
        axes.plot(frequency, curve, color=colour, label=name)
    axes.axhline(THRESHOLD, color=INK, linewidth=0.8, linestyle=":")
    axes.set(xlim=(0, frequency[-1]), ylim=(-0.2, 1.03), xlabel="spatial frequency (1/Å)", ylabel="conical FSC")
    axes.legend()
    resolution_axis(axes, float(frequency[-1]))
    return figure
