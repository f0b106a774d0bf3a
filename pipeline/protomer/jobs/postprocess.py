"""postprocess: two half maps -> FSC set, B-factor, filtered and sharpened map."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import fft

from protomer.declarations.postprocess import PostprocessSettings
from protomer.errors import InputError
from protomer.formats.hdf5 import read_map_record, write_map_record
from protomer.formats.mrc import read_header, read_volume, write_volume
from protomer.job_run import Inputs, JobRun, Plan
from protomer.mask_rule import mask_by_rule
from protomer.report.build import Report
from protomer.report.figures import fsc_caption, fsc_figure, guinier_figure, projections_figure, slices_figure
from protomer.resolution import FscSet, measure_fsc, write_fsc_csv
from protomer.sharpening import GuinierFit, fit_guinier, fsc_weight, sharpened_map
from protomer.volumes import Halves, MapRecord, Volume

HDF5_ENDINGS = (".h5", ".hdf5")
LARGE_MASK_EFFECT = 0.1  # FSC of randomised half maps in the mask, at the resolution, from which the mask is called too tight


@dataclass(frozen=True)
class HalfMapInput:
    """What the job starts from."""

    half_maps: Halves[Volume]
    symmetry: str


def run(inputs: Inputs, settings: PostprocessSettings, job: JobRun) -> dict[str, Any]:
    """Measure, filter, sharpen, write."""
    with fft.set_workers(job.threads):
        given = load(inputs.volume, settings)
        mask, mask_name = choose_mask(inputs.mask, given.half_maps, settings, job)
        fsc = measure_fsc(given.half_maps, mask, mask_name, settings.seed)
        warn_of_trouble(fsc, mask, job)
        mean = mean_map(given.half_maps)
        weight = fsc_weight(fsc)
        fit, b_factor_A2 = choose_b_factor(mean, weight, fsc, settings, job)
        record = MapRecord(given.half_maps, sharpened_map(mean, weight, 0.0), sharpened_map(mean, weight, b_factor_A2), None, mask, fsc,
                           given.symmetry, job.provenance)
    write(record, fsc, job)
    results = {"resolution_A": fsc.summary(), "mask": mask_name, "b_factor_A2": round(b_factor_A2, 2), "box": fsc.box,
               "voxel_size_A": fsc.voxel_size_A}
    write_report(record, fit, b_factor_A2, job)
    return results


def load(paths: tuple[Path | None, ...], settings: PostprocessSettings) -> HalfMapInput:
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
    halves = Halves(*(read_volume(path, settings.voxel_size) for path in present))
    if halves.a.box != halves.b.box or abs(halves.a.voxel_size_A / halves.b.voxel_size_A - 1) > 1e-3:
        raise InputError(f"half maps of box {halves.a.box} at {halves.a.voxel_size_A:.4g} Å and box {halves.b.box} at "
                         f"{halves.b.voxel_size_A:.4g} Å", "one box and voxel size", "give the two half maps of one reconstruction")
    if np.array_equal(halves.a.data, halves.b.data):
        raise InputError(f"{present[0].name} and {present[1].name} hold the same map", "two independent half maps",
                         "their FSC would be 1 everywhere and mean nothing")
    return HalfMapInput(Halves(halves.a, Volume(halves.b.data, halves.a.voxel_size_A)), "C1")


def choose_mask(path: Path | None, half_maps: Halves[Volume], settings: PostprocessSettings, job: JobRun) -> tuple[Volume, str]:
    """The mask that was given, or the one by rule; in either case before any FSC is read. Raises InputError."""
    if path is None:
        made = mask_by_rule(half_maps)
        if not made.found_density:
            job.events.warn("no_density", "the rule for the mask found no density above the noise; the FSC is measured in a sphere")
        return made.mask, made.name
    mask = read_volume(path, settings.voxel_size)
    lowest, highest = float(mask.data.min()), float(mask.data.max())
    if lowest < -1e-3 or highest > 1 + 1e-3 or highest <= 0:
        raise InputError(f"the mask {path} has values from {lowest:.3g} to {highest:.3g}", "values from 0 to 1",
                         "make it with `protomer mask`")
    same_frame = abs(mask.voxel_size_A / half_maps.a.voxel_size_A - 1) < 1e-3  # else measure_fsc refuses it
    return Volume(mask.data, half_maps.a.voxel_size_A) if same_frame else mask, path.name


def warn_of_trouble(fsc: FscSet, mask: Volume, job: JobRun) -> None:
    """Warnings about what the curves say."""
    shell = fsc.shell_at("corrected", 0.143)
    if fsc.is_limited_by_nyquist("corrected"):
        job.events.warn("limited_by_pixel_size", "the corrected FSC never falls below 0.143: the resolution is that of the voxels, or "
                                                 "the half maps are not independent")
    elif shell == 0:
        job.events.warn("no_resolution", "the half maps do not agree in any shell: no resolution can be given")
    at = int(np.ceil(shell))
    if fsc.randomised_from_shell < at <= fsc.box // 2 and fsc.randomised[at] > LARGE_MASK_EFFECT:
        job.events.warn("tight_mask", f"the mask alone correlates the half maps by {fsc.randomised[at]:.2f} at their resolution: a "
                                      "wider or softer mask is safer")
    if mask.data.max() > 0 and max(mask.data.take(face, axis).max() for axis in range(3) for face in (0, -1)) > 0.5:
        job.events.warn("mask_touches_box", "the mask reaches the faces of the box and is cut off there")


def mean_map(half_maps: Halves[Volume]) -> Volume:
    """The mean of the two halves: here, after the FSC, they may meet."""
    return Volume((half_maps.a.data + half_maps.b.data) * np.float32(0.5), half_maps.a.voxel_size_A)


def choose_b_factor(mean: Volume, weight: np.ndarray, fsc: FscSet, settings: PostprocessSettings,
                    job: JobRun) -> tuple[GuinierFit | None, float]:
    """The fit of the Guinier plot, and the B-factor that is undone: as set, or the fit's, or none."""
    resolution_A = fsc.resolution_A_at("corrected")
    fit = fit_guinier(mean, weight, settings.fit_from, resolution_A) if np.isfinite(resolution_A) else None
    if settings.b_factor is not None:
        return fit, settings.b_factor
    if fit is None:
        job.events.warn("no_b_factor", f"too few shells between {settings.fit_from:g} Å and the resolution for a Guinier fit: the "
                                       "sharpened map is only filtered")
        return None, 0.0
    return fit, fit.b_factor_A2


def write(record: MapRecord, fsc: FscSet, job: JobRun) -> None:
    """Write volume.h5, the .mrc copies and fsc.csv."""
    with job.output.writing("volume.h5") as path:
        write_map_record(path, record)
    for name, volume in (("map.mrc", record.map), ("map_sharpened.mrc", record.sharpened), ("mask.mrc", record.fsc_mask)):
        assert volume is not None
        with job.output.writing(name) as path:
            write_volume(path, volume)
    with job.output.writing("fsc.csv") as path:
        write_fsc_csv(path, fsc)


def write_report(record: MapRecord, fit: GuinierFit | None, b_factor_A2: float, job: JobRun) -> None:
    """Write report.html."""
    fsc = record.fsc
    assert fsc is not None and record.sharpened is not None
    report = Report("Post-processing", job.events.warnings, {"mask": fsc.mask_name, "box": f"{fsc.box} voxels of {fsc.voxel_size_A:.4g} Å"})
    report.headline("resolution", fsc.describe("corrected").split(" (")[0], "corrected FSC at 0.143")
    report.headline("unmasked", fsc.describe("unmasked").split(" (")[0], "FSC at 0.143")
    report.headline("B-factor", f"{b_factor_A2:.0f} Å²", "decay undone by sharpening")
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
