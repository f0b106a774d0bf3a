"""postprocess: two half maps -> FSC set, B-factor, filtered and sharpened map."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import fft

from protomer.declarations.postprocess import PostprocessSettings
from protomer.errors import InputError
from protomer.formats.hdf5 import read_map_record
from protomer.formats.mrc import read_header, read_volume
from protomer.maps.finishing import Sharpened, choose_mask, sharpen, warn_of_resolution, write_maps
from protomer.maps.volumes import Halves, Volume
from protomer.report.build import Report
from protomer.report.figures import fsc_caption, fsc_figure, guinier_figure, projections_figure, slices_figure
from protomer.running.job_run import Inputs, JobRun, Plan

HDF5_ENDINGS = (".h5", ".hdf5")


@dataclass(frozen=True)
class HalfMapInput:
    """What the job starts from."""

    half_maps: Halves[Volume]
    symmetry: str


def run(inputs: Inputs, settings: PostprocessSettings, job: JobRun) -> dict[str, Any]:
    """Measure, filter, sharpen, write."""
    with fft.set_workers(job.threads):
        given = load(inputs.volume, settings.voxel_size)
        mask = None if inputs.mask is None else in_frame(read_volume(inputs.mask, settings.voxel_size), given.half_maps.a.voxel_size_A)
        chosen = choose_mask(given.half_maps, mask, "" if inputs.mask is None else inputs.mask.name, job)
        result = sharpen(given.half_maps, None, chosen, given.symmetry, settings.b_factor, settings.fit_from, job)
    job.check_stop()
    fsc = result.record.fsc
    assert fsc is not None
    warn_of_resolution(fsc, result.record.fsc_mask, job, np.inf)
    write_maps(result.record, job)
    write_report(result, job)
    return {"resolution_A": fsc.summary(), "mask": fsc.mask_name, "b_factor_A2": round(result.b_factor_A2, 2), "box": fsc.box,
            "voxel_size_A": fsc.voxel_size_A}


def load(paths: tuple[Path | None, ...], voxel_size_A: float | None) -> HalfMapInput:
    """The half maps of one volume.h5, or of two .mrc files. Raises InputError for anything else."""
    present = [path for path in paths if path is not None]
    if len(present) == 1 and present[0].suffix.lower() in HDF5_ENDINGS:
        record = read_map_record(present[0])
        return HalfMapInput(record.half_maps, record.symmetry)
    if len(present) != 2 or any(path.suffix.lower() in HDF5_ENDINGS for path in present):
        raise InputError(f"{len(present)} volume(s): {', '.join(path.name for path in present)}",
                         "one volume.h5 (or the folder of a job), or the two half maps as .mrc",
                         "give --volume half_a.mrc --volume half_b.mrc; a single map has no FSC")
    if present[0].resolve() == present[1].resolve():
        raise InputError(f"{present[0]} was given as both half maps", "two different half maps", "give the other half map")
    halves = Halves(*(read_volume(path, voxel_size_A) for path in present))
    if halves.a.box != halves.b.box or abs(halves.a.voxel_size_A / halves.b.voxel_size_A - 1) > 1e-3:
        raise InputError(f"half maps of box {halves.a.box} at {halves.a.voxel_size_A:.4g} Å and box {halves.b.box} at "
                         f"{halves.b.voxel_size_A:.4g} Å", "one box and voxel size", "give the two half maps of one reconstruction")
    if np.array_equal(halves.a.data, halves.b.data):
        raise InputError(f"{present[0].name} and {present[1].name} hold the same map", "two independent half maps",
                         "their FSC would be 1 everywhere and mean nothing")
    return HalfMapInput(Halves(halves.a, Volume(halves.b.data, halves.a.voxel_size_A)), "C1")


def in_frame(mask: Volume, voxel_size_A: float) -> Volume:
    """The mask with exactly the maps' voxel size where it differs by rounding only; else as it is, and the FSC refuses it."""
    return Volume(mask.data, voxel_size_A) if abs(mask.voxel_size_A / voxel_size_A - 1) < 1e-3 else mask


def write_report(result: Sharpened, job: JobRun) -> None:
    """Write report.html."""
    record, fit = result.record, result.fit
    fsc = record.fsc
    assert fsc is not None and record.sharpened is not None
    report = Report("Post-processing", job.events.warnings, {"mask": fsc.mask_name, "box": f"{fsc.box} voxels of {fsc.voxel_size_A:.4g} Å"})
    report.headline("resolution", fsc.describe("corrected").split(" (")[0], "corrected FSC at 0.143")
    report.headline("unmasked", fsc.describe("unmasked").split(" (")[0], "FSC at 0.143")
    report.headline("B-factor", f"{result.b_factor_A2:.0f} Å²", "decay undone by sharpening")
    report.section("Resolution")
    report.figure(fsc_figure(fsc), fsc_caption(fsc))
    report.section("Map")
    report.figure(slices_figure(record.map, record.fsc_mask), "Central slices of the FSC-weighted map, with the 0.5 (line) and 0.01 (dots) "
                                                              "contours of the mask.")
    report.figure(slices_figure(record.sharpened), "Central slices of the sharpened map.")
    report.figure(projections_figure(record.map), "Projections of the FSC-weighted map.")
    if fit is not None:
        report.section("Sharpening")
        report.figure(guinier_figure(fit), "Guinier plot; the shaded range was fitted.")
    with job.output.writing("report.html") as path:
        path.write_text(report.html(), encoding="utf-8")


def plan(inputs: Inputs, settings: PostprocessSettings, ranks: int, threads: int) -> Plan:
    """Memory and time from the number of voxels, at measured rates."""
    first = next(path for path in inputs.volume if path is not None)
    box = read_map_record(first).map.box if first.suffix.lower() in HDF5_ENDINGS else read_header(first).shape[-1]
    voxels = box**3
    return Plan(memory_bytes=230_000_000 + 40 * voxels, disk_bytes=32 * voxels + 1_000_000, seconds=2 + voxels * 9e-7)
