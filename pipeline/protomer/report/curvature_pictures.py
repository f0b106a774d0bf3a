"""What a report says of the curvature of the Ewald sphere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from protomer.refinement.curvature import NAMES, CurvedMaps
from protomer.report.build import Report
from protomer.report.drawing import GREY, PALETTE, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def sign_figure(curved: CurvedMaps) -> Figure:
    """The FSC of half maps without curvature, and with either sign."""
    figure, (panel,) = new_figure(height_in=3.2)
    for (sign, curve), colour in zip(curved.fsc.items(), PALETTE, strict=False):
        label = "without curvature" if sign == 0 else f"sign {NAMES[sign]}"
        panel.plot(np.arange(1, len(curve)) / curved.width_A, curve[1:], color=colour, linewidth=1.3, label=label)
    panel.axhline(0.143, color=GREY, linewidth=0.8, linestyle="--")
    panel.set(xlabel="spatial frequency (1/Å)", ylabel="Fourier shell correlation", ylim=(-0.1, 1.03))
    panel.legend(loc="lower left")
    return figure


def add_curvature(report: Report, curved: CurvedMaps) -> None:
    """A section on the Ewald sphere, where its curvature was asked for."""
    if curved.sign == 0 and not curved.was_tried:
        return
    report.section("Ewald sphere", curved.in_words())
    if curved.was_tried:
        report.figure(sign_figure(curved), "FSC of the half maps in a sphere, without curvature and with either sign; dashed: 0.143.")
