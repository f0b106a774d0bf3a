"""What an ab-initio run ends with: all images gone through once, their poses and classes, and the map of each class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logsumexp

from protomer.abinitio.loop import State, radius_of_sums
from protomer.abinitio.setting_up import AbInitio
from protomer.abinitio.steps import expect_finely, found_finely
from protomer.abinitio.structures import EDGE_SHELLS, solved
from protomer.engine.hypotheses import evidence
from protomer.engine.maximisation import solid_sphere
from protomer.engine.pose_table import PoseTable
from protomer.maps.volumes import Volume
from protomer.refinement.outcome import with_poses
from protomer.refinement.setup import MASK_FRACTION
from protomer.running.events import Events
from protomer.tables.particles import Particles
from protomer_kernels.fourier import low_pass, pad_volume
from protomer_kernels.libraries import library_of
from protomer_kernels.shells import centred_shell_mean

FEW_IMAGES, FEW_SHARE = 20, 0.02
CLEARLY_PRESENT = 0.5
STRUCTURELESS = 0.15  # of a map's power, beside its radial mean
SAME_MAP = 0.9
UNSURE = 0.85  # attempts that failed in simulations ended at 0.74 to 0.81, others at 0.98


@dataclass(frozen=True)
class Outcome:
    """maps of the classes in the images' own box; posterior (N, K); poses of each image in its likeliest class; presence (N,): probability
    that the image holds any of them and not noise alone; structure (K,): share of each map's power that its radial mean lacks."""

    maps: list[Volume]
    posterior: np.ndarray
    poses: PoseTable
    presence: np.ndarray
    structure: np.ndarray

    @property
    def assigned(self) -> np.ndarray:
        """The likeliest class (N,), from 0."""
        return np.asarray(self.posterior.argmax(axis=1))


def gone_through(work: AbInitio, state: State) -> Outcome:
    """The last pass over all images."""
    setup, step, units = work.setup, work.steps[-1], list(range(len(work.setup.batches)))
    radius, now = radius_of_sums(work, True), state.now
    with setup.progress("all images", sum(len(setup.batches[n].rows) for n in setup.numbers)) as line:

        def advance(number: int) -> None:
            line.advance(number)
            setup.check_stop()

        share = expect_finely(work, step, now, units, advance)
    found = found_finely(work, share, units, radius, np.log(now.prior))
    rows = setup.team.gather_rows(np.concatenate([np.zeros(0, np.int64), *(setup.batches[n].rows for n in setup.numbers)]))

    def in_table_order(values: np.ndarray) -> np.ndarray:
        gathered = setup.team.gather_rows(values)
        column = np.empty_like(gathered)
        column[rows] = gathered
        return column

    tables = [PoseTable(*(in_table_order(getattr(t, name)) for name in PoseTable.__dataclass_fields__)) for t in share.poses]
    posterior = in_table_order(share.posterior)
    log_z = np.stack([evidence(table, setup.shift_extent_px) for table in tables], axis=1)
    presence = np.asarray(expit(logsumexp(log_z + np.log(now.prior), axis=1)))
    small = [setup.arithmetic.on_host(final_map(work, solved(found.sums[k], work.frame.box, radius + 1, setup.threads)))
             for k in range(work.classes)]
    structure = np.array([unlike_radial_mean(volume) for volume in small])
    maps = [in_image_box(work, volume) for volume in small]
    return Outcome(maps, posterior, PoseTable.chosen(tables, posterior.argmax(axis=1)), presence, structure)


def final_map(work: AbInitio, volume: np.ndarray) -> np.ndarray:
    """Low-passed at the final resolution, in a sphere, where the volume lies."""
    sphere = solid_sphere(len(volume), MASK_FRACTION, library=library_of(volume))
    return (low_pass(volume, work.frame.last_radius + 0.5, EDGE_SHELLS) * sphere).astype(np.float32, copy=False)


def in_image_box(work: AbInitio, volume: np.ndarray) -> Volume:
    """A map in the box, pixel size and grey scale of the images as they were given: a projection sums over more voxels there."""
    box, small = work.frame.image_box, work.frame.box
    data = pad_volume(volume, box) * np.float32(small / box) if box > small else volume
    return Volume(np.ascontiguousarray(data, np.float32), work.frame.pixel_A * small / box)


def unlike_radial_mean(volume: np.ndarray) -> float:
    """The share of a map's power that is left when its mean over directions is taken away: 0 for a ball, and for nothing."""
    power = float((volume.astype(np.float64) ** 2).sum())
    axis = np.arange(len(volume)) - len(volume) // 2
    distance = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    mean = centred_shell_mean(volume)
    radial = np.interp(distance, np.arange(len(mean)), mean)
    return 0.0 if power == 0.0 else float(((volume - radial) ** 2).sum() / power)


def posed(work: AbInitio, outcome: Outcome, given: Particles, provenance: dict[str, object]) -> Particles:
    """The particles as given, halves included, with class, its posterior and the pose in it."""
    posed = with_poses(given, outcome.poses, work.frame.pixel_A, provenance)
    rows = np.arange(len(given))
    return posed.with_columns(class_number=outcome.assigned + 1, class_posterior=np.clip(outcome.posterior[rows, outcome.assigned], 0, 1))


def warn(outcome: Outcome, certainty: float, alike: list[tuple[int, int, float]], events: Events) -> None:
    """Warnings of classes that hold nothing, of maps without structure, of images without particles, of poses that are unsure, and of maps
    that are the same.

    certainty: mean posterior of an image's likeliest pose in the last step; alike: pairs of classes (from 0) and the correlation of their
    maps where these were laid upon one another.
    """
    number, classes = outcome.posterior.shape
    counts = np.bincount(outcome.assigned, minlength=classes)
    for k in range(classes):
        if counts[k] < max(FEW_IMAGES, FEW_SHARE * number / classes):
            events.warn("empty_class", f"class {k + 1} has {counts[k]} of {number} images: its map says nothing")
        elif outcome.structure[k] < STRUCTURELESS:
            events.warn("no_structure", f"the map of class {k + 1} is a ball: only {100 * outcome.structure[k]:.0f} % of its power is not "
                        "its mean over all directions. The images do not show their orientations, or this class is of junk")
    empty = float(np.mean(outcome.presence < CLEARLY_PRESENT))
    if empty > 0.5:
        events.warn("no_particle", f"{100 * empty:.0f} % of the images are likelier noise alone than any of the maps at any pose: do not "
                    "believe these maps")
    if certainty < UNSURE:
        events.warn("unsure_poses", f"the likeliest pose of an image has a posterior of {certainty:.2f} in the mean: the particle may not "
                    "have been found, or the images are too noisy to tell. Run again with another seed or more starts, and go on with the "
                    "run whose log_evidence in summary.json is highest")
    for k, j, correlation in alike:
        if correlation > SAME_MAP:
            events.warn("same_class", f"classes {k + 1} and {j + 1} are one structure (correlation {correlation:.2f} where one is laid "
                        "upon the other, whichever the hand): fewer classes do")

