"""postprocess: two half maps -> FSC set, B-factor, filtered and sharpened map."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import fft

from protomer.declarations.postprocess import PostprocessSettings
from protomer.formats.hdf5 import read_map_record
from protomer.formats.mrc import read_header, read_volume
from protomer.maps.finishing import Sharpened, choose_mask, sharpen, warn_of_resolution, write_maps
from protomer.maps.half_maps_given import HDF5_ENDINGS, in_frame, load_half_maps
from protomer.report.build import Report
from protomer.report.figures import fsc_caption, fsc_figure, guinier_figure, projections_figure, slices_figure
from protomer.running.job_run import Inputs, JobRun, Plan


def run(inputs: Inputs, settings: PostprocessSettings, job: JobRun) -> dict[str, Any]:
    """Measure, filter, sharpen, write."""
    with fft.set_workers(job.threads):
        given = load_half_maps(inputs.volume, settings.voxel_size)
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
