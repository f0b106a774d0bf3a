"""Half maps of the full box from known poses."""

from __future__ import annotations

from typing import Any

import numpy as np

from protomer.engine.maximisation import Sums, add_up_ranks, unregularised
from protomer.engine.model import Model, insertion_scale
from protomer.engine.pose_table import PoseTable
from protomer.engine.sums import insert_poses
from protomer.imaging.aberrations import usable_radius
from protomer.imaging.ewald import Ewald, curved_radius, ewald_whiten
from protomer.imaging.images import Whitened, whitened
from protomer.imaging.in_flight import done_in_flight, rows_of
from protomer.maps.volumes import Halves
from protomer.refinement.setup import Setup
from protomer.running.batches import Key


def reconstruct_halves(
    setup: Setup,
    noise: np.ndarray,
    poses: PoseTable,
    operators: np.ndarray,
    translations_A: np.ndarray | None = None,
    ewald: Ewald | None = None,
) -> tuple[Halves[np.ndarray], np.ndarray]:
    """Half maps of the full box from given poses, unjoined, unregularised, unmasked; and the map of both halves' sums together, which
    weighs each coefficient by what each half knows of it, where the mean of the half maps counts both the same.

    operators (g, 3, 3), each followed by a translation (g, 3) where these are given. ewald: insert each image as its two half-curves.
    """
    translations_px = None if translations_A is None else translations_A / setup.pixel_size_A
    plane, box, arithmetic = setup.store.plane, setup.store.plane.box, setup.arithmetic
    keys: list[Key] = [(0, 0), (1, 0)]
    model = Model({}, noise, operators, plane.radius)
    scale = insertion_scale(np.asarray(setup.largest), setup.particles, model)
    width_A = box * setup.pixel_size_A
    reach = usable_radius(setup.particles, plane.radius) if ewald is None else curved_radius(setup.particles, plane.radius, width_A)
    length = plane.prefix(reach)
    weights, batches = model.root_weight(plane, length), setup.batches
    halves = {batches[number].key[0] for number in setup.numbers}
    accumulators: dict[Key, Any] = {(half, 0): arithmetic.empty_accumulator(plane.radius) for half in sorted(halves)}

    def insert(numbers: list[int], crops: Any) -> int:
        rows, accumulator = rows_of(batches, numbers), accumulators[batches[numbers[0]].key[0], 0]
        for batch in _prepared(setup, crops, rows, weights, ewald):
            insert_poses(batch, poses.take(rows), plane, operators, scale, accumulator, arithmetic, translations_px)
        return len(rows)

    with setup.progress("reconstructing", sum(len(batches[n].rows) for n in setup.numbers)) as line:
        for inserted in done_in_flight(setup.store, batches, setup.numbers, arithmetic, insert):
            line.advance(inserted)
            setup.check_stop()
    totals = add_up_ranks(accumulators, keys, plane.radius, setup.team, arithmetic)

    def solved(total: np.ndarray) -> np.ndarray:
        return arithmetic.on_host(unregularised(Sums.of(arithmetic.here(total), scale), box, plane.radius + 1, setup.threads))

    half_maps = Halves(*(solved(totals[key]) for key in keys))
    together = totals.pop(keys[0])
    together += totals.pop(keys[1])
    return half_maps, solved(together)


def _prepared(setup: Setup, crops: Any, rows: np.ndarray, weights: np.ndarray, ewald: Ewald | None) -> tuple[Whitened, ...]:
    """A batch as it is inserted: flat, or as two half-curves; weights (groups, K)."""
    particles, plane = setup.particles, setup.store.plane
    if ewald is None:
        return (whitened(particles, rows, crops, weights, plane, setup.pixel_size_A, setup.arithmetic),)
    own, on_host = weights[particles.optics[rows]], setup.arithmetic.on_host(crops)
    curves = ewald_whiten(on_host, particles, rows, plane, setup.pixel_size_A, own, ewald)
    return tuple(curve.on(setup.arithmetic) for curve in curves)
