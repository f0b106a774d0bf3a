"""orientations: particles with poses, and half maps -> how evenly directions are covered, and what the map has of it."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import fft

from protomer.declarations.orientations import OrientationsSettings
from protomer.errors import InputError
from protomer.formats.hdf5 import read_particles
from protomer.formats.mrc import read_volume
from protomer.maps.directional import DirectionalFsc, directional_fsc
from protomer.maps.finishing import choose_mask
from protomer.maps.half_maps_given import in_frame, load_half_maps
from protomer.report.build import Report
from protomer.report.direction_pictures import cone_figure, sphere_figure
from protomer.report.pictures import orientation_figure
from protomer.running.job_run import Inputs, JobRun, Plan
from protomer.symmetry.point_groups import canonical_name, operators
from protomer.tables.particles import Particles
from protomer.tables.views import Coverage, Sampling, coverage, sampling_of, viewing_directions

LEAST_SCF = 0.8  # side views alone have 0.81 and leave no direction out
LEAST_CFAR = 0.5
LEAST_HALF = 0.25  # of the directions, in which half of the views must not all be
FEWEST_VIEWS = 100
SHOWN_VIEWS = 200_000


@dataclass(frozen=True)
class Result:
    """What was found; by_direction is None where no half maps were given."""

    coverage: Coverage
    sampling: Sampling
    by_direction: DirectionalFsc | None
    mask_name: str


def run(inputs: Inputs, settings: OrientationsSettings, job: JobRun) -> dict[str, Any]:
    """Count, correlate, save."""
    particles = load_particles(inputs)
    group = operators(inputs.symmetry, inputs.axes)
    views = viewing_directions(particles.rotation)
    with fft.set_workers(job.threads):
        by_direction, mask_name = correlate(inputs, settings, job)
    result = Result(coverage(views, group), sampling_of(views, group), by_direction, mask_name)
    warn_of_outcome(result, len(views), job)
    write(result, job)
    job.output.write_text("report.html", report_of(particles, group, inputs.symmetry, result, job))
    return summary_of(particles, inputs.symmetry, result)


def load_particles(inputs: Inputs) -> Particles:
    """The particles. Raises InputError where they have no poses."""
    particles = read_particles(inputs.particles)
    if not len(particles) or not particles.has_poses:
        raise InputError(f"{inputs.particles}: {len(particles)} particles{'' if particles.has_poses else ' without poses'}",
                         "particles with poses", "refine them first")
    return particles


def correlate(inputs: Inputs, settings: OrientationsSettings, job: JobRun) -> tuple[DirectionalFsc | None, str]:
    """Conical FSCs of the half maps, where there are some, in the mask given or made by rule."""
    if not any(path is not None for path in inputs.volume):
        if inputs.mask is not None:
            raise InputError("--mask without --volume", "the half maps that it covers", "add --volume, or leave --mask out")
        return None, ""
    half_maps = load_half_maps(inputs.volume, settings.voxel_size).half_maps
    given = None if inputs.mask is None else in_frame(read_volume(inputs.mask, settings.voxel_size), half_maps.a.voxel_size_A)
    if given is not None and given.box != half_maps.a.box:
        raise InputError(f"the mask {inputs.mask.name} of box {given.box}", f"box {half_maps.a.box}, as the half maps have it",
                         "bring it there with protomer volume --mask, resample, crop or pad")
    mask, name = choose_mask(half_maps, given, "" if inputs.mask is None else inputs.mask.name, job)
    return directional_fsc(half_maps, mask.data), name


def warn_of_outcome(result: Result, number: int, job: JobRun) -> None:
    """Warn of uneven views, missing ones, and a map that is worse in some directions."""
    scf, unseen, half = result.sampling.scf, result.sampling.unseen, result.coverage.densest_half
    if number < FEWEST_VIEWS:
        job.events.warn("few_views", f"{number} views: what is said of how even they are is little more than chance")
    if half < LEAST_HALF or scf < LEAST_SCF:
        job.events.warn("preferred_views", f"half of the views lie in {100 * half:.0f}% of the directions, and of the signal-to-noise "
                        f"ratio that as many even views would give {100 * scf:.0f}% are left (SCF): protomer select --rebalance thins out "
                        "crowded views; more of the rare ones come from tilting the stage or from other grids")
    if unseen > 0:
        job.events.warn("missing_views", f"no slice passes through {100 * unseen:.1f}% of the directions of Fourier space: the map is "
                        "smeared along them, and no weighting brings them back")
    if result.by_direction is not None and result.by_direction.cfar < LEAST_CFAR:
        finite = result.by_direction.resolution_A
        job.events.warn("anisotropic_map", f"cFAR {result.by_direction.cfar:.2f}: the worst direction has that share of the best one's "
                        f"correlation; resolutions by direction from {finite.min():.1f} to {finite.max():.1f} Å")


def write(result: Result, job: JobRun) -> None:
    """sampling.csv and, with half maps, conical_fsc.csv."""
    with job.output.writing("sampling.csv") as path, open(path, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["x", "y", "z", "sampling"])
        rows.writerows([*direction, value] for direction, value in zip(result.sampling.directions.round(6).tolist(),
                                                                      result.sampling.sampling.round(6).tolist(), strict=True))
    found = result.by_direction
    if found is None:
        return
    with job.output.writing("conical_fsc.csv") as path, open(path, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["x", "y", "z", "resolution_A", *(f"shell_{shell}" for shell in range(found.fsc.shape[1]))])
        for direction, resolution_A, curve in zip(found.directions, found.resolution_A, found.fsc, strict=True):
            rows.writerow([*direction.round(6).tolist(), round(float(resolution_A), 4), *curve.round(6).tolist()])


def report_of(particles: Particles, group: np.ndarray, symmetry: str, result: Result, job: JobRun) -> str:
    """report.html."""
    sampling, found = result.sampling, result.by_direction
    report = Report("Orientations", job.events.warnings, {"views": f"{len(particles):,}", "symmetry": canonical_name(symmetry),
                                                          **({"mask": result.mask_name} if found is not None else {})})
    report.headline("SCF", f"{sampling.scf:.2f}", "1: even; 0.81: side views alone")
    report.headline("half of the views", f"{100 * result.coverage.densest_half:.0f}%", "of the directions; 50% where they are even")
    if found is not None:
        report.headline("cFAR", f"{found.cfar:.2f}", "worst over best direction")
    report.section("Viewing directions", "As the poses have them; of a map with symmetry all mates stand for one another.")
    shown = np.arange(0, len(particles), -(-len(particles) // SHOWN_VIEWS))
    report.figure(orientation_figure(particles.rotation[shown]), f"Directions along which {len(particles):,} particles were seen.")
    report.section("Sampling of Fourier space", f"Slices through each direction at Fourier radius {sampling.radius:.3g}, with "
                   f"all {len(group)} mates of every view, relative to an even coverage. SCF: harmonic mean (Baldwin & Lyumkis 2020).")
    report.figure(sphere_figure(sampling.directions, sampling.sampling, "sampling", (0.0, max(2.0, float(sampling.sampling.max())))),
                  "Sampling by direction. Dark: the map is poor along it.")
    if found is not None:
        report.section("The map", "Fourier shell correlations of the half maps in cones of 20 degrees (Tan et al. 2017).")
        report.figure(cone_figure(found), f"Conical FSC; cFAR, the ratio of areas, is {found.cfar:.2f}.")
        finite = np.where(np.isfinite(found.resolution_A), found.resolution_A, found.width_A)
        low, high = float(finite.min()), float(finite.max())
        report.figure(sphere_figure(found.directions, finite, "Å", (low, max(high, low + 0.1))),
                      "Resolution by direction, at 0.143. Bright: the map is poor along it.")
    return report.html()


def summary_of(particles: Particles, symmetry: str, result: Result) -> dict[str, Any]:
    """What summary.json says."""
    sampling, found = result.sampling, result.by_direction
    by_direction = {} if found is None else {
        "cfar": round(found.cfar, 4), "mask": result.mask_name,
        "resolution_by_direction_A": [round(float(value), 3) if np.isfinite(value) else None
                                      for value in (found.resolution_A.min(), found.resolution_A.max())]}
    return {"views": len(particles), "symmetry": canonical_name(symmetry), "scf": round(sampling.scf, 4),
            "unseen_directions": round(sampling.unseen, 4), "densest_half": round(result.coverage.densest_half, 4),
            "empty_directions": round(result.coverage.empty, 4), "sampling_radius": round(sampling.radius, 3), **by_direction}


def plan(inputs: Inputs, settings: OrientationsSettings, ranks: int, threads: int) -> Plan:
    """Memory of the table and the half maps; time from measured rates."""
    particles, order = load_particles(inputs), len(operators(inputs.symmetry, inputs.axes))
    voxels = load_half_maps(inputs.volume, settings.voxel_size).half_maps.a.box ** 3 if any(inputs.volume) else 0
    return Plan(300_000_000 + 600 * len(particles) + 40 * voxels, 2_000_000,
                4 + 4e-6 * min(len(particles) * order, 400_000) + 2e-6 * len(particles) + 1e-6 * voxels)
