"""Pictures of maps and of viewing directions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from protomer.formats.mrc import read_volume
from protomer.maps.volumes import Volume
from protomer.report.build import Report
from protomer.report.drawing import GREY, INK, ORANGE, add_bar, new_figure, styled
from protomer.tables.views import viewing_directions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PLANES = (("z", "x", "y"), ("y", "x", "z"), ("x", "y", "z"))  # normal, horizontal, vertical
_AXIS = {"z": 0, "y": 1, "x": 2}


@styled
def slices_figure(volume: Volume, mask: Volume | None = None) -> Figure:
    """The three central slices in grey, one scale for all; with a mask, its contours at 0.5 (line) and 0.01 (where it ends)."""
    planes = [np.take(volume.data, volume.box // 2, axis=_AXIS[normal]) for normal, _, _ in _PLANES]
    figure, axes = _show_planes(planes, volume.voxel_size_A, "slice at {}")
    if mask is not None:
        for panel, (normal, _, _) in zip(axes, _PLANES, strict=True):
            section = np.take(mask.data, mask.box // 2, axis=_AXIS[normal])
            if section.max() > 0.5 > section.min():
                panel.contour(section, levels=[0.5], colors=[ORANGE], linewidths=1.1)
            if section.max() > 0.01 > section.min():
                panel.contour(section, levels=[0.01], colors=[ORANGE], linewidths=0.8, linestyles=":")
    return figure


@styled
def cut_off_figure(resolution_A: Volume, mask: Volume | None = None) -> Figure:
    """The three central slices of a map of resolutions in colour, finest bright, with a mask's contour."""
    figure, panels = new_figure(columns=3, width_in=9.6, height_in=3.3)
    low, high = np.percentile(resolution_A.data, (1, 60))
    for panel, (normal, across, up) in zip(panels, _PLANES, strict=True):
        plane = np.take(resolution_A.data, resolution_A.box // 2, axis=_AXIS[normal])
        picture = panel.imshow(plane, cmap="viridis_r", origin="lower", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")
        section = None if mask is None else np.take(mask.data, mask.box // 2, axis=_AXIS[normal])
        if section is not None and section.max() > 0.5 > section.min():
            panel.contour(section, levels=[0.5], colors=["white"], linewidths=0.9)
        panel.set_title(f"cut-off at {normal} = 0")
        panel.set(xlabel=across, ylabel=up, xticks=[], yticks=[])
        panel.grid(False)
    bar = figure.colorbar(picture, ax=panels, shrink=0.85, pad=0.02)
    bar.set_label("Å", color=INK)
    bar.ax.tick_params(color=INK, labelcolor=INK)
    return figure


def add_cut_offs(report: Report, path: Path, mask: Volume | None) -> None:
    """Show the cut-offs of a non-uniform regularisation, where the file is there."""
    if path.exists():
        report.figure(cut_off_figure(read_volume(path), mask), "Non-uniform regularisation: the resolution to which the map was filtered, "
                      "place by place.")


@styled
def projections_figure(volume: Volume) -> Figure:
    """The sums along the three axes in grey, one scale for all."""
    planes = [volume.data.sum(axis=_AXIS[normal], dtype=np.float64) for normal, _, _ in _PLANES]
    return _show_planes(planes, volume.voxel_size_A, "projection along {}")[0]


def _show_planes(planes: list[np.ndarray], voxel_size_A: float, title: str) -> tuple[Figure, list[Axes]]:
    figure, axes = new_figure(columns=3, width_in=9.6, height_in=3.5)
    low, high = np.percentile(np.concatenate([plane.ravel() for plane in planes]), (0.5, 99.8))
    for panel, plane, (normal, across, up) in zip(axes, planes, _PLANES, strict=True):
        panel.imshow(plane, cmap="gray", origin="lower", vmin=low, vmax=max(high, low + 1e-12), interpolation="nearest")
        panel.set_title(title.format(f"{normal} = 0" if "slice" in title else normal))
        panel.set(xlabel=across, ylabel=up, xticks=[], yticks=[])
        panel.grid(False)
        panel.spines[:].set_visible(False)
        _scale_bar(panel, plane.shape[0], voxel_size_A)
    return figure, axes


def _scale_bar(panel: Axes, box: int, voxel_size_A: float) -> None:
    """A bar of a round length of about a fifth of the box."""
    wanted = box * voxel_size_A / 5
    power = 10 ** np.floor(np.log10(wanted))
    length_A = max(step * power for step in (1, 2, 5) if step * power <= wanted)
    start, height = 0.05 * box, 0.06 * box
    panel.plot([start, start + length_A / voxel_size_A], [height, height], color="white", linewidth=3, solid_capstyle="butt")
    panel.annotate(f"{length_A:g} Å", (start, height + 0.02 * box), color="white", fontsize=8, va="bottom")


@styled
def image_pairs_figure(above: Sequence[np.ndarray], below: Sequence[np.ndarray], titles: Sequence[str]) -> Figure:
    """A row of images, each over another of the same size, such as noisy over clean; every image in its own greys."""
    figure, axes = new_figure(columns=max(len(above), 1), width_in=9.6, height_in=3.4)
    for panel, upper, lower, title in zip(axes, above, below, titles, strict=True):
        pair = np.concatenate([_stretched(lower), _stretched(upper)])  # the first row of an array is drawn at the bottom
        panel.imshow(pair, cmap="gray", origin="lower", interpolation="nearest", vmin=0.0, vmax=1.0)
        panel.set(xticks=[], yticks=[])
        panel.set_title(title, fontsize=7.5)
        panel.grid(False)
        panel.spines[:].set_visible(False)
    return figure


def _stretched(image: np.ndarray) -> np.ndarray:
    """An image with its 1st and 99th percentiles brought to 0 and 1."""
    low, high = np.percentile(image, (1.0, 99.0))
    return np.asarray((image - low) / max(high - low, 1e-12))


def mollweide(direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Directions (n, 3) on Mollweide's equal-area ellipse: horizontal -2 .. 2, vertical -1 .. 1.

    With latitude p and longitude l: 2 t + sin 2t = pi sin p, horizontal = (2 l / pi) cos t, vertical = sin t.
    """
    auxiliary = np.linspace(-np.pi / 2, np.pi / 2, 4001)
    t = np.interp(np.clip(direction[:, 2], -1, 1), (2 * auxiliary + np.sin(2 * auxiliary)) / np.pi, auxiliary)
    longitude = np.arctan2(direction[:, 1], direction[:, 0])
    return 2 * longitude / np.pi * np.cos(t), np.sin(t)


@styled
def orientation_figure(rotation: np.ndarray) -> Figure:
    """Where the particles are seen from: density of viewing directions over the sphere, equal areas, in units of an even coverage.

    rotation: unit quaternions (n, 4), scalar last, as Particles has them. For a map with a point group, give the expanded poses or
    read the plot as one asymmetric unit's worth of views.
    """
    from matplotlib.patches import Ellipse
    figure, (axes,) = new_figure(width_in=8.0, height_in=4.0)
    across, up = mollweide(viewing_directions(rotation))
    columns = int(np.clip(np.sqrt(len(rotation)) / 1.5, 12, 44))
    rows = max(int(columns / np.sqrt(3) / 2), 4)
    even = len(rotation) * (4 * 2 / (columns * rows * 2)) / (2 * np.pi)  # views per hexagon: its area over the ellipse's
    cells = axes.hexbin(across, up, gridsize=(columns, rows), extent=(-2, 2, -1, 1), cmap="viridis", linewidths=0.1, rasterized=True)
    coverage = np.asarray(cells.get_array()) / even
    cells.set_array(coverage)
    cells.set_clim(0, max(float(coverage.max()), 2.0))
    cells.set_clip_path(Ellipse((0, 0), 4, 2, transform=axes.transData))
    add_bar(figure, cells, axes, "views relative to an even coverage", 0.8)
    _graticule(axes)
    axes.set(xlim=(-2.05, 2.05), ylim=(-1.1, 1.1), aspect="equal", title=f"{len(rotation)} viewing directions")
    axes.axis("off")
    return figure


def _graticule(axes: Axes) -> None:
    """Meridians and parallels every 30 degrees, the outline, and the poles' names."""
    latitude = np.linspace(-np.pi / 2, np.pi / 2, 181)
    for longitude in np.radians(np.arange(-180, 181, 30)):
        across, up = _mollweide_of(latitude, np.full_like(latitude, longitude))
        edge = abs(abs(longitude) - np.pi) < 1e-9
        axes.plot(across, up, color=INK if edge else GREY, linewidth=0.8 if edge else 0.4, alpha=1 if edge else 0.5)
    for parallel in np.radians(np.arange(-60, 61, 30)):
        across, up = _mollweide_of(np.full(2, parallel), np.array([-np.pi, np.pi]))
        axes.plot(across, up, color=GREY, linewidth=0.4, alpha=0.5)
    for text, place, align in (("+z", (0, 1.0), "bottom"), ("−z", (0, -1.0), "top")):
        axes.annotate(text, place, ha="center", va=align, fontsize=8, color=INK, annotation_clip=False)
    axes.annotate("+x", (0, 0), ha="center", va="center", fontsize=8.5, color="white")
    axes.annotate("+y", (1, 0), ha="center", va="center", fontsize=8.5, color="white")


def _mollweide_of(latitude: np.ndarray, longitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Latitude and longitude (rad) on the ellipse; longitudes of exactly +-pi stay on their own side."""
    across, up = mollweide(np.stack([np.cos(latitude), np.zeros_like(latitude), np.sin(latitude)], axis=1))
    return across + 2 * longitude / np.pi * np.sqrt(1 - up * up), up
