"""Pictures of a map on a reference: both in one picture, and what is different."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from protomer.maps.volumes import Volume
from protomer.report.drawing import new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PLANES = (("z", "x", "y", 0), ("y", "x", "z", 1), ("x", "y", "z", 2))  # normal, horizontal, vertical, axis of the array


@styled
def overlay_figure(reference: Volume, aligned: Volume) -> Figure:
    """Projections of both along the three axes: the reference in magenta, the map in green; white where they are the same."""
    figure, axes = new_figure(columns=3, width_in=9.6, height_in=3.5)
    for panel, (normal, across, up, axis) in zip(axes, _PLANES, strict=True):
        magenta, green = (_stretched(volume.data.sum(axis=axis, dtype=np.float64)) for volume in (reference, aligned))
        panel.imshow(np.stack([magenta, green, magenta], axis=-1), origin="lower", interpolation="nearest")
        panel.set(title=f"projection along {normal}", xlabel=across, ylabel=up, xticks=[], yticks=[])
        panel.grid(False)
        panel.spines[:].set_visible(False)
    return figure


@styled
def difference_figure(reference: Volume, difference: Volume) -> Figure:
    """Central slices of a difference map, red where the map has more than the reference and blue where less, on the reference's scale."""
    figure, axes = new_figure(columns=3, width_in=9.6, height_in=3.5)
    middle, span = reference.box // 2, max(float(np.percentile(np.abs(reference.data - np.median(reference.data)), 99.8)), 1e-12)
    for panel, (normal, across, up, axis) in zip(axes, _PLANES, strict=True):
        section = np.take(reference.data, middle, axis=axis)
        panel.imshow(np.take(difference.data, middle, axis=axis), cmap="RdBu_r", origin="lower", vmin=-span, vmax=span,
                     interpolation="nearest")
        level = float(np.median(reference.data)) + 0.3 * span
        if section.max() > level > section.min():
            panel.contour(section, levels=[level], colors=["#555555"], linewidths=0.8)
        panel.set(title=f"slice at {normal} = 0", xlabel=across, ylabel=up, xticks=[], yticks=[])
        panel.grid(False)
        panel.spines[:].set_visible(False)
    return figure


def _stretched(image: np.ndarray) -> np.ndarray:
    """An image with its 2nd and 99.8th percentiles brought to 0 and 1, cut there."""
    low, high = np.percentile(image, (2.0, 99.8))
    return np.asarray(np.clip((image - low) / max(high - low, 1e-12), 0.0, 1.0))
