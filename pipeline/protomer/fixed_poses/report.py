"""report.html of a classification at known poses."""

from __future__ import annotations

import numpy as np

from protomer.classes.outcome import chance_level
from protomer.fixed_poses.reliability import Reliability
from protomer.fixed_poses.work import Fixed, Standing
from protomer.maps.volumes import MapRecord, Volume
from protomer.report.build import Report
from protomer.report.class_pictures import (
    SURE_OF_CLASS,
    add_images_of_class,
    class_fsc_figure,
    flow_figure,
    fractions_figure,
    reliability_figure,
)
from protomer.report.pictures import slices_figure
from protomer.running.job_run import JobRun
from protomer.tables.particles import Particles


def write_report(
    fixed: Fixed, standing: Standing, records: list[MapRecord], particles: Particles,
    trust: tuple[Reliability | None, list[float]], job: JobRun
) -> None:
    """Warnings first, then how large the classes are and how far they can be believed, how they came about, and each class."""
    setup, (reliability, agreement) = fixed.setup, trust
    width_A = setup.store.plane.box * setup.pixel_size_A
    images = len(np.unique(particles.image_uid))
    facts = {
        "particles": len(particles) if images == len(particles) else f"{len(particles)} copies of {images} images",
        "classes": fixed.number,
        "box": f"{setup.store.plane.box} px of {setup.pixel_size_A:.4g} Å",
        "told apart down to": f"{width_A / fixed.radius:.2f} Å",
        "in the half-sets": " and ".join(str(int((particles.half == half).sum())) for half in (0, 1)),
        "focus mask": "none" if fixed.focus is fixed.solvent else f"{100 * float(fixed.focus.mean()):.1f} % of the box",
    }
    report = Report("Classification at known poses", job.events.warnings, facts)
    posterior = float(standing.posterior.max(axis=1).mean())
    report.headline("mean posterior", f"{posterior:.2f}",
                    f"of the likeliest class; {chance_level(standing.posterior):.2f} by the classes' sizes alone")
    if reliability is not None:
        report.headline("right in rehearsal", f"{100 * reliability.share_right:.0f} %",
                        f"of {reliability.images} images of known class, where {100 * reliability.mean_stated:.0f} % were promised")
    report.headline("gain", f"{standing.gain.mean():.2f} nats", "an image, by which classes predict images better than one map does")
    add_classes(report, standing, records, particles, agreement)
    add_reliability(report, standing, reliability)
    add_history(report, fixed, standing)
    for k, record in enumerate(records):
        add_class(report, fixed, standing, k, record, particles)
    with job.output.writing("report.html") as path:
        path.write_text(report.html(), encoding="utf-8")


def add_classes(report: Report, standing: Standing, records: list[MapRecord], particles: Particles, agreement: list[float]) -> None:
    """The classes in numbers, and their FSC."""
    report.section("Classes")
    counts = np.bincount(particles.class_number, minlength=len(records) + 1)[1:]
    rows = [(k + 1, int(counts[k]), round(100 * float(standing.posterior[:, k].mean()), 1), round(agreement[k], 3),
             "no map" if record.fsc is None else record.fsc.describe("corrected")) for k, record in enumerate(records)]
    report.table(("class", "images", "share (%)", "halves agree", "resolution"), rows,
                 "Images are counted in their likeliest class; shares are means of posteriors. Halves agree: correlation of what the class "
                 "differs by in one half-set with the same in the other, each of which found it by itself. Resolution by the corrected FSC "
                 "at 0.143: that of the whole particle, most of which classes have in common.")
    measured = {str(k + 1): record.fsc for k, record in enumerate(records) if record.fsc is not None}
    if measured:
        report.figure(class_fsc_figure(measured), "Corrected FSC of the half maps of each class, each in a mask of its own.")


def add_reliability(report: Report, standing: Standing, reliability: Reliability | None) -> None:
    """Whether a posterior of 0.8 is right in 8 of 10 cases."""
    report.section("Reliability of posteriors")
    if reliability is None:
        report.text("Classes do not differ: every image has the classes' sizes as its posteriors, and there is nothing to rehearse."
                    if standing.is_flat else "No images of known class were classified (rehearse=off).")
        return
    report.figure(reliability_figure(reliability.stated, reliability.right, reliability.count),
                  f"Stated against true: {reliability.images} images were made from maps that the classes could have, as far as the "
                  "half-sets know them, at the real images' poses, CTFs and noise, and classified like the real ones. Bars: one standard "
                  "deviation.")
    report.text(f"The likeliest class of a rehearsed image had a posterior of {reliability.mean_before:.3f} in the mean; "
                f"{100 * reliability.share_right:.1f} % of these were right. " +
                ("Posteriors are stated as they were found." if reliability.beta == 1.0 else
                 f"Log odds of all images were multiplied by {reliability.beta:.2f}, after which the mean is "
                 f"{reliability.mean_stated:.3f}."))


def add_history(report: Report, fixed: Fixed, standing: Standing) -> None:
    """How the classes came about."""
    history = standing.history
    labels = [str(k + 1) for k in range(fixed.number)]
    report.section("Class flow")
    report.figure(fractions_figure(np.array([h["fractions"] for h in history]), labels), "Share of the images in each class, pass by pass.")
    flows = [h["flow"] for h in history if h["flow"] is not None]
    if flows:
        report.figure(flow_figure(np.array(flows[-1]), labels), "Images by their class before (rows) and after (columns) the last pass.")
    report.table(("pass", "kind", "changed class (%)", "posteriors moved (%)", "mean posterior of the likeliest", "gain (nats)"),
                 [(h["pass"], kind_of(h), round(100 * h["changed"], 1), round(100 * h["moved"], 2), round(h["mean_best_posterior"], 3),
                   round(h["gain"], 3)) for h in history],
                 "Passes over the images. Gain: by how much the classes predict an image better than the map of all images does, both made "
                 "without it.")


def kind_of(record: dict[str, object]) -> str:
    """What kind of pass it was."""
    if record["is_search"]:
        return "halves differ as they like"
    return "online" if record["is_online"] else "all images"


def add_class(report: Report, fixed: Fixed, standing: Standing, k: int, record: MapRecord, particles: Particles) -> None:
    """One class: map, what it differs by, posteriors, viewing directions."""
    report.section(f"Class {k + 1}")
    width_A = fixed.setup.store.plane.box * fixed.setup.pixel_size_A
    if record.fsc is not None:
        report.figure(slices_figure(record.map, record.fsc_mask), "Central slices of the FSC-weighted map, with contours of the FSC mask.")
    apart = (standing.apart[k][0, 0] + standing.apart[k][1, 0]) * 0.5 * standing.amplitude
    focus = fixed.masks(fixed.box)[1]
    report.figure(slices_figure(Volume(np.ascontiguousarray(apart, np.float32), width_A / fixed.box), Volume(focus, width_A / fixed.box)),
                  "What the class differs by from the map of all images, as both half-sets show it; contours: the focus mask.")
    add_images_of_class(report, k + 1, particles, particles.class_posterior, SURE_OF_CLASS)
