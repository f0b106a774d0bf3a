"""Whether a map has the symmetry that copies are to be made with, where the operators have it: if not, the copies' poses are wrong.

A point group: by axis_fit.axis_error. A helix: by the map's correlation with itself one subunit along either way, in the sphere that fits
the box less one rise, since its ends lie outside.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from protomer.errors import InputError
from protomer.formats.hdf5 import read_any_volume, read_map_record
from protomer.maps.rigid_motion import RigidMotion, move_volume
from protomer.maps.volumes import Halves, Volume
from protomer.symmetry.axis_fit import AxisError, axis_error, default_finest_A
from protomer.symmetry.operator_sets import Helix, OperatorSet, helical_operators
from protomer_kernels.fourier import low_pass
from protomer_kernels.masks import sphere_mask

LEAST_CORRELATION = 0.5  # of a map with its copies, below which it does not have the symmetry
OFFSET_RADIUS = 0.25  # of the box: where an angle of the bound moves density by as much as the centre may be off
EDGE_PX = 3.0


@dataclass(frozen=True)
class Finding:
    """What was found of a map: residual of the axes of a point group, correlations along a helix, and what speaks against an expansion."""

    axes: AxisError | None
    helical: dict[int, float] = field(default_factory=dict)  # subunits along -> correlation
    objections: tuple[str, ...] = ()

    def facts(self) -> dict[str, str]:
        """For a report."""
        facts = {}
        if self.axes is not None:
            a = self.axes
            facts = {"axes off by": f"{a.angle_deg:.3f} ± {a.angle_sd_deg:.3f}°",
                     "centre off by": f"{a.offset_A:.2f} ± {a.offset_sd_A:.2f} Å",
                     "correlation under the group": f"{a.correlation[1:].min():.3f} to {a.correlation[1:].max():.3f}"}
        return facts | {f"correlation {n:+d} subunit along": f"{value:.3f}" for n, value in self.helical.items()}

    def summary(self) -> dict[str, float]:
        """For summary.json."""
        found: dict[str, float] = {}
        if self.axes is not None:
            a = self.axes
            found = {"axis_error_deg": round(a.angle_deg, 4), "axis_error_sd_deg": round(a.angle_sd_deg, 4),
                     "offset_A": round(a.offset_A, 4), "offset_sd_A": round(a.offset_sd_A, 4),
                     "lowest_correlation": round(float(a.correlation[1:].min()), 4)}
        return found | {f"helical_correlation_{n:+d}": round(value, 4) for n, value in self.helical.items()}


def inspect_map(path: Path, group: OperatorSet, helix: Helix | None, max_angle_deg: float) -> Finding:
    """Measure a map against the group and the helix. Raises InputError where it cannot be measured."""
    volume, halves, finest_A = load_map(path)
    axes = None
    if len(group) > 1:
        try:
            axes = axis_error(volume, group.rotations, half_maps=halves, finest_A=finest_A)
        except ValueError as error:
            raise InputError(f"the axes of {path} cannot be measured: {error}", "a map with density in a box of some size",
                             "give the map that the poses were refined with, or leave --volume out") from error
    helical = {} if helix is None else helical_correlations(volume, helix, finest_A)
    return Finding(axes, helical, tuple(_objections(axes, helical, max_angle_deg, volume)))


def load_map(path: Path) -> tuple[Volume, Halves[Volume] | None, float]:
    """The map, its half maps where it has any, and the finest wave (Å) worth looking at."""
    if path.suffix.lower() not in (".h5", ".hdf5"):
        volume = read_any_volume(path)
        return volume, None, default_finest_A(volume)
    record = read_map_record(path)
    resolution_A = np.inf if record.fsc is None else record.fsc.resolution_A_at("corrected")
    finest_A = default_finest_A(record.map)
    return record.map, record.half_maps, max(finest_A, resolution_A) if np.isfinite(resolution_A) else finest_A


def helical_correlations(volume: Volume, helix: Helix, finest_A: float) -> dict[int, float]:
    """Correlation of the map with itself one subunit along the helix, down and up."""
    width_A = volume.box * volume.voxel_size_A
    smooth = Volume(low_pass(volume.data, width_A / finest_A, 2.0), volume.voxel_size_A)
    radius_px = 0.5 * volume.box - EDGE_PX - helix.rise_A / volume.voxel_size_A
    if radius_px < 4:
        raise InputError(f"a rise of {helix.rise_A:g} Å in a box of {width_A:.4g} Å", "a box of several rises", "check helical_rise")
    inside = sphere_mask(volume.box, radius_px, EDGE_PX)
    steps = helical_operators(Helix(helix.twist_rad, helix.rise_A, 3))
    moved = [move_volume(smooth, RigidMotion(g, t)) for g, t in zip(steps.rotations[1:], steps.translations_A[1:], strict=True)]
    return {n: _correlation(smooth.data, other.data, inside) for n, other in zip((-1, 1), moved, strict=True)}


def _correlation(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> float:
    """Correlation of two maps under a weight; 0 where one of them is constant."""
    a, b = (x - np.average(x, weights=mask) for x in (a.astype(np.float64), b.astype(np.float64)))
    norm = np.sqrt((mask * a * a).sum() * (mask * b * b).sum())
    return float((mask * a * b).sum() / norm) if norm > 0 else 0.0


def _objections(axes: AxisError | None, helical: dict[int, float], max_angle_deg: float, volume: Volume) -> list[str]:
    """What speaks against an expansion, in words."""
    found = []
    if axes is not None and axes.best_correlation[1:].min() < LEAST_CORRELATION:
        found.append(f"the map correlates with its copies by {axes.best_correlation[1:].min():.2f} at worst wherever the axes near by are "
                     f"taken to be: below {LEAST_CORRELATION} it does not have this group there")
        axes = None  # where the axes of a group lie that is not there says nothing
    if axes is not None and axes.angle_deg > max_angle_deg:
        found.append(f"the map's axes are {axes.angle_deg:.2f} ± {axes.angle_sd_deg:.2f}° from the operators', above {max_angle_deg:g}°")
    bound_A = np.deg2rad(max_angle_deg) * OFFSET_RADIUS * volume.box * volume.voxel_size_A
    if axes is not None and axes.offset_A > bound_A:
        found.append(f"the centre of symmetry is {axes.offset_A:.2f} ± {axes.offset_sd_A:.2f} Å from that of the box, above {bound_A:.2f} "
                     f"Å, by which {max_angle_deg:g}° moves density at a quarter of the box")
    if helical and min(helical.values()) < LEAST_CORRELATION:
        found.append(f"the map correlates with itself one subunit along the helix by {min(helical.values()):.2f}, below "
                     f"{LEAST_CORRELATION}")
    return found
