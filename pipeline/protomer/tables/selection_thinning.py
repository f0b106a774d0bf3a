"""Criteria that look at rows together: one row for each image, particles that were picked twice, crowded viewing directions.

Each is applied to the rows that passed all before it, and a row passes or not whatever the order of rows.

(1) A particle is at coordinate * pixel size of its micrograph - shift. Of two that are nearer to each other than a distance the one with
    the higher log-likelihood stays, or the first of its stack where these are equal; in that order, so that of a row of neighbours
    every other one may stay. Copies of one image are not two particles unless that is asked for.
(2) Views are counted in cells of the unit that symmetry leaves (protomer.tables.views). Of a cell that has more than `crowding` times what
    an even coverage would give, so many are kept whose hash of (seed, image) is lowest.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from protomer.declarations.select import SelectSettings
from protomer.errors import InputError, SettingsError
from protomer.randomness import uniform
from protomer.running.events import Events
from protomer.running.job_run import Inputs
from protomer.symmetry.expansion import one_row_per_image
from protomer.symmetry.point_groups import operators
from protomer.tables.particles import Particles
from protomer.tables.selection import Criterion, Step
from protomer.tables.views import coverage, viewing_directions

PURPOSE = "rebalance"
MICROGRAPH_PIXELS = ("rlnMicrographPixelSize", "rlnMicrographOriginalPixelSize")  # of RELION's optics, angstrom
CS_MICROGRAPH_PIXEL = "location/micrograph_psize_A"


def thinning_of(inputs: Inputs, settings: SelectSettings, events: Events) -> list[Step]:
    """Those that are asked for, in the order in which they are applied. Raises SettingsError for settings of what is not."""
    for name, given, needed in (("duplicate_copies", settings.duplicate_copies, "min_distance"),
                                ("micrograph_pixel_size", settings.micrograph_pixel_size is not None, "min_distance")):
        if given and settings.min_distance is None:
            raise SettingsError(f"{name} without {needed}", f"{name} together with {needed}", f"add {needed}, or unset {name}")
    if settings.one_per_image is not None and settings.invert:
        raise SettingsError("one_per_image with invert", "one of the two", "rest.h5 has the copies that are not kept")
    group = operators(inputs.symmetry, inputs.axes)
    steps: list[Step] = []
    if settings.one_per_image is not None:
        steps.append(one_copy)
    if settings.min_distance is not None:
        steps.append(lambda particles, asked, passing: apart(particles, asked, passing, events))
    if settings.rebalance:
        steps.append(lambda particles, asked, passing: balanced(particles, asked, passing, group))
    return steps


def one_copy(particles: Particles, settings: SelectSettings, passing: np.ndarray) -> Criterion:
    """One passing row for each image. Raises InputError where the rows are no copies."""
    keep, rows = str(settings.one_per_image), np.flatnonzero(passing)
    kept, alone = np.zeros(len(particles), bool), len(particles) - len(one_row_per_image(particles, keep))
    kept[rows[one_row_per_image(particles.take(rows), keep)] if len(rows) else rows] = True
    which = "highest log-likelihood" if keep == "best" else "lowest number"
    return Criterion("one_per_image", f"the copy of its image with the {which}", kept, alone)


def apart(particles: Particles, settings: SelectSettings, passing: np.ndarray, events: Events) -> Criterion:
    """Rows that no better passing row is nearer to than min_distance, by (1). Raises InputError where no position is known."""
    least_A = settings.min_distance
    assert least_A is not None
    position_A = positions_A(particles, settings, events)
    known = np.isfinite(position_A).all(axis=1) & (particles.micrograph != "")
    if not known.any():
        raise InputError(f"min_distance = {least_A:g} Å, and no row has a place on a micrograph", "coordinates and names of micrographs",
                         "import them with rlnCoordinateX, rlnCoordinateY and rlnMicrographName (.cs: location/...), or leave it out")
    if not known.all():
        events.warn("no_position", f"{int((~known).sum())} of {len(known)} rows have no place on a micrograph: none of them is a duplicate")
    pairs = near_pairs(particles, position_A, known, least_A, settings.duplicate_copies)
    better = order_of_merit(particles, settings.duplicate_kept)
    kept = surviving(pairs, better, passing)
    alone = int((~surviving(pairs, better, np.ones(len(passing), bool))).sum())
    nearest_A = np.full(len(passing), np.nan)
    if len(pairs):
        distance_A = np.linalg.norm(position_A[pairs[:, 0]] - position_A[pairs[:, 1]], axis=1)
        for side in (0, 1):
            np.fmin.at(nearest_A, pairs[:, side], distance_A)
    return Criterion("min_distance", f"no better particle nearer than {least_A:g} Å on its micrograph", kept, alone, nearest_A,
                     "distance to a neighbour nearer than asked (Å)", (least_A,))


def positions_A(particles: Particles, settings: SelectSettings, events: Events) -> np.ndarray:
    """(1): x, y (n, 2) on the micrographs, angstrom, NaN where unknown. Warns where the micrographs' pixel size had to be assumed."""
    pixel_A = np.empty(len(particles))
    assumed = False
    stack_box = np.array([stack.box for stack in particles.stacks] or [0])[particles.columns["stack"]]
    for number, group in enumerate(particles.optics_groups):
        rows = particles.columns["optics"] == number
        said = next((float(group.extra[tag]) for tag in MICROGRAPH_PIXELS if tag in group.extra), None)
        if said is None and CS_MICROGRAPH_PIXEL not in particles.extra:
            assumed = True
        pixel_A[rows] = said if said is not None else group.pixel_size_A * group.box / np.maximum(stack_box[rows], 1)
    if CS_MICROGRAPH_PIXEL in particles.extra:
        pixel_A = np.asarray(particles.extra[CS_MICROGRAPH_PIXEL], np.float64)
    if settings.micrograph_pixel_size is not None:
        pixel_A[:] = settings.micrograph_pixel_size
    elif assumed:
        events.warn("micrograph_pixel_size", f"no file says how large the micrographs' pixels are: {np.median(pixel_A):.4g} Å, those of "
                    "the stacks, were taken. Where particles were extracted with binning, set micrograph_pixel_size")
    return np.asarray(particles.coordinate_px * pixel_A[:, None] - particles.shift_A)


def near_pairs(particles: Particles, position_A: np.ndarray, known: np.ndarray, least_A: float, with_copies: bool) -> np.ndarray:
    """Rows (pairs, 2) that are nearer to each other than least_A on one micrograph; of two images unless with_copies."""
    rows = np.flatnonzero(known)
    _, sheet = np.unique(particles.micrograph[rows].astype(str), return_inverse=True)
    place = position_A[rows] - position_A[rows].min(axis=0)
    apart_A = float(place.max()) + 2 * least_A + 1  # micrographs side by side, so that one search does for all of them
    place[:, 0] += apart_A * sheet
    pairs = rows[cKDTree(place).query_pairs(np.nextafter(least_A, 0), output_type="ndarray").reshape(-1, 2)]
    return pairs if with_copies else pairs[particles.image_uid[pairs[:, 0]] != particles.image_uid[pairs[:, 1]]]


def order_of_merit(particles: Particles, keep: str) -> np.ndarray:
    """int64 (n,): the place of each row when those to keep come first."""
    likelihood = np.nan_to_num(particles.log_likelihood, nan=-np.inf) if keep == "best" else np.zeros(len(particles))
    place = np.empty(len(particles), np.int64)
    place[np.lexsort((particles.copy, particles.stack_index, particles.columns["stack"], -likelihood))] = np.arange(len(particles))
    return place


def surviving(pairs: np.ndarray, place: np.ndarray, among: np.ndarray) -> np.ndarray:
    """bool (n,): rows among which none is paired with one of an earlier place that survives."""
    kept = among.copy()
    pairs = pairs[among[pairs].all(axis=1)] if len(pairs) else pairs
    first_wins = place[pairs[:, 0]] < place[pairs[:, 1]]
    winner, loser = (np.where(first_wins, pairs[:, a], pairs[:, b]) for a, b in ((0, 1), (1, 0)))
    for at in np.argsort(place[winner], kind="stable").tolist():  # a winner's own fate is settled before it decides another's
        if kept[winner[at]]:
            kept[loser[at]] = False
    return kept


def balanced(particles: Particles, settings: SelectSettings, passing: np.ndarray, group: np.ndarray) -> Criterion:
    """Passing rows but for the excess in crowded directions, by (2). Raises InputError where there are no poses."""
    if not particles.has_poses:
        raise InputError("rebalance, and these particles have no poses", "particles with viewing directions", "refine them first")
    views, draw = viewing_directions(particles.rotation), uniform(settings.seed, particles.image_uid, PURPOSE)
    density = np.full(len(particles), np.nan)
    kept, density[passing] = _thinned(views, draw, passing, group, settings.crowding)
    everything = np.ones(len(particles), bool)
    alone = int((~_thinned(views, draw, everything, group, settings.crowding)[0]).sum())
    return Criterion("rebalance", f"of each viewing direction at most {settings.crowding:g} times an even share, drawn at random "
                     f"(seed {settings.seed})", kept, alone, density, "views in this direction, relative to an even coverage",
                     (settings.crowding,))


def _thinned(views: np.ndarray, draw: np.ndarray, among: np.ndarray, group: np.ndarray, crowding: float) -> tuple[np.ndarray, np.ndarray]:
    """bool (n,): those kept of some rows; and how crowded the directions of these rows are."""
    rows, kept = np.flatnonzero(among), np.zeros(len(among), bool)
    if not len(rows):
        return kept, np.zeros(0)
    cover = coverage(views[rows], group)
    order = np.lexsort((draw[rows], cover.cell))
    starts = np.concatenate([[0], np.cumsum(cover.count)[:-1]])
    rank = np.empty(len(rows), np.int64)
    rank[order] = np.arange(len(rows)) - starts[cover.cell[order]]
    kept[rows[rank < np.maximum(np.ceil(crowding * cover.even), 1)[cover.cell]]] = True
    return kept, (cover.count / cover.even)[cover.cell]
