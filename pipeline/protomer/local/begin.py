"""The first state of a local refinement: given poses and each half's own part of the map; and whether these fit the images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from protomer.declarations.local_refine import LocalRefineSettings
from protomer.engine.alignment import mode_count
from protomer.engine.model import Model
from protomer.engine.pose_table import PoseTable
from protomer.engine.schedule import Band
from protomer.engine.sums import residual_sums
from protomer.errors import InputError
from protomer.imaging.images import whitened
from protomer.maps.resolution import measure_fsc
from protomer.maps.volumes import Halves, MapRecord, Volume
from protomer.refinement.reconstruction import reconstruct_halves
from protomer.refinement.setup import Setup, State
from protomer.refinement.start import resampled
from protomer.subtraction.table import is_subtracted
from protomer_kernels.rotations import matrices_from_quaternions, quaternions_from_matrices

SAMPLED_IMAGES = 64  # of each half, at least, where there are so many
LEAST_FIT_SIGMAS = 5.0  # of their agreement with the map


def given_poses(setup: Setup) -> PoseTable:
    """The particles' own poses as the first mode of each."""
    particles, number, modes = setup.particles, len(setup.particles), mode_count(setup.mates)
    table = PoseTable.empty(number, modes)
    rotation, shift, weight = np.tile(particles.rotation[:, None], (1, modes, 1)), table.shift_px.copy(), table.weight.copy()
    rotation = quaternions_from_matrices(matrices_from_quaternions(rotation).reshape(-1, 3, 3)).reshape(number, modes, 4)
    shift[:], weight[:, 0] = particles.shift_A[:, None] / setup.pixel_size_A, 1.0
    return replace(table, rotation=rotation, shift_px=shift, weight=weight, log_likelihood=np.zeros(number))


def maps_of_halves(setup: Setup, noise: np.ndarray, record: MapRecord, mask: Volume) -> MapRecord:
    """The record with the half maps that the present half-sets give at the given poses, and their FSC in a mask."""
    halves, together = reconstruct_halves(setup, noise, given_poses(setup), setup.operators)
    half_maps = halves.map(lambda data: Volume(data, setup.pixel_size_A))
    fsc = measure_fsc(half_maps, mask, "mask", setup.seed)
    return replace(record, half_maps=half_maps, map=Volume(together, setup.pixel_size_A), fsc=fsc)


def begin(setup: Setup, part: Halves[np.ndarray], noise: np.ndarray, settings: LocalRefineSettings) -> State:
    """The first state: each half's own part of the map, the given poses."""
    plane, number = setup.store.plane, len(setup.particles)
    limit = plane.radius - 1
    if settings.max_alignment_resolution is not None:
        limit = min(limit, int(plane.box * setup.pixel_size_A / settings.max_alignment_resolution))
    first = min(limit, max(8, round(plane.box * setup.pixel_size_A / settings.initial_low_pass)))
    band = replace(Band.at(plane.box, limit), radius=first, first_radius=limit)
    maps = {key: part[key[0]].astype(np.float32) for key in setup.keys}
    model = Model(maps, noise, setup.operators, band.insertion_radius, setup.mates, setup.origin_px)
    return State(band, model, given_poses(setup), np.zeros(number, np.int64), setup.particles.scale)


def start_fits(setup: Setup, state: State, record: MapRecord) -> float:
    """By how many standard deviations a sample of each half agrees better with the map of its half at the given poses than at those of
    other images. Raises InputError where it hardly does: the poses are not this map's."""
    plane = setup.store.plane
    maps = state.model.maps  # subtracted images show the part alone
    if not is_subtracted(setup.particles):
        whole = record.half_maps.map(lambda half: resampled(half, plane.box, setup.pixel_size_A))
        maps = {key: whole[key[0]] for key in setup.keys}
    model = replace(state.model, maps=maps, origin_px=np.zeros(3))
    search, length = state.band.search(setup.shift_extent_px), plane.prefix(model.insertion_radius)
    own = []
    for number, at, other_rows in _sample(setup):
        if number not in setup.numbers:
            continue
        batch_rows = setup.batches[number].rows
        rows = batch_rows[at]
        crops, weights = setup.arithmetic.crops([setup.store.packed(number)])[at], model.root_weight(plane, length)
        batch = whitened(setup.particles, rows, crops, weights, plane, setup.pixel_size_A, setup.arithmetic)
        reference = model.reference(setup.batches[number].key, plane, search, setup.arithmetic)
        sums = [residual_sums(batch, state.poses.take(poses), reference, model.noise.shape[1]) for poses in (rows, other_rows)]
        given, others = (s[:, 1:, 1 : state.band.radius].sum(axis=(0, 2)) for s in sums)
        own.append([given[0] - others[0], given[1] + others[1]])
    better, variance = setup.team.gather_rows(np.array(own).reshape(-1, 2)).sum(axis=0)
    sigmas = float(better / np.sqrt(max(variance, 1e-30)))
    if sigmas < LEAST_FIT_SIGMAS:
        raise InputError(f"the images do not agree with the map at the given poses better than at one another's ({sigmas:.1f} standard "
                         "deviations)", "the map that these poses made, in the same frame",
                         "give the volume.h5 of the job that the particles come from")
    return sigmas


def _sample(setup: Setup) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Of the first batches of each half, one row of each image: number of the batch, which of its rows, and for each of these a row of
    another image of that half."""
    sample: list[tuple[int, np.ndarray, np.ndarray]] = []
    for half in (0, 1):
        chosen: list[tuple[int, np.ndarray]] = []
        for number, batch in enumerate(setup.batches):
            if batch.key[0] == half and sum(len(at) for _, at in chosen) < SAMPLED_IMAGES:
                chosen.append((number, np.sort(np.unique(setup.particles.image_uid[batch.rows], return_index=True)[1])))
        rows = np.concatenate([setup.batches[number].rows[at] for number, at in chosen])
        others = np.split(np.roll(rows, len(rows) // 2), np.cumsum([len(at) for _, at in chosen])[:-1])
        sample += [(number, at, other) for (number, at), other in zip(chosen, others, strict=True)]
    return sample
