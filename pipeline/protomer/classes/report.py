"""report.html of a classification."""

from __future__ import annotations

import numpy as np

from protomer.classes.classification import Classes, Mixture
from protomer.classes.outcome import chance_level
from protomer.classes.reliability import Reliability
from protomer.maps.volumes import MapRecord
from protomer.report.build import Report
from protomer.report.class_pictures import (
    SURE_OF_CLASS,
    add_images_of_class,
    class_fsc_figure,
    flow_figure,
    fractions_figure,
    reliability_figure,
)
from protomer.report.figures import histogram_figure, resolution_figure
from protomer.report.pictures import slices_figure
from protomer.running.job_run import JobRun
from protomer.tables.particles import Particles


def write_report(
    found: tuple[Classes, Mixture, Reliability | None, np.ndarray | None], records: list[MapRecord], particles: Particles,
    starts: tuple[list[str], list[bool]], job: JobRun
) -> None:
    """Warnings first, then how large the classes are, their FSC and maps, how images moved between them, and posteriors."""
    classes, mixture, reliability, stable = found
    names, is_decoy = starts
    labels = [f"{k + 1}: {name}" for k, name in enumerate(names)]
    counts = np.bincount(particles.class_number, minlength=classes.number + 1)
    lost = (sum(int(counts[k + 1]) for k in range(classes.number) if is_decoy[k]) + int(counts[0])) / len(particles)
    setup = classes.setup
    facts = {
        "particles": len(particles),
        "classes": classes.number,
        "box": f"{setup.store.plane.box} px of {setup.pixel_size_A:.4g} Å",
        "in the half-sets": " and ".join(str(int((particles.half == half).sum())) for half in (0, 1)),
        "images count": "in their likeliest class alone" if classes.hard else "in every class by its posterior",
        "iterations with classes drawn at random": classes.random_until,
    }
    report = Report("Classification", job.events.warnings, facts)
    posterior, chance = float(mixture.posterior.max(axis=1).mean()), chance_level(mixture.posterior)
    report.headline("lost to decoys", f"{100 * lost:.1f} %", "images in decoy classes, or of none of the classes")
    report.headline("mean posterior", f"{posterior:.2f}", f"of the likeliest class; {chance:.2f} by the classes' sizes alone")
    report.headline("changed class", f"{100 * mixture.history[-1]['changed']:.1f} %", "of the images, in the last iteration")
    _add_classes(report, mixture, records, counts, labels, is_decoy)
    _add_flow(report, classes, mixture, labels)
    _add_trust(report, reliability, stable, particles)
    for k, record in enumerate(records):
        _add_class(report, k, record, particles, labels[k])
    with job.output.writing("report.html") as path:
        path.write_text(report.html(), encoding="utf-8")


def _add_classes(
    report: Report, mixture: Mixture, records: list[MapRecord], counts: np.ndarray, labels: list[str], is_decoy: list[bool]
) -> None:
    """The classes in numbers, and their FSC."""
    report.section("Classes")
    rows = [(label, "decoy" if is_decoy[k] else "volume", int(counts[k + 1]), round(100 * float(mixture.posterior[:, k].mean()), 1),
             "no map" if records[k].fsc is None else records[k].fsc.describe("corrected")) for k, label in enumerate(labels)]  # type: ignore[union-attr]
    rows.append(("0: none of them", "", int(counts[0]), round(100 * float(1 - mixture.posterior.sum(axis=1).mean()), 1), ""))
    report.table(("class: start", "is a", "images", "share (%)", "resolution"), rows,
                 "Images are counted in their likeliest class; shares are means of posteriors; resolution by the corrected FSC at 0.143.")
    measured = {label: record.fsc for label, record in zip(labels, records, strict=True) if record.fsc is not None}
    if measured:
        report.figure(class_fsc_figure(measured), "Corrected FSC of the half maps of each class, each in a mask of its own. Halves share "
                      "the start up to its low-pass: a class of noise alone shows no more than that.")


def _add_flow(report: Report, classes: Classes, mixture: Mixture, labels: list[str]) -> None:
    """How the classes came about."""
    history, width_A = mixture.history, classes.setup.store.plane.box * classes.setup.pixel_size_A
    report.section("Class flow")
    report.figure(fractions_figure(np.array([h["fractions"] for h in history]), [*labels, "0: none of them"]),
                  "Share of the images in each class, iteration by iteration.")
    flows = [h["flow"] for h in history if h["flow"] is not None]
    if flows:
        report.figure(flow_figure(np.array(flows[-1]), [*(str(k + 1) for k in range(classes.number)), "0"]),
                      "Images by their class before (rows) and after (columns) the last iteration; 0 is none of the classes.")
    report.table(("iteration", "changed class (%)", "mean posterior of the likeliest", "classes drawn at random"),
                 [(h["iteration"], round(100 * h["changed"], 1), round(h["mean_best_posterior"], 3), "yes" if h["is_random"] else "no")
                  for h in history], "Iterations. Where classes were drawn at random, the posterior is of those drawn.")
    report.figure(
        resolution_figure({label: [width_A / max(h["resolved_shell"], 1) for h in state.history]
                           for label, state in zip(labels, mixture.states, strict=True)}),
        "Resolution of the half maps of each class in each iteration, FSC 0.143 in a sphere.",
    )
    matches = [h["match"] for h in history if h["match"]]
    if matches:
        report.table(("class of half A", *(f"class {k + 1} of half B" for k in range(classes.number))),
                     [(k + 1, *row) for k, row in enumerate(matches[0])],
                     "How the classes of the two halves correlated, less what all have in common, when the random iterations ended; each "
                     "was paired with the one that it agrees with best.")


def _add_trust(report: Report, reliability: Reliability | None, stable: np.ndarray | None, particles: Particles) -> None:
    """How far posteriors may be believed, and which images lie in the same class whatever the seed."""
    if reliability is None and stable is None:
        return
    report.section("How sure the classes are")
    if reliability is not None:
        report.figure(reliability_figure(*reliability.curve()), f"{len(reliability.stated)} images made from the other half-set's maps of "
                      f"the classes, and classified like the real ones: the posterior that is stated, and how often it is right (bars: one "
                      f"standard deviation). In the mean {reliability.mean_stated:.2f} is stated and {reliability.share_right:.2f} right.")
    if stable is not None:
        report.figure(histogram_figure(stable, "share of the other seeds that agree"),
                      "In which share of the replicates an image lies in the same class as in this run.")
        rows = [(k, int(np.sum(particles.class_number == k)), round(float(stable[particles.class_number == k].mean()), 3))
                for k in np.unique(particles.class_number)]
        report.table(("class", "images", "mean share that agrees"), rows, "Stability of the classes over replicates; 0 is none of them.")


def _add_class(report: Report, k: int, record: MapRecord, particles: Particles, label: str) -> None:
    """One class: map, posteriors, viewing directions."""
    report.section(f"Class {label}")
    if record.fsc is not None:
        report.figure(slices_figure(record.map, record.fsc_mask), "Central slices of the FSC-weighted map, with contours of the FSC mask.")
    add_images_of_class(report, k + 1, particles, particles.class_posterior, SURE_OF_CLASS)
