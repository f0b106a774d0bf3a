"""A start volume put onto the axes of the group that is to be imposed, and what imposing it gained over the map that it was."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from protomer.formats.hdf5 import read_any_volume, read_map_record
from protomer.maps.rigid_motion import RigidMotion, move_volume
from protomer.maps.volumes import MapRecord, Volume
from protomer.running.events import Events
from protomer.symmetry.axis_fit import AxisFit, default_finest_A
from protomer.symmetry.finding import spectrum_for
from protomer.symmetry.ranking import expected_correlation, least_correlation
from protomer.symmetry.search import find_axes

HDF5_ENDINGS = (".h5", ".hdf5")
SURE_WITHOUT_HALF_MAPS = 0.95  # coarse maps that have a group reach 0.98 to 1, globular ones without it 0.5 to 0.93
ON_AXES_DEG, ON_AXES_VOXELS = 0.05, 0.05  # nearer than this a map is left as it is, without interpolation


@dataclass(frozen=True)
class StartAxes:
    """Where a group's axes lie in a start volume. expected: correlation under the operators that its half maps allow, None without."""

    group: str
    fit: AxisFit
    expected: float | None
    record: MapRecord | None

    @property
    def weakest(self) -> float:
        """Correlation under the operator that fits worst, on the axes."""
        return float(self.fit.correlation[1:].min())

    @property
    def is_carried(self) -> bool:
        """Whether the volume agrees with itself under the group, as far as its noise allows."""
        return self.weakest >= least_correlation(self.expected)


def find_start_axes(path: Path, group: str, operators: np.ndarray, low_pass_A: float) -> StartAxes:
    """The group's axes in a start volume, down to half its low-pass or, where it comes with half maps, as far as they agree."""
    record = read_map_record(path) if path.suffix.lower() in HDF5_ENDINGS else None
    volume = read_any_volume(path)
    half_maps = None if record is None else record.half_maps
    finest_A = None if half_maps is not None else max(default_finest_A(volume), low_pass_A / 2)
    spectrum = spectrum_for(volume, None, half_maps, finest_A)
    return StartAxes(group, find_axes(spectrum, operators), expected_correlation(spectrum), record)


def on_axes(volume: Volume, axes: StartAxes, events: Events) -> Volume:
    """The start volume moved onto the axes; as it is, with a warning, where it does not carry the group. Warns where that is unsure."""
    motion, group = axes.fit.motion, axes.group
    if not axes.is_carried:
        events.warn(
            "start_without_symmetry",
            f"under {group} the start volume agrees with itself by {axes.weakest:.2f}, less than {least_correlation(axes.expected):.2f}: "
            f"its axes are unknown and it was left where it is: {group} about the box axes may be wrong for it; see what it carries "
            "with protomer symmetry-find --symmetry any",
        )
        return volume
    if axes.expected is None and axes.weakest < SURE_WITHOUT_HALF_MAPS:
        events.warn(
            "start_symmetry_unsure",
            f"under {group} the start volume agrees with itself by {axes.weakest:.2f}, and has no half maps to tell whether that is noise: "
            f"particles without {group} look as if they had it once it is imposed. Unless {group} is known, refine in C1 first and ask "
            "protomer symmetry-find --symmetry any",
        )
    if is_near(motion, volume.voxel_size_A):
        return volume
    events.event("start_moved", group=group, angle_deg=round(motion.angle_deg, 3), distance_A=round(motion.distance_A, 3),
                 motion=motion.to_mapping())
    return move_volume(volume, motion)


def is_near(motion: RigidMotion, voxel_size_A: float) -> bool:
    """Whether a motion is smaller than it is worth interpolating for."""
    return motion.angle_deg < ON_AXES_DEG and motion.distance_A < ON_AXES_VOXELS * voxel_size_A


def gain(axes: StartAxes, record: MapRecord) -> dict[str, Any]:
    """What imposing the group gained over the map it started from, and whether the copies in that map differ, for summary.json."""
    before = None if axes.record is None or axes.record.fsc is None else axes.record.fsc.resolution_A_at("corrected")
    after = None if record.fsc is None else record.fsc.resolution_A_at("corrected")
    return {
        "group": axes.group,
        "start_angle_deg": round(axes.fit.motion.angle_deg, 3),
        "start_offset_A": round(axes.fit.motion.distance_A, 3),
        "resolution_without_A": None if before is None or not np.isfinite(before) else round(before, 3),
        "resolution_with_A": None if after is None or not np.isfinite(after) else round(after, 3),
        "copies_correlation": round(axes.weakest, 4),
        "copies_correlation_expected": None if axes.expected is None else round(axes.expected, 4),
    }


def in_words(axes: StartAxes, record: MapRecord) -> str:
    """The same as a paragraph of the report."""
    facts, group = gain(axes, record), axes.group
    said = f"The start volume's {group} axes were {facts['start_angle_deg']:.2f}° and {facts['start_offset_A']:.2f} Å from their places"
    said += "; it was moved onto them. " if axes.is_carried else ", if it carries the group at all: it was left where it is. "
    if facts["resolution_without_A"] and facts["resolution_with_A"] and axes.record is not None and axes.record.symmetry == "C1":
        said += (f"Without symmetry the start map reached {facts['resolution_without_A']:.2f} Å, with {group} imposed "
                 f"{facts['resolution_with_A']:.2f} Å. ")
    if axes.expected is None:
        return said + f"Without half maps of the start it cannot be told whether its copies differ (they agree by {axes.weakest:.2f})."
    differ = "no more than its noise explains" if axes.is_carried else "more than its noise explains: consider relaxation"
    return said + (f"Under the operator that fits worst the start map agrees with itself by {axes.weakest:.2f}, where its half maps allow "
                   f"{axes.expected:.2f}: its copies differ {differ}.")
