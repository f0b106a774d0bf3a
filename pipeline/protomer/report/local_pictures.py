"""Pictures of a local refinement: how the part turned about the fulcrum, its map before and after, and the noise control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from protomer.maps.fsc_curves import FscSet
from protomer.maps.volumes import Volume
from protomer.report.drawing import BLUE, GREY, ORANGE, PALETTE, RED, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from protomer.refinement.noise_control import NoiseControl

_MOST_POINTS = 20_000
_NORMALS = (("z", "x", "y", 0), ("y", "x", "z", 1), ("x", "y", "z", 2))  # normal, horizontal, vertical, array axis of the normal


@styled
def motion_figure(turn_deg: np.ndarray, extent_deg: float, prior_deg: float) -> Figure:
    """Turns (N, 3) about map x, y, z, two components in each panel: a point per particle, circles at the prior and at the extent."""
    from matplotlib.patches import Circle
    figure, panels = new_figure(columns=3, width_in=9.6, height_in=3.4)
    shown = turn_deg[:: max(1, len(turn_deg) // _MOST_POINTS)]
    reach = min(1.05 * extent_deg, 1.2 * float(np.percentile(np.abs(turn_deg), 99.8)) + 1e-6)
    for panel, (first, second) in zip(panels, ((0, 1), (0, 2), (1, 2)), strict=True):
        panel.scatter(shown[:, first], shown[:, second], s=2, color=BLUE, alpha=min(1.0, 400 / np.sqrt(len(shown)) / 20), linewidths=0)
        panel.add_patch(Circle((0, 0), extent_deg, fill=False, color=RED, linestyle="--", linewidth=1.2))
        if np.isfinite(prior_deg):
            panel.add_patch(Circle((0, 0), prior_deg, fill=False, color=ORANGE, linewidth=1.2))
        panel.set(xlabel=f"about {'xyz'[first]} (degrees)", ylabel=f"about {'xyz'[second]} (degrees)", xlim=(-reach, reach),
                  ylim=(-reach, reach), aspect="equal")
    return figure


@styled
def before_after_figure(before: Volume, after: Volume, mask: Volume) -> Figure:
    """Slices through the mask's centre of mass, the map before above, after below, each scaled to its own values in the mask."""
    from matplotlib.figure import Figure
    figure = Figure(figsize=(9.6, 6.6), layout="constrained")
    rows = figure.subplots(2, 3, squeeze=False)
    for panels, volume, name in zip(rows, (before, after), ("before", "after"), strict=True):
        inside = volume.data[mask.data > 0.5]
        low, high = np.percentile(inside, (2, 99.7))
        for panel, (normal, across, up, axis) in zip(panels, _NORMALS, strict=True):
            others = tuple(a for a in range(3) if a != axis)
            profile = mask.data.sum(axis=others, dtype=np.float64)
            at = round(float(np.sum(profile * np.arange(mask.box)) / profile.sum()))
            panel.imshow(np.take(volume.data, at, axis=axis), cmap="gray", origin="lower", vmin=low, vmax=max(high, low + 1e-12))
            section = np.take(mask.data, at, axis=axis)
            if section.max() > 0.5 > section.min():
                panel.contour(section, levels=[0.5], colors=[ORANGE], linewidths=0.9)
            panel.set_title(f"{name}, slice at {normal} = {(at - mask.box // 2) * mask.voxel_size_A:.0f} Å")
            panel.set(xlabel=across, ylabel=up, xticks=[], yticks=[])
            panel.grid(False)
            panel.spines[:].set_visible(False)
    return figure


@styled
def beside_figure(fscs: Mapping[str, FscSet]) -> Figure:
    """Corrected FSC of several pairs of half maps by name, with their resolutions at 0.143."""
    figure, (axes,) = new_figure()
    for (name, fsc), colour in zip(fscs.items(), PALETTE * len(fscs), strict=False):
        label = f"{name}: {fsc.describe('corrected').split(' (')[0]}"
        axes.plot(fsc.shell / (fsc.box * fsc.voxel_size_A), fsc.corrected, color=colour, label=label)
    axes.axhline(0.143, color=GREY, linewidth=0.8)
    axes.set(xlabel="spatial frequency (1/Å)", ylabel="corrected FSC in the mask", ylim=(-0.12, 1.04))
    axes.legend()
    return figure


@styled
def iterations_figure(curves: Sequence[Sequence[float]], width_A: float) -> Figure:
    """FSC of the half maps by iteration, the first faint, the last full."""
    figure, (axes,) = new_figure()
    for at, curve in enumerate(curves):
        last = at + 1 == len(curves)
        axes.plot(np.arange(len(curve)) / width_A, curve, color=BLUE, alpha=0.25 + 0.75 * (at + 1) / len(curves),
                  linewidth=2.0 if last else 1.0, label=f"iteration {at + 1}" if last or at == 0 else None)
    axes.axhline(0.5, color=GREY, linewidth=0.8)
    axes.set(xlabel="spatial frequency (1/Å)", ylabel="FSC in the mask", ylim=(-0.12, 1.04))
    axes.legend()
    return figure


@styled
def control_figure(control: NoiseControl) -> Figure:
    """FSC in the mask of the run and of its control, and what the second leaves of the first."""
    figure, (axes,) = new_figure()
    frequency = np.arange(len(control.masked)) / control.width_A
    axes.plot(frequency, control.masked, color=BLUE, label="images")
    axes.plot(frequency, control.noise, color=GREY, label="noise in place of detail")
    axes.plot(frequency, control.true_fsc, color=RED, linewidth=2.2, label="corrected for the control")
    axes.axvline(control.from_shell / control.width_A, color=ORANGE, linestyle="--", linewidth=1.0, label="noise from here on")
    axes.axhline(0.143, color=GREY, linewidth=0.8)
    axes.set(xlabel="spatial frequency (1/Å)", ylabel="FSC in the mask", ylim=(-0.12, 1.04))
    axes.legend()
    return figure
