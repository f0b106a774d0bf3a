"""report.html of an analysis of variability."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from protomer.maps.volumes import MapRecord, Volume
from protomer.report.build import Report
from protomer.report.figures import fsc_caption, fsc_figure
from protomer.report.pictures import slices_figure
from protomer.report.variability_pictures import (
    coordinates_figure,
    excess_figure,
    mode_figure,
    mode_fsc_figure,
    movie_markup,
    variances_figure,
)
from protomer.running.job_run import JobRun
from protomer.tables.particles import Particles
from protomer.variability.control import Verdict
from protomer.variability.displays import Part, in_images_box
from protomer.variability.work import Coordinates, Standing, Varying


@dataclass(frozen=True)
class Shown:
    """What the report is about; movies: of each mode; parts: windows and clusters with their maps."""

    standing: Standing
    coordinates: Coordinates
    verdict: Verdict
    mean: MapRecord
    movies: list[list[Volume]]
    parts: list[tuple[Part, MapRecord | None]]


def write_report(varying: Varying, shown: Shown, particles: Particles, job: JobRun) -> None:
    """Warnings first, then how many modes are real, where the particles lie on them, and each mode."""
    setup, verdict, last = varying.fixed.setup, shown.verdict, shown.standing.last
    width_A = setup.store.plane.box * setup.pixel_size_A
    images, is_sphere = len(np.unique(particles.image_uid)), varying.fixed.focus is varying.fixed.solvent
    facts = {
        "particles": len(particles) if images == len(particles) else f"{len(particles)} copies of {images} images",
        "box": f"{setup.store.plane.box} px of {setup.pixel_size_A:.4g} Å",
        "modes reach": f"{width_A / varying.fixed.radius:.2f} Å" + (f", from {width_A / varying.high_pass_shell:.0f} Å"
                                                                    if varying.high_pass_shell else ""),
        "in the half-sets": " and ".join(str(int((particles.half == half).sum())) for half in (0, 1)),
        "mask": "a sphere" if is_sphere else f"{100 * float(varying.fixed.focus.mean()):.1f} % of the box",
        "iterations": shown.standing.done,
    }
    report = Report("Variability", job.events.warnings, facts)
    report.headline("real modes", f"{verdict.number} of {varying.number}", "stand out of what noise and errors of poses make")
    report.headline("excess of mode 1", f"{verdict.run.value[0]:.2f}", f"of the noise's variance; real from {verdict.level:.2f}")
    report.headline("halves agree", f"{last['correlation'][0]:.2f}", "correlation of mode 1 of one half-set with that of the other")
    add_reality(report, varying, shown, images < len(particles))
    add_places(report, shown)
    for k, frames in enumerate(shown.movies):
        add_mode(report, varying, shown, k, frames)
    add_parts(report, shown)
    assert shown.mean.fsc is not None
    report.section("Mean map", "Of all particles; the frames of the movies are this map and a mode times a coordinate.")
    report.figure(fsc_figure(shown.mean.fsc), fsc_caption(shown.mean.fsc))
    report.figure(slices_figure(shown.mean.map, in_images_box(varying, varying.fixed.masks(varying.fixed.box)[1])),
                  "Central slices of the mean map; contours: the mask in which modes may be.")
    with job.output.writing("report.html") as path:
        path.write_text(report.html(), encoding="utf-8")


def add_reality(report: Report, varying: Varying, shown: Shown, has_copies: bool) -> None:
    """Which modes are real, how well the halves agree on them, and how they came about."""
    verdict, last, control = shown.verdict, shown.standing.last, shown.verdict.control
    setup = varying.fixed.setup
    report.section("How many modes are real")
    report.figure(excess_figure(verdict.run.value, None if control is None else control.value, verdict.level),
                  "How much more the images of one half-set vary along the modes that the other half-set found than their noise does, in "
                  "units of the noise: zero where nothing varies. Grey: the same analysis of images of the mean map with noise, seen "
                  "at poses that are off by as much as the particles' pose covariances say. A mode is real where it stands out of these "
                  "and the halves agree on it.")
    total = max(sum(last["variance"]), 1e-30)
    report.table(("mode", "is real", "excess", "control", "halves agree", "share of the variance (%)", "mean error (sd)"),
                 [(k + 1, "yes" if verdict.is_real[k] else "no", round(float(verdict.run.value[k]), 3),
                   None if control is None else round(float(control.value[k]), 3), round(last["correlation"][k], 3),
                   round(100 * last["variance"][k] / total, 1), round(float(shown.coordinates.error[:, k].mean()), 3))
                  for k in range(varying.number)],
                 "Share of the variance: of the density in the mask, among these modes. Mean error: of a particle's coordinate, where one "
                 "standard deviation of the particles is 1; at 1 images say nothing.")
    report.figure(mode_fsc_figure(np.array(last["fsc"]), setup.store.plane.box * setup.pixel_size_A),
                  "Fourier shell correlation between the modes of the half-sets, each of which found its modes by itself.")
    report.figure(variances_figure(np.array([entry["variance"] for entry in shown.standing.history])),
                  "Variance of each mode over the iterations. From half-way on modes are filtered by what the half-sets share: what is "
                  "noise drops, and what is real stays.")
    if has_copies:
        report.text("Copies of one image are not independent: they show the same noise, and lie in the same half-set. Errors are counted "
                    "by images, and the control's copies share their noise as well.")


def add_places(report: Report, shown: Shown) -> None:
    """Where the particles are."""
    report.section("Coordinates")
    report.figure(coordinates_figure(shown.coordinates.mean, shown.coordinates.error),
                  "Coordinates of the particles in standard deviations, and the mean standard error of one (bar). They are drawn towards "
                  "zero by as much as they are uncertain. All of them, with errors: variability.csv and particles.h5.")


def add_mode(report: Report, varying: Varying, shown: Shown, k: int, frames: list[Volume]) -> None:
    """One mode: what it changes, and its movie."""
    report.section(f"Mode {k + 1}" + ("" if shown.verdict.is_real[k] else " (noise)"))
    modes = shown.standing.modes
    mode = in_images_box(varying, np.float32(0.5) * (modes.a[k] + modes.b[k]))
    report.figure(mode_figure(shown.mean.map, mode), "Projections of the mean map; contours: where one standard deviation of the particles "
                  "adds density (orange) and takes it away (blue).")
    if frames:
        report.markup(movie_markup(frames, f"Projections along z, y and x of the maps along mode {k + 1}, from one end of the coordinates "
                                           f"to the other and back: mode_{k + 1}/frame_000.mrc to frame_{len(frames) - 1:03d}.mrc."))


def add_parts(report: Report, shown: Shown) -> None:
    """Windows and clusters."""
    if not shown.parts:
        return
    report.section("Maps of some of the particles")
    rows = [(part.folder, round(float(part.weight.sum()), 1), "no map" if record is None or record.fsc is None
             else record.fsc.describe("corrected")) for part, record in shown.parts]
    report.table(("folder", "particles", "resolution"), rows, "Particles are counted by weight; copies of an image count each. Resolution "
                 "by the corrected FSC at 0.143. The clusters' particles.h5 can be refined as they are.")
