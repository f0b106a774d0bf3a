"""Pictures of a map's surface, shaded and coloured by another map, and histograms of what the colours mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from protomer.maps.volumes import Volume
from protomer.report.drawing import BLUE, INK, RED, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VIEWS = (("z", 0), ("y", 1), ("x", 2))
AMBIENT = 0.35  # of the light falls on surfaces that face away
MOST_PIXELS = 200  # along an edge of a picture
MARGIN = 2  # of these around what is seen
UNKNOWN = (0.6, 0.6, 0.6)
COLOURS = "viridis_r"


@styled
def surface_figure(volume: Volume, level: float, values: Volume, is_known: np.ndarray, limits: tuple[float, float], label: str) -> Figure:
    """The surface of a map at a level, seen from the upper end of each axis, coloured by `values`; grey where is_known is False."""
    from matplotlib import colormaps
    from matplotlib.colors import Normalize
    figure, panels = new_figure(columns=3, width_in=9.6, height_in=3.5)
    step = -(-volume.box // MOST_PIXELS)
    density_of_all = volume.data[::step, ::step, ::step]
    slope = np.gradient(density_of_all)
    steepness = np.sqrt(sum(part * part for part in slope))
    scale, colours = Normalize(*limits), colormaps[COLOURS]
    dense = np.argwhere(density_of_all >= level)
    low, high = (int(dense.min()) - MARGIN, int(dense.max()) + MARGIN) if len(dense) else (0, len(density_of_all) - 1)
    for panel, (name, axis) in zip(panels, VIEWS, strict=True):
        density, colour, known, towards, steep = (np.moveaxis(array, axis, 0)[::-1] for array in (
            density_of_all, values.data[::step, ::step, ::step], is_known[::step, ::step, ::step], slope[axis], steepness))
        depth, hit = first_at_level(density, level)
        rows, columns = np.indices(hit.shape)
        at = np.clip(np.rint(depth), 0, len(density) - 1).astype(int)
        here = at, rows, columns
        light = AMBIENT + (1 - AMBIENT) * np.clip(-towards[here] / np.maximum(steep[here], 1e-12), 0, 1)  # cosine of normal and sight
        picture = colours(scale(colour[here]))
        picture[~known[here], :3] = UNKNOWN
        picture[..., :3] *= light[..., None]
        picture[..., 3] = hit
        panel.imshow(picture, origin="lower", interpolation="nearest")
        panel.set_title(f"from +{name}")
        across, up = (other for other in "xyz" if other != name)
        panel.set(xlabel=across, ylabel=up, xticks=[], yticks=[], xlim=(low, high), ylim=(low, high))
        panel.grid(False)
    bar = figure.colorbar(_mappable(scale), ax=panels, shrink=0.85, pad=0.02)
    bar.set_label(label, color=INK)
    bar.ax.tick_params(color=INK, labelcolor=INK)
    return figure


def _mappable(scale: object) -> object:
    from matplotlib.cm import ScalarMappable
    return ScalarMappable(norm=scale, cmap=COLOURS)  # type: ignore[arg-type]


def first_at_level(density: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """How far along the first axis (n, rows, columns) density first reaches a level, between voxels, and if it does: (rows, columns)."""
    inside = density >= level
    hit = np.asarray(inside.any(axis=0))
    first = inside.argmax(axis=0)
    rows, columns = np.indices(hit.shape)
    here, before = density[first, rows, columns], density[np.maximum(first - 1, 0), rows, columns]
    rise = here - before
    part = np.divide(here - np.float32(level), rise, out=np.zeros_like(here), where=rise > 0)
    return np.where(hit, first - np.clip(part, 0, 1), len(density)).astype(np.float64), hit


@styled
def resolution_histogram(values_A: np.ndarray, global_A: float) -> Figure:
    """How many voxels have which resolution, with the global one as a line."""
    figure, (axes,) = new_figure(height_in=2.8)
    if len(values_A):
        low, high = (float(value) for value in np.percentile(values_A, (0.1, 99.5)))
        axes.hist(values_A, bins=60, range=(low, max(high, low + 0.1)), color=BLUE, alpha=0.85)
    if np.isfinite(global_A):
        axes.axvline(global_A, color=RED, linewidth=1.2, linestyle="--", label=f"whole map: {global_A:.2f} Å")
        axes.legend()
    axes.set(xlabel="local resolution (Å)", ylabel="voxels in the mask")
    return figure
