"""Pictures of a selection: a quantity of all rows and of those that were kept, and where its thresholds lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from protomer.report.drawing import BLUE, GREY, RED, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 60
TAIL = 0.1  # percent of the values at either end that may lie outside of the picture


@styled
def threshold_figure(values: np.ndarray, kept: np.ndarray, label: str, limits: Sequence[float] = ()) -> Figure:
    """Histograms of a quantity (n,) of all rows and of the kept ones (bool (n,)), with a line at each limit.

    The axis holds all but the outermost thousandths of the values, and the limits; what lies beyond is counted in the last bin, and said.
    """
    figure, (axes,) = new_figure(height_in=2.8)
    finite = np.isfinite(values)
    if finite.any():
        edges = _edges(values[finite], limits)
        inside = np.clip(values, edges[0], edges[-1])
        for rows, colour, name in ((finite, GREY, "all"), (finite & kept, BLUE, "kept")):
            counts, _ = np.histogram(inside[rows], edges)
            axes.stairs(counts, edges, fill=True, color=colour, alpha=0.4 if name == "all" else 0.85, label=f"{name}: {int(rows.sum()):,}")
        beyond = int(((values[finite] < edges[0]) | (values[finite] > edges[-1])).sum())
        if beyond:
            axes.annotate(f"{beyond} beyond, in the outermost bins", (0.98, 0.97), xycoords="axes fraction", ha="right", va="top",
                          fontsize=7.5)
        for limit in limits:
            axes.axvline(limit, color=RED, linewidth=1.2, linestyle="--", label=f"{limit:g}")
        axes.legend(loc="upper left")
    else:
        axes.annotate("no values", (0.5, 0.5), xycoords="axes fraction", ha="center")
    axes.set(xlabel=label, ylabel="rows")
    return figure


def _edges(values: np.ndarray, limits: Sequence[float]) -> np.ndarray:
    """Edges (BINS + 1,) of bins that hold nearly all values, and the limits where they are not far from them."""
    low, high = (float(value) for value in np.percentile(values, (TAIL, 100 - TAIL)))
    width = high - low if high > low else max(abs(low), 1.0) * 1e-3
    near = [limit for limit in limits if low - width <= limit <= high + width]
    low, high = min([low, *near]), max([high, *near])
    return np.linspace(low, high if high > low else low + width, BINS + 1)
