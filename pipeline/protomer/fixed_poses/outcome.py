"""What a classification at known poses found: particles with their classes, the maps of each class, files and warnings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from protomer.classes.match import matched
from protomer.classes.outcome import ALMOST_ALL, UNSETTLED, chance_level, map_of_class, write_posteriors
from protomer.fixed_poses.reliability import Reliability
from protomer.fixed_poses.report import write_report
from protomer.fixed_poses.work import Fixed, Standing
from protomer.formats.hdf5 import write_particles
from protomer.maps.volumes import Halves, MapRecord
from protomer.running.events import Events
from protomer.running.job_run import JobRun
from protomer.tables.particles import Particles

TOLD_APART = 0.05  # by how much the mean posterior exceeds that of guessing, where classes are told apart at all
MOST_OVERSURE = 0.7  # beta below which posteriors had been much too sure


def classified(standing: Standing, particles: Particles, job: JobRun) -> Particles:
    """The particles with class, its posterior and the log likelihood of the image in it; poses as they were."""
    assigned, rows = standing.posterior.argmax(axis=1), np.arange(len(particles))
    found = particles.with_columns(class_number=assigned + 1, class_posterior=standing.posterior[rows, assigned],
                                   log_likelihood=standing.presence + standing.log_odds[rows, assigned])
    return replace(found, provenance=dict(job.provenance))


def class_maps(fixed: Fixed, standing: Standing, job: JobRun) -> list[MapRecord]:
    """The record of each class from all its images by their posteriors, written to class_1/ ... by rank 0."""
    poses = [replace(fixed.poses, weight=standing.posterior[:, k : k + 1]) for k in range(fixed.number)]
    return [map_of_class(fixed.setup, k + 1, standing.noise, poses[k], np.inf, job) for k in range(fixed.number)]


def finish(
    fixed: Fixed, standing: Standing, records: list[MapRecord], particles: Particles, reliability: Reliability | None, job: JobRun
) -> dict[str, Any]:
    """Write everything (rank 0), and say how it went."""
    if not job.team.is_first:
        return {}
    agreement = agreement_of_halves(standing)
    warn(standing, reliability, job.events)
    with job.output.writing("particles.h5") as path:
        write_particles(path, particles)
    for k in range(fixed.number):
        with job.output.within(f"class_{k + 1}").writing("particles.h5") as path:
            write_particles(path, particles.take(np.flatnonzero(particles.class_number == k + 1)))
    with job.output.writing("classes.csv") as path:
        write_posteriors(path, particles, standing.posterior)
    write_report(fixed, standing, records, particles, (reliability, agreement), job)
    counts = np.bincount(particles.class_number, minlength=fixed.number + 1)[1:]
    return {
        "particles_in": len(particles),
        "particles_out": len(particles),
        "images": len(np.unique(particles.image_uid)),
        "passes": standing.done,
        "classes": [
            {"class": k + 1, "images": int(counts[k]), "fraction": round(float(standing.posterior[:, k].mean()), 4),
             "halves_agree": round(agreement[k], 4), "resolution_A": None if record.fsc is None else record.fsc.summary()}
            for k, record in enumerate(records)
        ],
        "mean_posterior": round(float(standing.posterior.max(axis=1).mean()), 4),
        "chance": round(chance_level(standing.posterior), 4),
        "gain_nats": round(float(standing.gain.mean()), 4),
        "reliability": None if reliability is None else reliability.summary(),
        "changed_class_last": round(standing.history[-1]["changed"], 4),
    }


def agreement_of_halves(standing: Standing) -> list[float]:
    """For each class the correlation of what it differs by in one half with the same in the other."""
    apart = [Halves(of_class[0, 0], of_class[1, 0]) for of_class in standing.apart]
    return [correlation[k] for k, correlation in enumerate(matched(apart)[1])]


def warn(standing: Standing, reliability: Reliability | None, events: Events) -> None:
    """Warnings of classes without images, of one that has all, and of posteriors that say little or said too much."""
    posterior, number = standing.posterior, len(standing.prior)
    counts = np.bincount(posterior.argmax(axis=1), minlength=number)
    for k in np.flatnonzero(counts == 0):
        events.warn("empty_class", f"class {k + 1} has no images; its maps say nothing")
    if counts.max() > ALMOST_ALL * len(posterior):
        events.warn("one_class", f"{counts.max()} of {len(posterior)} images are in class {int(counts.argmax()) + 1}: nothing was found "
                    "that sets others apart")
    best, guess = float(posterior.max(axis=1).mean()), chance_level(posterior)
    if best < guess + TOLD_APART:
        events.warn("classes_by_chance", f"the likeliest class of an image has a posterior of {best:.2f} in the mean, guessing by the "
                    f"sizes of the classes would have {guess:.2f}: the images do not tell these classes apart. The two half-sets found "
                    "nothing alike: there is one structure, or more images or a smaller --focus-mask are needed")
    if reliability is not None and reliability.beta < MOST_OVERSURE:
        events.warn("oversure", f"of images made from the maps of the classes, {100 * reliability.share_right:.0f} % were classified right "
                    f"where posteriors had promised {100 * reliability.mean_before:.0f} %: all posteriors were brought down accordingly")
    if standing.history[-1]["moved"] > UNSETTLED:
        events.warn("classes_unsettled", f"{100 * standing.history[-1]['moved']:.0f} % of the posteriors moved in the last pass")
