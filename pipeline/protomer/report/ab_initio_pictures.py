"""Figures of ab-initio runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from protomer.report.drawing import GREY, PALETTE, new_figure, styled
from protomer.report.figures import resolution_axis

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def evidence_figure(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Log evidence by step, a line for each attempt and one for what followed; the fine steps in a panel of their own."""
    figure, axes = new_figure(columns=2, height_in=3.2, width_in=9.6, gridspec_kw={"width_ratios": (3, 1)})
    coarse, fine = ([h for h in history if h["is_fine"] == is_fine] for is_fine in (False, True))
    starts = sorted({h["start"] for h in coarse})
    for n, start in enumerate(starts):
        own = [h for h in coarse if h["start"] == start]
        label = f"attempt {start}" if start != starts[-1] or len(starts) == 1 else "the best, gone on with"
        axes[0].plot([h["step"] for h in own], [h["log_evidence"] for h in own], color=PALETTE[n % len(PALETTE)], label=label)
    axes[0].legend()
    axes[1].plot([h["step"] for h in fine], [h["log_evidence"] for h in fine], "o-", color=PALETTE[0], markersize=3.5)
    for panel, title in zip(axes, ("coarse steps", "fine steps"), strict=True):
        panel.set(xlabel="step", ylabel="log evidence of an image", title=title)
        panel.xaxis.get_major_locator().set_params(integer=True)
    return figure


@styled
def agreement_figure(curves: Mapping[str, np.ndarray], width_A: float) -> Figure:
    """FSC curves (shells,) of pairs of maps in a box of this width."""
    figure, (axes,) = new_figure(height_in=3.6)
    highest = 0.0
    for n, (label, curve) in enumerate(curves.items()):
        frequency = np.arange(len(curve)) / width_A
        highest = max(highest, float(frequency[-1]))
        axes.plot(frequency, curve, color=PALETTE[n % len(PALETTE)], label=label)
    axes.axhline(0.5, color=GREY, linewidth=1.0, linestyle="--")
    axes.set(xlim=(0, highest), ylim=(-0.2, 1.02), xlabel="spatial frequency (1/Å)", ylabel="FSC between classes")
    axes.legend()
    resolution_axis(axes, highest)
    return figure
