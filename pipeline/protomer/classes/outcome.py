"""What a classification found: particles with their classes, the maps of each class, and warnings."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np

from protomer.classes.classification import Classes, Mixture, hypotheses_of
from protomer.classes.reliability import Reliability
from protomer.engine.maximisation import first_shell_below
from protomer.engine.pose_table import PoseTable
from protomer.formats.hdf5 import write_map_record
from protomer.formats.mrc import write_volume
from protomer.maps.finishing import measure_maps, warn_of_resolution, write_maps
from protomer.maps.volumes import Halves, MapRecord, Volume
from protomer.refinement.outcome import posed
from protomer.refinement.reconstruction import reconstruct_halves
from protomer.refinement.setup import Setup, at_scales
from protomer.running.events import Events
from protomer.running.job_run import JobRun
from protomer.tables.particles import Particles

LEAST_IMAGES = 8.0  # in each half, in sum of posteriors: a class with fewer has no map
UNSETTLED = 0.1  # of the posteriors, that still moved in the last iteration
OVERCONFIDENT = 0.1
ALMOST_ALL, CHANCE = 0.98, 1.2  # of the images in one class; times the posterior that guessing by class sizes has


def classified(mixture: Mixture, classes: Classes, given: Particles, job: JobRun) -> Particles:
    """The particles with class (0: none of them), its posterior, and their poses in the likeliest of the classes."""
    assigned, number = mixture.assigned, classes.number
    null = 1.0 - mixture.posterior.sum(axis=1)
    of_class = np.concatenate([mixture.posterior, null[:, None]], axis=1)[np.arange(len(assigned)), assigned]
    one = replace(mixture.states[0], poses=mixture.poses)
    particles = posed(classes.setup, one, None, job).with_columns(
        class_number=np.where(assigned == number, 0, assigned + 1), class_posterior=np.clip(of_class, 0.0, 1.0)
    )
    return replace(particles, optics_groups=given.optics_groups)


def counted_poses(classes: Classes, mixture: Mixture, k: int) -> PoseTable:
    """The poses of all images in a class, their weights times how much each counts there."""
    counted = hypotheses_of(classes, mixture).counted(mixture.posterior)[:, k]
    poses = mixture.states[k].poses
    return replace(poses, weight=poses.weight * counted[:, None])


def class_maps(classes: Classes, mixture: Mixture, start_A: float, job: JobRun) -> list[MapRecord]:
    """The record of each class, written to class_1/ ... by rank 0."""
    setup = at_scales(classes.setup, mixture.states[0])
    return [map_of_class(setup, k + 1, state.model.noise, counted_poses(classes, mixture, k), start_A, job)
            for k, state in enumerate(mixture.states)]


def map_of_class(setup: Setup, number: int, noise: np.ndarray, poses: PoseTable, start_A: float, job: JobRun) -> MapRecord:
    """The record of a class from all images as their poses weigh there, written to its folder by rank 0; start_A: the start's resolution.

    A class with next to no images has maps of zeros and no FSC."""
    there, pixel_A = replace(job, output=job.output.within(f"class_{number}")), setup.pixel_size_A
    if min(weight_of_halves(poses, setup.particles.half)) < LEAST_IMAGES:
        nothing = Volume(np.zeros((setup.store.plane.box,) * 3, np.float32), pixel_A)
        record = MapRecord(Halves.of(nothing), nothing, provenance=job.provenance)
        if job.team.is_first:
            write_empty(record, there)
        return record
    half_maps, together = reconstruct_halves(setup, noise, poses, setup.operators)
    halves = Halves(*(Volume(data, pixel_A) for data in half_maps))
    quiet = replace(there, events=job.events.about(f"class {number}", class_number=number))
    record = measure_maps(halves, Volume(together, pixel_A), None, "", "C1", None, quiet, setup.non_uniform)
    if job.team.is_first:
        assert record.fsc is not None
        warn_of_resolution(record.fsc, record.fsc_mask, quiet, start_A)
        write_maps(record, there)
    return record


def weight_of_halves(poses: PoseTable, half: np.ndarray) -> tuple[float, float]:
    """How many images' worth the poses weigh in each half."""
    weight = poses.weight.sum(axis=1)
    return float(weight[half == 0].sum()), float(weight[half == 1].sum())


def write_empty(record: MapRecord, job: JobRun) -> None:
    """volume.h5 and the .mrc copies of a class without images."""
    with job.output.writing("volume.h5") as path:
        write_map_record(path, record)
    for name in ("map.mrc", "half_a.mrc", "half_b.mrc"):
        with job.output.writing(name) as path:
            write_volume(path, record.map)


def write_posteriors(path: Path, particles: Particles, posterior: np.ndarray, stable: np.ndarray | None = None) -> None:
    """classes.csv: image_uid, posterior of each class and of none of them, and in which share of the replicates the image lies in the same
    class, in the order of particles.h5."""
    null = np.maximum(1.0 - posterior.sum(axis=1), 0.0)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        columns = ["image_uid", *(f"class_{k + 1}" for k in range(posterior.shape[1])), "none"]
        table.writerow(columns if stable is None else [*columns, "stability"])
        last = [[]] * len(null) if stable is None else [[f"{share:.4g}"] for share in stable]
        for uid, row, rest, share in zip(particles.image_uid.tolist(), posterior.tolist(), null.tolist(), last, strict=True):
            table.writerow([uid, *(f"{p:.6g}" for p in row), f"{rest:.6g}", *share])


def chance_level(posterior: np.ndarray) -> float:
    """The mean posterior of the likeliest class if images told nothing but how large the classes are."""
    return float(posterior.mean(axis=0).max())


def warn_of_classes(mixture: Mixture, names: list[str], events: Events) -> None:
    """Warnings of classes without images, of one that has all, and of posteriors that say nothing."""
    posterior, number = mixture.posterior, len(names)
    counts = np.bincount(mixture.assigned, minlength=number + 1)
    for k, name in enumerate(names):
        if counts[k] == 0:
            events.warn("empty_class", f"class {k + 1} ({name}) has no images; its maps say nothing")
    largest = int(counts[:number].argmax())
    if counts[largest] > ALMOST_ALL * len(posterior):
        events.warn("one_class", f"{counts[largest]} of {len(posterior)} images are in class {largest + 1} ({names[largest]}): the others "
                    "were not needed, or start too far from what is in the images")
    best, chance = float(posterior.max(axis=1).mean()), chance_level(posterior)
    if chance < ALMOST_ALL and best < min(CHANCE * chance, 0.5 * (1.0 + chance)):
        events.warn("classes_by_chance", f"the likeliest class of an image has a posterior of {best:.2f} in the mean, guessing by the "
                    f"sizes of the classes would have {chance:.2f}: the images do not tell these classes apart")
    last = mixture.history[-1]
    if last["moved"] > UNSETTLED:
        events.warn("classes_unsettled", f"{100 * last['changed']:.0f} % of the images changed class in the last iteration: classes were "
                    "not told apart, or more iterations are needed (final_iterations)")


def warn_of_reliability(reliability: Reliability | None, events: Events) -> None:
    """A warning where images of known class were right less often than said."""
    if reliability is not None and reliability.mean_stated - reliability.share_right > OVERCONFIDENT:
        events.warn("posteriors_too_sure", f"of images made from the maps {100 * reliability.share_right:.0f} % were put in the right "
                    f"class, where the posteriors promise {100 * reliability.mean_stated:.0f} %: do not read a posterior as a probability "
                    "here, and give the classes more images or a coarser max_alignment_resolution")


def resolved_A(mixture: Mixture, width_A: float) -> list[float]:
    """Of each class, as the last iteration measured it in a sphere."""
    return [width_A / max(first_shell_below(np.array(state.history[-1]["fsc"])), 1) for state in mixture.states]
