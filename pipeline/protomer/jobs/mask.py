"""mask: shapes, thresholds and other masks -> mask.mrc."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from protomer.declarations.mask import MaskSettings
from protomer.errors import InputError, NotYetError, SettingsError
from protomer.formats.hdf5 import read_any_volume, read_map_record
from protomer.formats.mrc import read_volume, write_volume
from protomer.job_run import Inputs, JobRun, Plan
from protomer.mask_rule import find_support
from protomer.report.build import Report
from protomer.report.figures import slices_figure
from protomer.volumes import Volume
from protomer_kernels import masks
from protomer_kernels.fourier import low_pass

EDGE_RESOLUTIONS = 5.0  # default soft edge in units of the resolution
EDGE_BOX_FRACTION = 1 / 8  # and its largest share of the box
EDGE_FEWEST_PX = 5.0


def run(inputs: Inputs, settings: MaskSettings, job: JobRun) -> dict[str, Any]:
    """Make the mask and write mask.mrc and report.html."""
    volume, others = load(inputs, settings)
    frame = volume if volume is not None else others[0]
    resolution_A = map_resolution_A(inputs.volume)
    started = starting_voxels(volume, others, frame, settings)
    combined = combine(started["voxels"], started["others"], settings.combine)
    if not combined.any():
        raise InputError("no voxel is left in the mask", "density above the threshold inside the shape",
                         "lower the threshold, or look at the map's grey values")
    grown = masks.dilate(combined, started["dilate_A"] / frame.voxel_size_A) if started["dilate_A"] else combined
    edge_A = soft_edge_A(settings, frame, resolution_A or started["low_pass_A"])
    mask = Volume(masks.soft_edge(grown, edge_A / frame.voxel_size_A), frame.voxel_size_A)
    warn_of_trouble(mask, grown, edge_A, resolution_A, job)
    description = f"{started['text']}, grown {started['dilate_A']:.1f} Å, soft edge {edge_A:.1f} Å"
    return write(mask, frame, description, job)


def load(inputs: Inputs, settings: MaskSettings) -> tuple[Volume | None, list[Volume]]:
    """The volume and the masks, all on one grid. Raises InputError, NotYetError."""
    if inputs.model is not None:
        raise NotYetError("a mask from an atomic model")
    volume = read_any_volume(inputs.volume, settings.voxel_size) if inputs.volume is not None else None
    others = [read_volume(path, settings.voxel_size) for path in inputs.mask or () if path is not None]
    present = [*([volume] if volume is not None else []), *others]
    if not present:
        raise InputError("neither --volume nor --mask was given", "one of them: it says the box and the voxel size",
                         "add --volume, also for a sphere or a cylinder")
    for other in present[1:]:
        if other.box != present[0].box or abs(other.voxel_size_A / present[0].voxel_size_A - 1) > 1e-3:
            raise InputError(f"inputs of box {present[0].box} at {present[0].voxel_size_A:.4g} Å and box {other.box} at "
                             f"{other.voxel_size_A:.4g} Å", "one box and voxel size", "resample one of them first")
    return volume, others


def map_resolution_A(path: Path | None) -> float | None:
    """The corrected resolution that a volume.h5 carries, if it does."""
    if path is None or path.suffix.lower() not in (".h5", ".hdf5"):
        return None
    fsc = read_map_record(path).fsc
    resolution_A = fsc.resolution_A_at("corrected") if fsc is not None else float("inf")
    return resolution_A if np.isfinite(resolution_A) else None


def starting_voxels(volume: Volume | None, others: list[Volume], frame: Volume, settings: MaskSettings) -> dict[str, Any]:
    """What the mask starts from (`voxels`, bool), the masks still to be combined, and what was decided, in numbers and words."""
    shape, shape_text = shape_voxels(frame, settings)
    has_threshold = settings.threshold is not None or settings.threshold_fraction is not None
    by_rule = volume is not None and shape is None and not has_threshold
    low_pass_A, dilate_A = settings.low_pass, settings.dilate or 0.0
    if by_rule and volume is not None:
        support = find_support(volume)
        voxels, low_pass_A = support.voxels, support.low_pass_A
        text = f"by rule: low-pass {low_pass_A:.1f} Å, threshold {support.level:.3g}"
        dilate_A = settings.dilate if settings.dilate is not None else low_pass_A / 3
    elif has_threshold:
        voxels, text = threshold_voxels(volume, settings)
        if shape is not None:
            voxels, text = voxels & shape, f"{text}, inside a {shape_text}"
    elif shape is not None:
        voxels, text = shape, shape_text
    else:
        voxels, text, others = others[0].data > 0.5, "the first mask", others[1:]
    if by_rule if settings.largest is None else settings.largest:
        voxels, text = masks.largest_component(voxels), f"{text}, largest part"
    if by_rule if settings.fill_holes is None else settings.fill_holes:
        voxels, text = masks.fill_holes(voxels), f"{text}, holes filled"
    if others:
        text = f"{text}, {settings.combine} {len(others)} more mask{'s' * (len(others) > 1)}"
    return {"voxels": voxels, "others": others, "text": text, "low_pass_A": low_pass_A, "dilate_A": dilate_A}


def shape_voxels(frame: Volume, settings: MaskSettings) -> tuple[np.ndarray | None, str]:
    """The voxels of the sphere or cylinder asked for, or None. Raises SettingsError."""
    if settings.sphere is not None and settings.cylinder is not None:
        raise SettingsError("both sphere and cylinder are set", "one shape at a time", "make two masks and combine them with --mask")
    centre = None
    if settings.centre is not None:
        x, y, z = numbers("centre", settings.centre, 3)
        centre = (z, y, x)
    if settings.sphere is not None:
        return masks.sphere_mask(frame.box, settings.sphere / 2 / frame.voxel_size_A, 0, centre) > 0, f"sphere of {settings.sphere:g} Å"
    if settings.cylinder is not None:
        diameter_A, height_A = numbers("cylinder", settings.cylinder, 2)
        radius_px, height_px = diameter_A / 2 / frame.voxel_size_A, height_A / frame.voxel_size_A
        return masks.cylinder_mask(frame.box, radius_px, height_px, 0, centre) > 0, f"cylinder of {diameter_A:g} by {height_A:g} Å"
    return None, ""


def numbers(name: str, text: str, count: int) -> list[float]:
    """Comma-separated numbers. Raises SettingsError."""
    try:
        values = [float(part.strip().removesuffix("Å").removesuffix("A")) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != count or not np.isfinite(values).all():
        raise SettingsError(f"setting {name}: {text!r}", f"{count} numbers with commas between", f"write {name}={','.join(['50'] * count)}")
    return values


def threshold_voxels(volume: Volume | None, settings: MaskSettings) -> tuple[np.ndarray, str]:
    """Density at or above the threshold after the low-pass. Raises InputError, SettingsError."""
    if volume is None:
        raise InputError("a threshold was set but no --volume given", "a volume to threshold", "add --volume, or use only --mask")
    if settings.threshold is not None and settings.threshold_fraction is not None:
        raise SettingsError("both threshold and threshold_fraction are set", "one of them", "unset one")
    data, text = volume.data, ""
    if settings.low_pass is not None:
        data = low_pass(data, volume.box * volume.voxel_size_A / settings.low_pass, 2)
        text = f"low-pass {settings.low_pass:g} Å, "
    level = settings.threshold if settings.threshold is not None else (settings.threshold_fraction or 0.0) * float(data.max())
    return masks.threshold_mask(data, level), f"{text}threshold {level:.4g}"


def combine(voxels: np.ndarray, others: list[Volume], how: str) -> np.ndarray:
    """The voxels and, or, and not those above 0.5 in each of the other masks."""
    for other in others:
        theirs = other.data > 0.5
        voxels = voxels & theirs if how == "and" else voxels | theirs if how == "or" else voxels & ~theirs
    return voxels


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
                                           "correlates half maps by itself")
    faces = [mask.data.take(face, axis).max() for axis in range(3) for face in (0, -1)]
    if max(faces) > 0.5:
        job.events.warn("mask_touches_box", "the mask reaches the faces of the box and is cut off there")
    if grown.mean() > 0.5:
        job.events.warn("mask_is_large", f"the mask covers {100 * grown.mean():.0f}% of the box, most of which is usually solvent")


def write(mask: Volume, frame: Volume, description: str, job: JobRun) -> dict[str, Any]:
    """Write the mask and a report that shows it on the map."""
    fraction = float(mask.data.mean())
    with job.output.writing("mask.mrc") as path:
        write_volume(path, mask)
    report = Report("Mask", job.events.warnings, {"rule": description, "volume": f"{100 * fraction:.2f}% of the box",
                                                  "box": f"{mask.box} voxels of {mask.voxel_size_A:.4g} Å"})
    report.figure(slices_figure(frame, mask), "Central slices of the map with the mask's 0.5 and 0.01 contours.")
    with job.output.writing("report.html") as path:
        path.write_text(report.html(), encoding="utf-8")
    return {"mask": description, "fraction_of_box": round(fraction, 6), "box": mask.box, "voxel_size_A": mask.voxel_size_A}


def plan(inputs: Inputs, settings: MaskSettings, ranks: int, threads: int) -> Plan:
    """Memory for a handful of copies of the box; seconds from measured rates."""
    volume, others = load(inputs, settings)
    voxels = (volume if volume is not None else others[0]).box ** 3
    return Plan(memory_bytes=170_000_000 + 23 * voxels, disk_bytes=4 * voxels + 500_000, seconds=1 + voxels * 3.5e-7)
