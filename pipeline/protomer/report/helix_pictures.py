"""Pictures of a helical lattice: its score surface, and its path through a refinement."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from protomer.report.drawing import PALETTE, add_bar, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def lattice_figure(
    twists_deg: np.ndarray, rises_A: np.ndarray, scores: np.ndarray, found: tuple[float, float], given: tuple[float, float]
) -> Figure:
    """Scores (twists, rises) as a picture, with the lattice found (circle) and the one given (cross)."""
    figure, (panel,) = new_figure(width_in=7.0, height_in=4.4)
    half_t, half_r = (float(axis[1] - axis[0]) / 2 for axis in (twists_deg, rises_A))
    picture = panel.imshow(scores.T, cmap="viridis", origin="lower", aspect="auto", interpolation="nearest", extent=(
        float(twists_deg[0]) - half_t, float(twists_deg[-1]) + half_t, float(rises_A[0]) - half_r, float(rises_A[-1]) + half_r))
    panel.plot([found[0]], [found[1]], "o", markerfacecolor="none", markeredgecolor="white", markersize=13)
    panel.plot([given[0]], [given[1]], "x", color="white", markersize=9)
    panel.set(xlabel="twist (degrees, right-handed positive)", ylabel="rise (Å)")
    panel.grid(False)
    add_bar(figure, picture, panel, "mean self-correlation")
    return figure


@styled
def lattice_path_figure(path: np.ndarray) -> Figure:
    """Twist and rise (n, 2) by iteration, the start first."""
    figure, panels = new_figure(columns=2, width_in=9.0, height_in=3.0)
    for panel, values, name, colour in zip(panels, path.T, ("twist (degrees)", "rise (Å)"), PALETTE, strict=False):
        panel.plot(np.arange(len(values)), values, "o-", color=colour, markersize=4)
        panel.set(xlabel="iteration", ylabel=name)
        panel.ticklabel_format(useOffset=False)
    return figure


@styled
def starts_figure(
    axes: tuple[np.ndarray, np.ndarray],
    first: np.ndarray,
    refined: tuple[np.ndarray, np.ndarray, np.ndarray],
    marked: tuple[tuple[float, float], tuple[float, float]],
) -> Figure:
    """Start lattices: axes twists (t,) and rises (r,) with the score of each start (t r,); starts (n, 2), ends (n, 2), NaN where there is
    none, and their scores (n,); marked: the lattice gone on from (circle) and the one given (cross)."""
    figure, panels = new_figure(columns=2, width_in=11.0, height_in=4.4, sharex=True, sharey=True)
    twists, rises = axes
    starts, ends, scores = refined
    picture = panels[0].pcolormesh(twists, rises, first.reshape(len(twists), len(rises)).T, cmap="viridis", shading="nearest")
    add_bar(figure, picture, panels[0], "log odds after four passes")
    done = np.flatnonzero(np.isfinite(scores))[np.argsort(scores[np.isfinite(scores)])]  # the best on top
    for n in done:
        panels[1].plot([starts[n, 0], ends[n, 0]], [starts[n, 1], ends[n, 1]], "-", color="0.6", linewidth=0.8, zorder=1)
    dots = panels[1].scatter(ends[done, 0], ends[done, 1], c=scores[done], cmap="viridis", s=45, zorder=2)
    add_bar(figure, dots, panels[1], "log odds of unseen images")
    (best, given), edges = marked, ("white", "black")
    for panel, colour in zip(panels, edges, strict=True):
        panel.plot([best[0]], [best[1]], "o", markerfacecolor="none", markeredgecolor=colour, markersize=14)
        panel.plot([given[0]], [given[1]], "x", color=colour, markersize=9)
        panel.set(xlabel="twist (degrees, right-handed positive)", ylabel="rise (Å)")
        panel.grid(False)
    return figure
