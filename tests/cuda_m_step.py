"""The M-steps of a refinement and of a classification, and a reference, from a few images at their true poses: on the CPU, or (as a script:
FOLDER) on CUDA in a process of its own."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numba import config

from protomer.classes.consensus import references_about_consensus
from protomer.computing.arithmetic import Arithmetic
from protomer.engine.alignment import Reference, Search, Stage
from protomer.engine.model import Model, insertion_scale
from protomer.engine.schedule import Band
from protomer.engine.sums import insert_poses
from protomer.imaging.images import whitened
from protomer.jobs.reconstruct import known_poses
from protomer.maps.non_uniform import NonUniform
from protomer.refinement.loop import maximise, survey_images
from protomer.refinement.setup import Masking, Setup
from protomer.running.batches import Key, make_batches
from protomer.symmetry.operator_sets import OperatorSet
from protomer_kernels.insertion import empty_accumulator
from protomer_kernels.masks import sphere_mask
from reconstructions import as_particles, setup_of
from simulated import chain_dataset

BOX, PIXEL_A, NUMBER = 16, 8.0, 120
BAND = Band.at(BOX, BOX // 2)
RADIUS = BAND.insertion_radius
SEARCH = Search(4, 60, 1.0, 1.0, (Stage(3, 4, 3),), 7, 4)
COUNTS = np.array([[0.2, 0.7, 0.1], [0.7, 0.2, 0.1]])  # in three classes, of the first and of the second half of the images
TURN = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # of the second class against the first
Accumulators = dict[Key, np.ndarray]


def prepared(folder: Path, folds: int, arithmetic: Arithmetic) -> tuple[Setup, np.ndarray]:
    """What an M-step works with, and the noise of its images."""
    particles = as_particles(chain_dataset(NUMBER, BOX, PIXEL_A, 0.5, max_shift_A=7.0), folder)
    setup = setup_of(particles, OperatorSet.identity())
    noise, largest = survey_images(setup, 1)
    batches = make_batches(particles, folds, 0)
    masking = Masking("dynamic", 0.2, 6.0, 14.0, 1000.0)
    return replace(setup, largest=largest, batches=batches, join_shell=3, masking=masking, arithmetic=arithmetic), noise


def inserted(setup: Setup, noise: np.ndarray, share: np.ndarray, turn: np.ndarray) -> tuple[Accumulators, float]:
    """Accumulators of each half and fold, made on the CPU, of images (N,) that count by their share, turned; and their scale."""
    plane, poses, particles = setup.store.plane, known_poses(setup.particles, PIXEL_A), setup.particles
    model = Model({}, noise, setup.operators, RADIUS)
    scale, length = insertion_scale(setup.largest, particles, model), plane.prefix(RADIUS)
    weights, crops = model.root_weight(plane, length), np.empty((NUMBER, len(plane)), np.complex64)
    for number, batch in enumerate(make_batches(particles, 1, 0)):
        crops[batch.rows] = setup.store.load(number)
    sums = {key: empty_accumulator(RADIUS) for key in setup.keys}
    for batch in setup.batches:
        images = whitened(particles, batch.rows, crops[batch.rows], weights, plane, PIXEL_A)
        counted = replace(poses.take(batch.rows), weight=share[batch.rows, None])
        insert_poses(images, counted, plane, turn[None], scale, sums[batch.key])
    return sums, scale


def on(arithmetic: Arithmetic, sums: Accumulators) -> Accumulators:
    """Copies of accumulators, where it computes."""
    return {key: arithmetic.here(each.copy()) for key, each in sums.items()}


def found(folder: Path, arithmetic: Arithmetic) -> dict[str, Any]:
    """Maps and curves."""
    results: dict[str, Any] = {}
    given = sphere_mask(BOX, 0.3 * BOX, 2.0)
    for name, folds, changes in (("dynamic", 2, {}), ("static", 1, {"masking": Masking("static", given=given)}),
                                 ("local", 1, {"masking": Masking(), "non_uniform": NonUniform(3.0, 8)})):
        setup, noise = prepared(folder, folds, arithmetic)
        setup = replace(setup, **changes)
        sums, scale = inserted(setup, noise, np.ones(NUMBER), np.eye(3))
        maps, curve = maximise(setup, on(arithmetic, sums), scale, BAND)
        again = maps if config.ENABLE_CUDASIM else maximise(setup, on(arithmetic, sums), scale, BAND)[0]  # one thread after the other there
        assert all(type(volume) is np.ndarray for volume in maps.values())
        results |= {f"{name}_maps": np.stack([maps[key] for key in setup.keys]), f"{name}_curve": curve}
        results[f"{name}_repeats"] = all(np.array_equal(maps[key], again[key]) for key in setup.keys)
    posterior, volume = np.repeat(COUNTS, NUMBER // 2, axis=0), maps[0, 0]
    classes = [on(arithmetic, inserted(setup, noise, posterior[:, k], turn)[0]) for k, turn in enumerate((np.eye(3), TURN, np.eye(3)))]
    decoys = {2: np.ascontiguousarray(volume[::-1])}
    of_classes, curves = references_about_consensus(setup, classes, scale, BAND, posterior, decoys)
    results |= {"classes_maps": np.stack([of_class[key] for of_class in of_classes for key in setup.keys]), "classes_curve": curves}
    reference = Reference.prepare(volume, setup.store.plane, RADIUS, np.eye(3)[None], SEARCH, arithmetic=arithmetic)
    return results | {"reference_maps": arithmetic.on_host(reference.volume_ft)}


if __name__ == "__main__":
    from protomer.computing.cuda_arithmetic import CudaArithmetic

    np.savez(Path(sys.argv[1]) / "found.npz", **found(Path(sys.argv[1]), CudaArithmetic()))
