"""local-resolution: two half maps -> resolution place by place and a map filtered by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import fft

from protomer.declarations.local_resolution import LocalResolutionSettings
from protomer.errors import InputError, SettingsError
from protomer.formats.mrc import read_volume, write_volume
from protomer.maps.finishing import choose_mask, sharpen
from protomer.maps.fsc_curves import FscSet
from protomer.maps.half_maps_given import in_frame, load_half_maps
from protomer.maps.local_resolution import Bands, LocalResolution, choose_bands, filter_locally, measure_local_resolution
from protomer.maps.sharpening import sharpened_map
from protomer.maps.volumes import Halves, Volume
from protomer.report.build import Report
from protomer.report.figures import fsc_caption, fsc_figure, slices_figure
from protomer.report.pictures import cut_off_figure
from protomer.report.resolution_pictures import resolution_histogram, surface_figure
from protomer.running.job_run import Inputs, JobRun, Plan

MOST_ZERO = 0.05  # of the voxels may be exactly 0 in maps that no mask has touched
MOSTLY = 0.5  # of the mask, from which on a thing is said of it
SURFACE_SDS, SURFACE_SHARE = 4.0, 0.25  # the pictured surface: above the solvent's spread, and of the density's height
COLOUR_PERCENTILES = (2.0, 95.0)


@dataclass(frozen=True)
class Result:
    """What the job found, all of one box: resolutions, the map filtered by them, the mask, and the FSC of the whole."""

    local: LocalResolution
    filtered: Volume
    mask: Volume
    fsc: FscSet
    b_factor_A2: float
    inside: np.ndarray

    @property
    def values_A(self) -> np.ndarray:
        """Resolutions of the voxels in the mask that have one."""
        return self.local.of(self.inside)

    @property
    def unresolved(self) -> float:
        """The share of the mask without a resolution."""
        return 1.0 - len(self.values_A) / max(int(self.inside.sum()), 1)

    @property
    def colour_limits_A(self) -> tuple[float, float]:
        """The range of resolutions that colours span."""
        if not len(self.values_A):
            return self.local.finest_A, self.local.none_A
        low, high = (float(value) for value in np.percentile(self.values_A, COLOUR_PERCENTILES))
        return low, max(high, low + 0.1)


def run(inputs: Inputs, settings: LocalResolutionSettings, job: JobRun) -> dict[str, Any]:
    """Measure, filter, save."""
    with fft.set_workers(job.threads):
        half_maps = load_half_maps(inputs.volume, settings.voxel_size).half_maps
        bands = bands_of(half_maps.a.box, half_maps.a.voxel_size_A, settings)
        warn_of_masked_halves(half_maps, job)
        mask = None if inputs.mask is None else in_frame(read_volume(inputs.mask, settings.voxel_size), half_maps.a.voxel_size_A)
        result = measure(half_maps, mask, "" if inputs.mask is None else inputs.mask.name, bands, settings, job)
    warn_of_outcome(result, job)
    write(result, bands, job)
    return summary_of(result, bands)


def bands_of(box: int, voxel_size_A: float, settings: LocalResolutionSettings) -> Bands:
    """The bands that are tried. Raises SettingsError where the box is too coarse for the first."""
    if settings.coarsest < 3 * voxel_size_A:
        raise SettingsError(f"coarsest = {settings.coarsest:g} Å for voxels of {voxel_size_A:.4g} Å",
                            f"at least {3 * voxel_size_A:.4g} Å, 3 voxels", "leave coarsest at 40 Å, or check the voxel size")
    return choose_bands(box, voxel_size_A, settings.coarsest, settings.window or 0.0)


def measure(half_maps: Halves[Volume], given: Volume | None, name: str, bands: Bands, settings: LocalResolutionSettings,
            job: JobRun) -> Result:
    """The mask before anything is measured in it; the whole; each place."""
    if given is not None and given.box != half_maps.a.box:
        raise InputError(f"the mask {name} of box {given.box}", f"box {half_maps.a.box}, as the half maps have it",
                         "bring it there with protomer volume --mask, resample, crop or pad")
    chosen = choose_mask(half_maps, given, name, job)
    whole = sharpen(half_maps, None, chosen, "C1", settings.b_factor, settings.fit_from, job)
    inside = chosen[0].data > 0
    with job.progress("bands", len(bands)) as line:
        def advance() -> None:
            line.advance(1)
            job.check_stop()
        local = measure_local_resolution(half_maps, bands, inside, settings.threshold, settings.false_discovery, advance)
    cut_off = np.where(local.is_known, bands.box * half_maps.a.voxel_size_A / local.resolution_A.data, bands.radius[0])
    mean = Volume((half_maps.a.data + half_maps.b.data) * np.float32(0.5), half_maps.a.voxel_size_A)
    sharp = sharpened_map(mean, np.ones(bands.box // 2 + 1), whole.b_factor_A2)
    filtered = filter_locally(sharp, cut_off, bands.radius, job.check_stop)
    assert whole.record.fsc is not None
    return Result(local, filtered, chosen[0], whole.record.fsc, whole.b_factor_A2, inside)


def warn_of_masked_halves(half_maps: Halves[Volume], job: JobRun) -> None:
    """Warn of half maps that somebody masked."""
    zero = float(np.mean((half_maps.a.data == 0) & (half_maps.b.data == 0)))
    if zero > MOST_ZERO:
        job.events.warn("masked_half_maps", f"{100 * zero:.0f}% of the voxels are exactly 0 in both half maps: a mask was applied to them. "
                        "It correlates them at its edge, and what is resolved there is the mask; give the half maps as reconstructed")


def warn_of_outcome(result: Result, job: JobRun) -> None:
    """Warn where little is resolved, or all as far as voxels allow."""
    if not len(result.values_A):
        job.events.warn("nothing_resolved", "no place in the mask is resolved: the half maps agree no better than noise does")
        return
    if result.unresolved > MOSTLY:
        job.events.warn("mostly_unresolved", f"{100 * result.unresolved:.0f}% of the mask has no resolution: it is wide, or covers solvent")
    at_end = float(np.mean(result.values_A <= result.local.finest_A * 1.001))
    if at_end > MOSTLY:
        job.events.warn("limited_by_pixel_size", f"{100 * at_end:.0f}% of the places agree to the finest band, {result.local.finest_A:.2f} "
                        "Å: the voxels are the limit, or the half maps are not independent")


def surface_level(result: Result) -> float:
    """The grey value at which the map's surface is shown: above solvent, at a share of the density."""
    outside, inside = result.filtered.data[~result.inside], result.filtered.data[result.mask.data > 0.5]
    spread = float(outside.std()) if outside.size else 0.0
    return max(SURFACE_SDS * spread, SURFACE_SHARE * float(np.percentile(inside, 99.5)))


def chimerax_script(result: Result) -> str:
    """Commands that show the filtered map coloured by resolution in ChimeraX."""
    low, high = result.colour_limits_A
    return ("open map_locally_filtered.mrc\nopen local_resolution.mrc\n"
            f"volume #1 level {surface_level(result):.5g} step 1\nhide #2 models\n"
            f"color sample #1 map #2 palette blue:cyan:green:yellow:red range {low:.3g},{high:.3g}\n"
            f"key blue:{low:.3g} cyan: green:{(low + high) / 2:.3g} yellow: red:{high:.3g}\n")


def write(result: Result, bands: Bands, job: JobRun) -> None:
    """The maps, the script for ChimeraX, and the report."""
    for name, volume in (("local_resolution.mrc", result.local.resolution_A), ("map_locally_filtered.mrc", result.filtered),
                         ("mask.mrc", result.mask)):
        with job.output.writing(name) as path:
            write_volume(path, volume)
    job.output.write_text("colour_by_resolution.cxc", chimerax_script(result))
    job.output.write_text("report.html", report_of(result, bands, job))


def report_of(result: Result, bands: Bands, job: JobRun) -> str:
    """report.html."""
    local, fsc = result.local, result.fsc
    report = Report("Local resolution", job.events.warnings, {"mask": fsc.mask_name, "box": f"{fsc.box} voxels of {fsc.voxel_size_A:.4g} Å",
                                                              "B-factor undone": f"{result.b_factor_A2:.0f} Å²"})
    if len(result.values_A):
        low, median, high = np.percentile(result.values_A, (10, 50, 90))
        report.headline("median", f"{median:.2f} Å", "of the resolved voxels in the mask")
        report.headline("finest and coarsest tenth", f"{low:.2f} and {high:.2f} Å")
    report.headline("without resolution", f"{100 * result.unresolved:.0f}%", "of the mask")
    report.section("Where", "Colours are the resolution at which the local correlation of the half maps falls below what is asked for.")
    limits = result.colour_limits_A
    report.figure(surface_figure(result.filtered, surface_level(result), local.resolution_A, local.is_known, limits, "Å"),
                  f"Surface of the locally filtered map at {surface_level(result):.3g}; grey where there is no resolution.")
    report.figure(cut_off_figure(local.resolution_A, result.mask), "Central slices of the local resolution, with the mask's contour.")
    report.figure(slices_figure(result.filtered), "Central slices of the locally filtered, sharpened map.")
    report.figure(resolution_histogram(result.values_A, fsc.resolution_A_at("corrected")), "Voxels of the mask by resolution.")
    report.section("How it was measured", f"In {len(local.band_A)} of {len(bands)} bands (no place was left for finer ones). What is asked "
                   "of a correlation is the threshold, or more where noise reaches it by chance.")
    report.table(("band (Å)", "window (Å)", "correlation asked", "places left (%)"),
                 [(float(a), float(w) * fsc.voxel_size_A, float(c), 100 * float(s))
                  for a, w, c, s in zip(local.band_A, bands.width_px, local.asked, local.share, strict=False)])
    report.figure(fsc_figure(fsc), fsc_caption(fsc))
    return report.html()


def summary_of(result: Result, bands: Bands) -> dict[str, Any]:
    """What summary.json says."""
    fsc, values = result.fsc, result.values_A
    names = ("finest_tenth", "median", "coarsest_tenth")
    found = np.percentile(values, (10, 50, 90)).round(4).tolist() if len(values) else [None] * 3
    return {"resolution_A": fsc.summary(), "local_resolution_A": dict(zip(names, found, strict=True)),
            "unresolved_share_of_mask": round(result.unresolved, 4), "unresolved_value_A": round(result.local.none_A, 4),
            "bands_tried": len(result.local.band_A), "bands": len(bands), "b_factor_A2": round(result.b_factor_A2, 2), "box": fsc.box,
            "voxel_size_A": fsc.voxel_size_A, "mask": fsc.mask_name, "surface_level": round(surface_level(result), 6)}


def plan(inputs: Inputs, settings: LocalResolutionSettings, ranks: int, threads: int) -> Plan:
    """Memory and time from the number of voxels and bands, at measured rates."""
    volume = load_half_maps(inputs.volume, settings.voxel_size).half_maps.a
    box = volume.box
    bands = bands_of(box, volume.voxel_size_A, settings)
    return Plan(memory_bytes=250_000_000 + 70 * box**3, disk_bytes=12 * box**3 + 1_000_000,
                seconds=3 + box**3 * (2e-6 + 2.5e-7 * len(bands)))
