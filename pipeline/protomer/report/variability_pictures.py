"""Pictures of variability: which modes are real, how fine they are, where particles lie on them, and what they do."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from protomer.maps.volumes import Volume
from protomer.report.build import filled
from protomer.report.drawing import BLUE, GREY, INK, ORANGE, PALETTE, RED, new_figure, styled
from protomer.report.figures import resolution_axis

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOVIE_WIDTH_PX, FRAME_MS = 540, 110
BINS = 48


@styled
def excess_figure(excess: np.ndarray, control: np.ndarray | None, level: float) -> Figure:
    """Bars of each mode (K,) beside those of the control, and the level that a real mode exceeds."""
    figure, (axes,) = new_figure(height_in=3.0)
    at = np.arange(1, len(excess) + 1)
    axes.bar(at - 0.2, excess, 0.38, color=BLUE, label="images")
    if control is not None:
        axes.bar(at + 0.2, control, 0.38, color=GREY, label="control without variability")
    axes.axhline(level, color=RED, linewidth=1.2, linestyle="--", label="real from here")
    axes.set_yscale("symlog", linthresh=max(level, 1e-3))
    axes.set(xlabel="mode", ylabel="variance beyond noise, over noise", xticks=at)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


@styled
def mode_fsc_figure(fsc: np.ndarray, width_A: float) -> Figure:
    """FSC (K, shells) between the modes of the half-sets; width_A: of the box."""
    figure, (axes,) = new_figure(height_in=3.4)
    frequency = np.arange(fsc.shape[1]) / width_A
    for k, curve in enumerate(fsc):
        axes.plot(frequency[1:], curve[1:], color=PALETTE[k % len(PALETTE)], label=f"mode {k + 1}")
    axes.axhline(0.143, color=GREY, linewidth=1.0, linestyle="--")
    axes.set(xlim=(0, frequency[-1]), ylim=(-0.25, 1.02), xlabel="spatial frequency (1/Å)", ylabel="FSC between the halves' modes")
    axes.legend()
    resolution_axis(axes, float(frequency[-1]))
    return figure


@styled
def coordinates_figure(mean: np.ndarray, error: np.ndarray) -> Figure:
    """Histograms of the coordinates (N, K) of at most four modes, with the mean standard error as a bar, and the first two against one
    another."""
    shown = min(mean.shape[1], 4)
    figure, axes = new_figure(columns=shown + (shown > 1), width_in=9.6, height_in=2.9)
    for k in range(shown):
        axes[k].hist(mean[:, k], BINS, color=PALETTE[k % len(PALETTE)], alpha=0.85)
        low, high = axes[k].get_ylim()
        axes[k].errorbar([float(np.median(mean[:, k]))], [0.96 * high + 0.04 * low], xerr=[float(error[:, k].mean())], color=INK, capsize=3)
        axes[k].set(xlabel=f"coordinate on mode {k + 1} (sd)", ylabel="particles" if k == 0 else "")
    if shown > 1:
        axes[-1].hexbin(mean[:, 0], mean[:, 1], gridsize=36, cmap="viridis", mincnt=1, linewidths=0.1, rasterized=True)
        axes[-1].set(xlabel="mode 1 (sd)", ylabel="mode 2 (sd)")
    return figure


@styled
def variances_figure(variance: np.ndarray) -> Figure:
    """Variance (iterations, K) of each mode as the iterations found it, over the largest of all."""
    figure, (axes,) = new_figure(height_in=2.8)
    iteration = np.arange(1, len(variance) + 1)
    for k in range(variance.shape[1]):
        relative = np.maximum(variance[:, k] / max(float(variance.max()), 1e-30), 1e-6)
        axes.semilogy(iteration, relative, "o-", markersize=3, color=PALETTE[k % len(PALETTE)], label=f"mode {k + 1}")
    axes.set(xlabel="iteration", ylabel="variance, relative")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()
    return figure


@styled
def mode_figure(mean: Volume, mode: Volume) -> Figure:
    """Projections of the mean map in grey, and over them where the mode adds density (orange) and takes it away (blue)."""
    figure, axes = new_figure(columns=3, width_in=9.6, height_in=3.5)
    for panel, axis, name in zip(axes, (0, 1, 2), ("z", "y", "x"), strict=True):
        below, change = (volume.data.sum(axis=axis, dtype=np.float64) for volume in (mean, mode))
        panel.imshow(below, cmap="gray", origin="lower", interpolation="nearest")
        largest = max(float(np.abs(change).max()), 1e-30)
        for sign, colour in ((1.0, ORANGE), (-1.0, BLUE)):
            panel.contour(sign * change / largest, levels=[0.25, 0.5, 0.75], colors=[colour], linewidths=0.9)
        panel.set(xticks=[], yticks=[], title=f"projection along {name}")
        panel.grid(False)
        panel.spines[:].set_visible(False)
    return figure


def movie_markup(frames: Sequence[Volume], caption: str) -> str:
    """An animated picture of projections along the three axes, there and back, as HTML that holds the picture itself."""
    planes = [np.concatenate([frame.data.sum(axis=axis, dtype=np.float64)[::-1] for axis in (0, 1, 2)], axis=1) for frame in frames]
    low, high = np.percentile(np.stack(planes), (0.5, 99.9))
    greys = [np.clip(255.0 * (plane - low) / max(high - low, 1e-12), 0, 255).astype(np.uint8) for plane in planes]
    encoded = base64.b64encode(animated(greys + greys[-2:0:-1])).decode()
    return filled("movie.html", source=f"data:image/gif;base64,{encoded}", caption=caption)


def animated(greys: Sequence[np.ndarray]) -> bytes:
    """An animated GIF of grey pictures (h, w) uint8, enlarged to the same width."""
    from PIL import Image
    height = round(MOVIE_WIDTH_PX * greys[0].shape[0] / greys[0].shape[1])
    pictures = [Image.fromarray(grey).resize((MOVIE_WIDTH_PX, height), Image.Resampling.BICUBIC) for grey in greys]
    buffer = io.BytesIO()
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=FRAME_MS, loop=0)
    return buffer.getvalue()
