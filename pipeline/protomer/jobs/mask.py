"""mask: shapes, thresholds, models, asymmetric units and other masks -> mask.mrc."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from protomer.config.setting_values import read_numbers
from protomer.declarations.mask import MaskSettings
from protomer.errors import InputError, SettingsError
from protomer.formats.hdf5 import read_any_volume, read_map_record
from protomer.formats.mrc import read_volume, write_volume
from protomer.maps.mask_rule import rule_low_pass_A
from protomer.maps.mask_start import LEAST_AT_ATOMS, combine, density_at_atoms, model_atoms, starting_voxels
from protomer.maps.volumes import Volume
from protomer.report.build import Report
from protomer.report.figures import slices_figure
from protomer.running.job_run import Inputs, JobRun, Plan
from protomer.symmetry.asymmetric_unit import Unit, find_unit
from protomer.symmetry.point_groups import canonical_name, operators
from protomer_kernels import masks

EDGE_RESOLUTIONS = 5.0  # default soft edge in units of the resolution
EDGE_BOX_FRACTION = 1 / 8  # and its largest share of the box
EDGE_FEWEST_PX = 5.0
LEAST_CORRELATION = 0.5  # of a map with its copies, below which its group is doubted


def run(inputs: Inputs, settings: MaskSettings, job: JobRun) -> dict[str, Any]:
    """Make the mask and write mask.mrc and report.html."""
    volume, others = load(inputs, settings)
    frame = volume if volume is not None else others[0]
    resolution_A = map_resolution_A(inputs.volume)
    start = starting_voxels(volume, others, inputs, settings)
    combined = combine(start.voxels, start.others, settings.combine)
    if not combined.any():
        raise InputError("no voxel is left in the mask", "density above the threshold inside the shape",
                         "lower the threshold, or look at the map's grey values")
    grown = masks.dilate(combined, start.dilate_A / frame.voxel_size_A) if start.dilate_A else combined
    description, numbers = f"{start.text}, grown {start.dilate_A:.1f} Å", {}
    if settings.asymmetric_unit is not None:
        density = volume if volume is not None else Volume(grown.astype(np.float32), frame.voxel_size_A)
        unit = asymmetric_unit(density, grown, inputs, settings)
        grown = unit.voxels & grown if start.others else unit.voxels
        description = f"{description}, {unit.describe(canonical_name(settings.asymmetric_unit))}"
        warn_of_group(unit, settings, job)
        numbers = {"unit_seed_px": [round(s, 3) for s in unit.seed_px], "unit_cut": round(unit.cut, 4),
                   "unit_correlation": round(unit.correlation, 4)}
    edge_A = soft_edge_A(settings, frame, resolution_A or start.low_pass_A)
    mask = Volume(masks.soft_edge(grown, edge_A / frame.voxel_size_A), frame.voxel_size_A)
    warn_of_trouble(mask, grown, edge_A, resolution_A, job)
    warn_of_model(volume, inputs, settings, job)
    return {**write(mask, frame, f"{description}, soft edge {edge_A:.1f} Å", job), **numbers}


def load(inputs: Inputs, settings: MaskSettings) -> tuple[Volume | None, list[Volume]]:
    """The volume and the masks, all on one grid. Raises InputError, and SettingsError for settings of what is not asked for."""
    for name, needed, given in (("unit_seed", "asymmetric_unit", settings.asymmetric_unit),
                                ("unit_low_pass", "asymmetric_unit", settings.asymmetric_unit), ("model_chains", "--model", inputs.model)):
        if getattr(settings, name) is not None and given is None:
            raise SettingsError(f"{name} without {needed}", f"{name} together with {needed}", f"add {needed}, or unset {name}")
    volume = read_any_volume(inputs.volume, settings.voxel_size) if inputs.volume is not None else None
    others = [read_volume(path, settings.voxel_size) for path in inputs.mask or () if path is not None]
    present = [*([volume] if volume is not None else []), *others]
    if not present:
        raise InputError("neither --volume nor --mask was given", "one of them: it says the box and the voxel size",
                         "add --volume, also for a sphere, a cylinder or a model")
    first = present[0]
    for other in present[1:]:
        if other.box != first.box or abs(other.voxel_size_A / first.voxel_size_A - 1) > 1e-3:
            raise InputError(f"inputs of box {first.box} at {first.voxel_size_A:.4g} Å and box {other.box} at "
                             f"{other.voxel_size_A:.4g} Å", "one box and voxel size",
                             f"bring the other to the first: protomer volume --mask MASK.mrc --set resample={first.voxel_size_A:.4g}A "
                             f"--set {'pad' if other.box * other.voxel_size_A < first.box * first.voxel_size_A else 'crop'}={first.box}")
    return volume, others


def asymmetric_unit(density: Volume, voxels: np.ndarray, inputs: Inputs, settings: MaskSettings) -> Unit:
    """One unit of the voxels, shaped by the density. Raises InputError, SettingsError."""
    group = operators(str(settings.asymmetric_unit), inputs.axes)
    if len(group) == 1:
        raise SettingsError(f"asymmetric_unit {settings.asymmetric_unit}", "a group with at least one axis, such as C2",
                            "leave it unset: without symmetry everything is one unit")
    seed = None
    if settings.unit_seed is not None:
        x, y, z = read_numbers("unit_seed", settings.unit_seed, (3,), "px")
        seed = (x, y, z)
    low_pass_A = settings.unit_low_pass or rule_low_pass_A(density.box, density.voxel_size_A)
    return find_unit(density, voxels, group, settings.unit_method, low_pass_A, seed)


def map_resolution_A(path: Path | None) -> float | None:
    """The corrected resolution that a volume.h5 carries, if it does."""
    if path is None or path.suffix.lower() not in (".h5", ".hdf5"):
        return None
    fsc = read_map_record(path).fsc
    resolution_A = fsc.resolution_A_at("corrected") if fsc is not None else float("inf")
    return resolution_A if np.isfinite(resolution_A) else None


def soft_edge_A(settings: MaskSettings, frame: Volume, resolution_A: float | None) -> float:
    """The width of the edge: as set, or from the resolution (that of the map, of the low-pass, or the Nyquist limit)."""
    if settings.soft_edge is not None:
        return settings.soft_edge
    wanted_A = EDGE_RESOLUTIONS * (resolution_A or 2 * frame.voxel_size_A)
    return max(EDGE_FEWEST_PX * frame.voxel_size_A, min(wanted_A, EDGE_BOX_FRACTION * frame.box * frame.voxel_size_A))


def warn_of_trouble(mask: Volume, grown: np.ndarray, edge_A: float, resolution_A: float | None, job: JobRun) -> None:
    """Warn of an edge sharper than the map's resolution and of a mask that the box cuts off."""
    limit_A = resolution_A or 2 * mask.voxel_size_A
    if edge_A < limit_A:
        known = "the map's resolution" if resolution_A else "the finest detail of these voxels (the map's resolution is not known)"
        job.events.warn("sharp_mask_edge", f"the soft edge of {edge_A:.1f} Å is shorter than {limit_A:.1f} Å, {known}: such a mask "
                                           f"correlates half maps by itself; {EDGE_RESOLUTIONS * limit_A:.0f} Å, "
                                           f"{EDGE_RESOLUTIONS:g} times it, is safe")
    faces = [mask.data.take(face, axis).max() for axis in range(3) for face in (0, -1)]
    if max(faces) > 0.5:
        job.events.warn("mask_touches_box", "the mask reaches the faces of the box and is cut off there")
    if grown.mean() > 0.5:
        job.events.warn("mask_is_large", f"the mask covers {100 * grown.mean():.0f}% of the box, most of which is usually solvent")


def warn_of_group(unit: Unit, settings: MaskSettings, job: JobRun) -> None:
    """Warn of a map that does not have the group."""
    if unit.correlation < LEAST_CORRELATION:
        job.events.warn("group_not_carried", f"under the operator of {settings.asymmetric_unit} that fits worst the smoothed map agrees "
                                             f"with its copy by {unit.correlation:.2f} only: it is noisy, or lacks this group about "
                                             "the box centre; see protomer symmetry-find, which also moves a map onto its axes")


def warn_of_model(volume: Volume | None, inputs: Inputs, settings: MaskSettings, job: JobRun) -> None:
    """Warn of a model that lies where the map has no density."""
    if inputs.model is None or volume is None:
        return
    found = density_at_atoms(volume, model_atoms(volume, inputs, settings))
    if found < LEAST_AT_ATOMS:
        job.events.warn("model_misses_map", f"at the model's atoms the map is {found:.2f} standard deviations above its mean: with "
                                            f"model_origin={settings.model_origin} the model does not lie in the density; choose another")


def write(mask: Volume, frame: Volume, description: str, job: JobRun) -> dict[str, Any]:
    """Write the mask and a report that shows it on the map."""
    fraction = float(mask.data.mean())
    with job.output.writing("mask.mrc") as path:
        write_volume(path, mask)
    write_report(mask, frame, description, job)
    return {"mask": description, "fraction_of_box": round(fraction, 6), "box": mask.box, "voxel_size_A": mask.voxel_size_A}


def write_report(mask: Volume, frame: Volume, description: str, job: JobRun) -> None:
    """report.html."""
    report = Report("Mask", job.events.warnings, {"rule": description, "volume": f"{100 * float(mask.data.mean()):.2f}% of the box",
                                                  "box": f"{mask.box} voxels of {mask.voxel_size_A:.4g} Å"})
    report.figure(slices_figure(frame, mask), "Central slices of the map with the mask's 0.5 and 0.01 contours.")
    with job.output.writing("report.html") as path:
        path.write_text(report.html(), encoding="utf-8")


def plan(inputs: Inputs, settings: MaskSettings, ranks: int, threads: int) -> Plan:
    """Memory for a handful of copies of the box; seconds from measured rates."""
    volume, others = load(inputs, settings)
    voxels = (volume if volume is not None else others[0]).box ** 3
    return Plan(memory_bytes=200_000_000 + 30 * voxels, disk_bytes=4 * voxels + 500_000, seconds=1 + voxels * 3.5e-7)
