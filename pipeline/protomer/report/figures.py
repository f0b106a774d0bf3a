"""The curves of reports: FSC, resolution and pose changes over iterations, noise spectra, Guinier plot, histograms.

Each function returns a Matplotlib figure for `Report.figure`; pictures of maps and viewing directions are in protomer.report.pictures.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from protomer.maps.fsc_curves import FscSet
from protomer.maps.sharpening import GuinierFit
from protomer.report.drawing import BLUE, GREEN, GREY, INK, ORANGE, PALETTE, RED, SKY, new_figure, styled
from protomer.report.pictures import orientation_figure, projections_figure, slices_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["fsc_caption", "fsc_figure", "guinier_figure", "histogram_figure", "noise_figure", "orientation_figure", "pose_change_figure",
           "projections_figure", "resolution_axis", "resolution_figure", "slices_figure"]

_CURVE_LOOKS = {"unmasked": {"color": GREY, "linewidth": 1.3}, "spherical": {"color": SKY, "linewidth": 1.3},
                "masked": {"color": BLUE, "linewidth": 1.4}, "randomised": {"color": ORANGE, "linewidth": 1.3, "linestyle": (0, (4, 2))},
                "corrected": {"color": RED, "linewidth": 2.2}}
BINS = 40
Expected = tuple[Callable[[np.ndarray], np.ndarray], str]
_ROUND_A = (200, 100, 60, 40, 30, 20, 15, 12, 10, 8, 7, 6, 5, 4.5, 4, 3.5, 3, 2.7, 2.5, 2.2, 2, 1.8, 1.6, 1.5, 1.4, 1.3, 1.2, 1.1, 1)


@styled
def fsc_figure(fsc: FscSet) -> Figure:
    """All curves of an FSC set, the 0.5 and 0.143 lines, the corrected resolution, an axis in angstrom on top, and the mask's name."""
    figure, (axes,) = new_figure(height_in=4.4)
    frequency = fsc.shell / (fsc.box * fsc.voxel_size_A)
    for name, look in _CURVE_LOOKS.items():
        axes.plot(frequency, fsc.curve(name), label=f"{name}: {_short(fsc.resolution_A_at(name))}" if name != "randomised" else
                  f"phases random from {_short(fsc.resolution_A[fsc.randomised_from_shell])}" if fsc.randomised_from_shell <= fsc.box // 2
                  else "phases never random", **look)
    for level in (0.5, 0.143):
        axes.axhline(level, color=INK, linewidth=0.8, linestyle=":")
        axes.annotate(f"{level:g}", (0.004, level), xycoords=("axes fraction", "data"), va="bottom", fontsize=8)
    resolution_A = fsc.resolution_A_at("corrected")
    if np.isfinite(resolution_A):
        axes.axvline(1 / resolution_A, color=RED, linewidth=0.8, linestyle=":")
    lowest = min(-0.05, float(np.nanmin(fsc.corrected)), float(np.nanmin(fsc.unmasked)))
    axes.set(xlim=(0, frequency[-1]), ylim=(max(lowest - 0.03, -0.5), 1.03), ylabel="Fourier shell correlation",
             xlabel="spatial frequency (1/Å)\n" + textwrap.fill(f"mask: {fsc.mask_name}", 118))
    axes.legend(title="curve: resolution at 0.143", loc="upper right", alignment="left")
    resolution_axis(axes, float(frequency[-1]))
    return figure


def fsc_caption(fsc: FscSet) -> str:
    """What the FSC figure shows, in words, with its resolutions; the mask is named in the figure."""
    return (f"Fourier shell correlation between the half maps. Corrected for the mask: {fsc.describe('corrected')} at 0.143, "
            f"{fsc.describe('corrected', 0.5)} at 0.5; unmasked: {fsc.describe('unmasked')} at 0.143.")


def _short(resolution_A: float) -> str:
    return f"{resolution_A:.2f} Å" if np.isfinite(resolution_A) else "not reached"


def resolution_axis(axes: Axes, highest_per_A: float) -> None:
    """A second axis on top with round resolutions (angstrom) at their places."""
    ticks = _round_resolutions(0.03 * highest_per_A, highest_per_A, 0.055)
    top = axes.secondary_xaxis("top")
    top.set_xticks([1 / tick for tick in ticks], [f"{tick:g}" for tick in ticks])
    top.set_xlabel("resolution (Å)", color=INK)
    top.tick_params(color=INK, labelcolor=INK)


def _round_resolutions(low_per_A: float, high_per_A: float, apart: float) -> list[float]:
    """Round resolutions (angstrom) between two frequencies, no two nearer than a fraction of that range."""
    ticks: list[float] = []
    for candidate in _ROUND_A:
        if low_per_A < 1 / candidate <= high_per_A and (not ticks or 1 / candidate - 1 / ticks[-1] > apart * (high_per_A - low_per_A)):
            ticks.append(candidate)
    return ticks


@styled
def resolution_figure(resolution_A: Mapping[str, Sequence[float]], first_iteration: int = 1) -> Figure:
    """Resolution (angstrom) of each iteration, one line per name; infinity or NaN (not reached) leaves a gap."""
    figure, (axes,) = new_figure(height_in=3.0)
    for (name, values), colour in zip(resolution_A.items(), PALETTE, strict=False):
        finite = np.where(np.isfinite(values), values, np.nan)
        axes.plot(np.arange(len(finite)) + first_iteration, 1 / finite, "o-", markersize=4, color=colour, label=name)
    low_per_A, high_per_A = axes.get_ylim()
    ticks = _round_resolutions(low_per_A, high_per_A, 0.07)
    axes.set_yticks([1 / tick for tick in ticks], [f"{tick:g}" for tick in ticks])
    axes.set(xlabel="iteration", ylabel="resolution (Å)")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="best")
    return figure


@styled
def pose_change_figure(turn_deg: np.ndarray, shift_A: np.ndarray, first_iteration: int = 2) -> Figure:
    """How far particles moved in each iteration: quartiles (iterations, 3) of their turns and shift changes as a line in a band.

    first_iteration: the number of the first row; the first iteration of a refinement has nothing to compare with.
    """
    figure, axes = new_figure(columns=2, height_in=2.9, width_in=9.6)
    for panel, quartiles, colour, label in ((axes[0], turn_deg, BLUE, "turn (degrees)"), (axes[1], shift_A, ORANGE, "change of shift (Å)")):
        low, middle, high = np.asarray(quartiles, float).reshape(-1, 3).T
        iteration = np.arange(len(middle)) + first_iteration
        panel.fill_between(iteration, low, high, color=colour, alpha=0.25, linewidth=0, label="middle half of the particles")
        panel.plot(iteration, middle, "o-", color=colour, markersize=3.5, label="median")
        panel.set(xlabel="iteration", ylabel=label)
        panel.set_yscale("symlog", linthresh=0.1)
        panel.set_ylim(bottom=0)
        panel.xaxis.get_major_locator().set_params(integer=True)
        if not len(middle):
            panel.annotate("no second iteration", (0.5, 0.5), xycoords="axes fraction", ha="center")
    axes[0].legend(loc="best")
    return figure


@styled
def histogram_figure(
    values: np.ndarray, label: str, mark: float | None = None, mark_text: str = "", expected: Expected | None = None
) -> Figure:
    """A histogram of one value per particle; `mark` draws a line, such as the limit of a search; `expected`: a density and its name."""
    figure, (axes,) = new_figure(height_in=2.8)
    width = _histogram(axes, values, BLUE)
    axes.set(xlabel=label, ylabel="particles")
    if expected is not None:
        low, high = axes.get_xlim()
        at = np.linspace(float(low), float(high), 200)
        axes.plot(at, expected[0](np.maximum(at, 0.0)) * width * len(values), color=ORANGE, label=expected[1])
    if mark is not None:
        axes.axvline(mark, color=RED, linewidth=1.2, linestyle="--", label=mark_text or f"{mark:g}")
    if mark is not None or expected is not None:
        axes.legend()
    return figure


def _histogram(axes: Axes, values: np.ndarray, colour: str) -> float:
    """Counts over the range that holds 99.5% of the values; the rest is counted in the last bin, and said. Gives the width of a bin."""
    finite = np.asarray(values, float)[np.isfinite(values)]
    if not len(finite):
        axes.annotate("no values", (0.5, 0.5), xycoords="axes fraction", ha="center")
        return 1.0
    low, high = float(min(finite.min(), 0)), float(np.percentile(finite, 99.5))
    high = high if high > low else low + 1
    beyond = int((finite > high).sum())
    axes.hist(np.minimum(finite, high), bins=BINS, range=(low, high), color=colour, alpha=0.85)
    if beyond > 0.001 * len(finite):
        axes.annotate(f"{beyond} beyond, in the last bin", (0.98, 0.97), xycoords="axes fraction", ha="right", va="top", fontsize=7.5)
    return (high - low) / BINS


@styled
def noise_figure(noise_power: np.ndarray, names: Sequence[str], box: int, pixel_size_A: float) -> Figure:
    """Noise power per shell (groups, shells) on a logarithmic scale, one line per optics group."""
    figure, (axes,) = new_figure(height_in=3.0)
    noise_power = np.atleast_2d(noise_power)
    frequency = np.arange(noise_power.shape[1]) / (box * pixel_size_A)
    for power, name, colour in zip(noise_power, names, (PALETTE * len(noise_power))[: len(noise_power)], strict=True):
        axes.semilogy(frequency[1:], np.where(power > 0, power, np.nan)[1:], color=colour, label=name)
    axes.set(xlim=(0, frequency[-1]), xlabel="spatial frequency (1/Å)", ylabel="noise power")
    if len(names) <= 12:
        axes.legend(title="optics group")
    resolution_axis(axes, float(frequency[-1]))
    return figure


@styled
def guinier_figure(fit: GuinierFit) -> Figure:
    """ln of the mean amplitude against s^2, before and after the FSC weight, and the fitted line."""
    figure, (axes,) = new_figure(height_in=3.2)
    axes.plot(fit.s2_per_A2, fit.log_amplitude, color=GREY, label="half maps averaged")
    axes.plot(fit.s2_per_A2, np.where(np.isfinite(fit.log_weighted), fit.log_weighted, np.nan), color=BLUE, label="weighted by the FSC")
    span = fit.s2_per_A2[[fit.first, fit.last]]
    axes.plot(span, fit.intercept - fit.b_factor_A2 / 4 * span, color=RED, linewidth=2, label=f"line: B = {fit.b_factor_A2:.1f} Å²")
    shown = fit.log_weighted[1: fit.last + 1]
    finite = np.concatenate([shown[np.isfinite(shown)], fit.log_amplitude[1:][np.isfinite(fit.log_amplitude[1:])]])
    axes.set(xlabel="s² (1/Å²)", ylabel="ln of mean amplitude", ylim=(float(finite.min()) - 1, float(finite.max()) + 0.5))
    axes.axvspan(*span, color=GREEN, alpha=0.10, linewidth=0)
    axes.legend()
    return figure
