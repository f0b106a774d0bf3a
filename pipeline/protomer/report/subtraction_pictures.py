"""Pictures of subtraction: a few images before and after, and how much of what is taken the images held and hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from protomer.report.drawing import BLUE, GREY, INK, ORANGE, new_figure, styled
from protomer.report.figures import resolution_axis

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def examples_figure(rows: Sequence[tuple[str, np.ndarray]], titles: Sequence[str]) -> Figure:
    """Named rows of images (n, D, D), such as before, taken and after; a column for each image, all of it in one grey scale."""
    figure, axes = new_figure(columns=len(titles), width_in=9.6, height_in=7.4)
    for column, (panel, title) in enumerate(zip(axes, titles, strict=True)):
        tower = np.concatenate([images[column] for _, images in reversed(rows)])  # the first row of an array is drawn at the bottom
        low, high = np.percentile(tower, (0.5, 99.5))
        panel.imshow(tower, cmap="gray", origin="lower", interpolation="nearest", vmin=low, vmax=max(high, low + 1e-12))
        panel.set(xticks=[], yticks=[])
        panel.set_title(title, fontsize=7.5)
        panel.grid(False)
        panel.spines[:].set_visible(False)
        if column == 0:
            box = len(rows[0][1][0])
            panel.set_yticks([(len(rows) - 0.5 - n) * box for n in range(len(rows))], [name for name, _ in rows], rotation=90, va="center")
    return figure


@styled
def remainder_figure(before: Sequence[np.ndarray], after: Sequence[np.ndarray], weight: np.ndarray, extent_A: float) -> Figure:
    """The amplitude of what is taken that images of each half-set hold, before and after, from shell 1 on; weight: by which the shells of
    the half maps are multiplied."""
    figure, (axes,) = new_figure(height_in=3.4)
    for curves, colour, label in ((before, GREY, "before"), (after, BLUE, "after")):
        for number, (curve, style) in enumerate(zip(curves, ("-", "--"), strict=True)):
            frequency = np.arange(1, len(curve) + 1) / extent_A
            axes.plot(frequency, curve, color=colour, linestyle=style, label=f"{label}, half-set {number + 1}")
    shown = weight[1 : len(before[0]) + 1]
    axes.plot(np.arange(1, len(shown) + 1) / extent_A, shown, color=ORANGE, linewidth=1.0, linestyle=":", label="weight of the half maps")
    axes.axhline(0.0, color=INK, linewidth=0.7)
    axes.set(xlabel="spatial frequency (1/Å)", ylabel="share of the amplitude", ylim=(-0.3, 1.5))
    axes.legend(ncols=2)
    resolution_axis(axes, len(before[0]) / extent_A)
    return figure
