"""What an ab-initio run tells: each step in the log, how classes agree with one another, and report.html."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from protomer.abinitio.loop import State
from protomer.abinitio.outcome import Outcome
from protomer.abinitio.setting_up import AbInitio
from protomer.errors import InputError
from protomer.maps.map_aligning import Side, find_placement
from protomer.maps.map_search import Limits
from protomer.maps.volumes import Volume
from protomer.report.ab_initio_pictures import agreement_figure, evidence_figure
from protomer.report.build import Report
from protomer.report.class_pictures import add_images_of_class, fractions_figure
from protomer.report.pictures import projections_figure, slices_figure
from protomer.running.job_run import JobRun
from protomer.tables.particles import Particles


@dataclass(frozen=True)
class Compared:
    """Two classes (from 0), the second laid upon the first: correlation, FSC by shell of their box, and whether it was mirrored."""

    first: int
    second: int
    correlation: float
    curve: np.ndarray
    is_mirrored: bool


def tell(work: AbInitio, state: State, job: JobRun) -> None:
    """One line in the log."""
    last, width_A = state.history[-1], work.frame.box * work.frame.pixel_A
    job.events.event("iteration", number=last["step"], start=last["start"], resolution_A=round(width_A / last["radius"], 3),
                     log_evidence=round(last["log_evidence"], 4), certainty=round(last["certainty"], 4),
                     fractions=np.round(last["fractions"], 4).tolist())


def compared(outcome: Outcome, work: AbInitio) -> list[Compared]:
    """The largest class with each other one that has a map: each lies in a frame of its own, and of either hand."""
    counts = np.bincount(outcome.assigned, minlength=work.classes)
    largest, pairs = int(counts.argmax()), []
    finest_A = work.frame.image_box * outcome.maps[0].voxel_size_A / work.frame.last_radius
    for k in range(work.classes):
        if k == largest or not np.any(outcome.maps[k].data):
            continue
        try:
            found = find_placement(Side("the largest class", outcome.maps[largest], None), Side(f"class {k + 1}", outcome.maps[k], None),
                                   finest_A, Limits()).alignment
        except InputError:
            continue  # nothing to compare: a warning has said that such a class is empty or without structure
        if found is not None:
            pairs.append(Compared(largest, k, found.fit.score, found.curve, found.is_mirrored))
    return pairs


def write_report(
    work: AbInitio, state: State, outcome: Outcome, particles: Particles, pairs: list[Compared], symmetry: str, job: JobRun
) -> None:
    """Warnings first, then the classes, how they came about, their maps and views."""
    width_A, classes = work.frame.box * work.frame.pixel_A, work.classes
    facts = {
        "particles": len(particles),
        "classes": classes,
        "point group": symmetry,
        "worked in": f"a box of {work.frame.box} px of {work.frame.pixel_A:.4g} Å",
        "from, to": f"{width_A / work.frame.first_radius:.1f} Å, {width_A / work.frame.last_radius:.1f} Å",
        "half-sets": "neither used nor changed: all images made these maps, which have no half maps and no resolution",
        "hand": "not known",
    }
    report = Report("Ab-initio volumes", job.events.warnings, facts)
    report.headline("log evidence", f"{state.history[-1]['log_evidence']:.2f}", "of an image against noise alone, in the last step's mean")
    report.headline("images with a particle", f"{100 * float(np.mean(outcome.presence > 0.5)):.0f} %", "likelier than noise alone")
    report.headline("certainty", f"{state.history[-1]['certainty']:.2f}", "mean posterior of an image's likeliest pose")
    counts = np.bincount(outcome.assigned, minlength=classes)
    report.section("Classes")
    report.table(("class", "images", "share (%)", "structure (%)"),
                 [(k + 1, int(counts[k]), round(100 * float(outcome.posterior[:, k].mean()), 1),
                   round(100 * float(outcome.structure[k]), 1)) for k in range(classes)],
                 "Images are counted in their likeliest class; shares are means of posteriors; structure: the share of the map's power "
                 "that its mean over all directions lacks, next to nothing for a ball.")
    if pairs:
        report.figure(agreement_figure({_label(pair): pair.curve for pair in pairs}, work.frame.image_box * outcome.maps[0].voxel_size_A),
                      "FSC between classes, each laid upon the largest one, mirrored where that agrees better. It says how alike classes "
                      "are; it is no resolution.")
    _add_steps(report, work, state)
    for k, volume in enumerate(outcome.maps):
        _add_class(report, k, volume, particles)
    with job.output.writing("report.html") as path:
        path.write_text(report.html(), encoding="utf-8")


def _label(pair: Compared) -> str:
    return f"class {pair.second + 1} on {pair.first + 1}{', mirrored' if pair.is_mirrored else ''} (correlation {pair.correlation:.2f})"


def _add_steps(report: Report, work: AbInitio, state: State) -> None:
    """How the run went."""
    history = state.history
    report.section("Steps")
    report.figure(evidence_figure(history), "Log evidence of an image in each step: how much likelier the maps make it than noise alone, "
                  "all poses and classes considered. Each attempt is a line; the best one was gone on with. It rises with the radius too, "
                  "and the fine steps, which compare more detail, have a scale of their own.")
    ends = [(step.start + 1, round(history[step.number]["log_evidence"], 3)) for step in work.steps if step.is_last_of_start]
    report.table(("attempt", "log evidence at its end"), ends,
                 "Attempts from other random poses, at the end of each. Where they differ, the lower ones had not found the particle.")
    if work.classes > 1:
        later = [h for h in history if h["start"] == history[-1]["start"]]
        report.figure(fractions_figure(np.array([h["fractions"] for h in later]), [f"class {k + 1}" for k in range(work.classes)]),
                      "Share of the images in each class, step by step, after the attempts.")


def _add_class(report: Report, k: int, volume: Volume, particles: Particles) -> None:
    """One class: map, posteriors, viewing directions."""
    report.section(f"Class {k + 1}")
    if np.any(volume.data):
        report.figure(slices_figure(volume), "Central slices of the map.")
        report.figure(projections_figure(volume), "Its projections along the axes.")
    sure_of = "posterior of the likeliest pose", "How sure these images are of their poses at this resolution."
    add_images_of_class(report, k + 1, particles, particles.pose_posterior, sure_of)
