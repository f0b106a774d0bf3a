"""Figures of classifications."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from protomer.maps.fsc_curves import FscSet
from protomer.report.drawing import BLUE, GREY, PALETTE, new_figure, styled
from protomer.report.figures import histogram_figure, resolution_axis
from protomer.report.pictures import orientation_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from protomer.report.build import Report
    from protomer.tables.particles import Particles

FEW_TO_SHOW = 3  # images: fewer make no plot of viewing directions


def _colours(number: int) -> list[str]:
    """One for each, again from the first where there are many."""
    return [PALETTE[k % len(PALETTE)] for k in range(number)]


@styled
def class_fsc_figure(fscs: Mapping[str, FscSet]) -> Figure:
    """The corrected FSC of each class."""
    figure, (axes,) = new_figure(height_in=3.8)
    highest = 0.0
    for colour, (label, fsc) in zip(_colours(len(fscs)), fscs.items(), strict=True):
        frequency = fsc.shell / (fsc.box * fsc.voxel_size_A)
        highest = max(highest, float(frequency[-1]))
        axes.plot(frequency, fsc.corrected, color=colour, label=label)
    axes.axhline(0.143, color=GREY, linewidth=1.0, linestyle="--")
    axes.set(xlim=(0, highest), ylim=(-0.15, 1.02), xlabel="spatial frequency (1/Å)", ylabel="corrected FSC")
    axes.legend()
    resolution_axis(axes, highest)
    return figure


@styled
def fractions_figure(fractions: np.ndarray, labels: Sequence[str]) -> Figure:
    """Shares (iterations, classes) as stacked bands."""
    figure, (axes,) = new_figure(height_in=3.2)
    iteration = np.arange(len(fractions)) + 1
    axes.stackplot(iteration, fractions.T, labels=labels, colors=_colours(len(labels)), alpha=0.85, linewidth=0)
    axes.set(xlabel="iteration", ylabel="share of the images", ylim=(0, 1), xlim=(1, max(len(fractions), 2)))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@styled
def flow_figure(flow: np.ndarray, labels: Sequence[str]) -> Figure:
    """Counts (from, to) as bands between two stacks, as wide as the images that they stand for are many."""
    figure, (axes,) = new_figure(height_in=4.0, width_in=6.5)
    total, colours = max(int(flow.sum()), 1), _colours(len(labels))
    left = np.concatenate([[0], np.cumsum(flow.sum(axis=1))]) / total
    right = np.concatenate([[0], np.cumsum(flow.sum(axis=0))]) / total
    at_right = right[:-1].copy()
    across = np.linspace(0.0, 1.0, 40)
    smooth = across**2 * (3 - 2 * across)
    for k in range(len(labels)):
        at_left = left[k]
        for j in range(len(labels)):
            width = flow[k, j] / total
            if width > 0:
                low = at_left + (at_right[j] - at_left) * smooth
                axes.fill_between(across, low, low + width, color=colours[k], alpha=0.75 if k == j else 0.9, linewidth=0)
                at_left, at_right[j] = at_left + width, at_right[j] + width
        for side, edges, alignment in ((-0.02, left, "right"), (1.02, right, "left")):
            if edges[k + 1] > edges[k]:
                axes.annotate(labels[k], (side, (edges[k] + edges[k + 1]) / 2), ha=alignment, va="center", annotation_clip=False)
    axes.set(xlim=(0, 1), ylim=(1, 0), xticks=(0, 1), xticklabels=("before", "after"), yticks=())
    axes.grid(False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(color=BLUE, length=0)
    return figure


@styled
def reliability_figure(stated: np.ndarray, right: np.ndarray, count: np.ndarray) -> Figure:
    """Posteriors in bins against how often they were right (bins,), each as large as the bin is full; a reliable one lies on the line."""
    figure, (axes,) = new_figure(height_in=3.8, width_in=5.2)
    shown = count > 0
    error = np.sqrt(np.maximum(right * (1 - right), 0.25 / np.maximum(count, 1)) / np.maximum(count, 1))
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1.0, linestyle="--", label="as often as stated")
    axes.errorbar(stated[shown], right[shown], error[shown], fmt="none", ecolor=BLUE, elinewidth=1.0)
    axes.scatter(stated[shown], right[shown], s=12 + 120 * count[shown] / count.max(), color=BLUE, label="rehearsed images")
    axes.set(xlim=(0, 1), ylim=(-0.02, 1.02), xlabel="stated posterior of a class", ylabel="share in which it was right")
    axes.legend(loc="upper left")
    return figure


def add_images_of_class(report: Report, number: int, particles: Particles, posterior: np.ndarray, sure_of: tuple[str, str]) -> None:
    """The images in a class (`class_number`): viewing directions, and posteriors (N,); sure_of: their name and what they say, in words."""
    inside = particles.class_number == number
    if inside.sum() < FEW_TO_SHOW:
        report.text(f"{int(inside.sum())} images are in this class.")
        return
    report.figure(orientation_figure(particles.rotation[inside]), "Viewing directions of the images in this class.")
    report.figure(histogram_figure(posterior[inside], sure_of[0]), sure_of[1])


#: of posteriors of classes
SURE_OF_CLASS = ("posterior of the class", "How sure the images in this class are of it.")
