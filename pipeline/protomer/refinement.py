"""The one loop: align, insert, solve, measure, until neither resolution nor poses move (Scheres 2012)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from protomer.aberrations import usable_radius
from protomer.batches import Key
from protomer.expectation import Context, Model, PoseTable, expect, insert_poses, insertion_scale
from protomer.images import contrast_transfer, whiten
from protomer.maximisation import (
    Sums,
    add_up_ranks,
    corrected_curve,
    first_shell_below,
    half_map_curve,
    half_totals,
    join_below,
    regularised,
    signal_to_noise,
    solid_sphere,
    unregularised,
    working_box,
)
from protomer.non_uniform import find_cut_offs
from protomer.particle_scale import refined_scale
from protomer.randomness import uniform
from protomer.refinement_setup import MASK_FRACTION, Setup, State, at_scales
from protomer.relaxation import frame_of_second_half, turned_half, turned_map
from protomer.schedule import Band
from protomer.volumes import Halves
from protomer_kernels.insertion import empty_accumulator
from protomer_kernels.noise import power_by_shell
from protomer_kernels.rotations import matrices_from_quaternions

SAME_POSE_DEG = 10.0
AGREEMENTS, AGREEMENTS_IF_CERTAIN = 2, 1  # searches that must find a pose again before it only climbs
CERTAIN_WEIGHT = 0.99
UNCERTAIN_WEIGHT = 0.95  # those below are searched in every iteration: modes found with a worse map may not hold the right one
# of those, the least likely and one in so many are searched in each iteration all the same; fewer once such searches find nothing new
OUTLIER_SHARE, ONE_IN, ONE_IN_WHEN_STILL = 0.05, 8, 32
CLEARLY_PRESENT = 0.9  # where most images hold the particle with this probability, the others count by theirs
STILL_SHARE = 0.01  # of searches of settled particles that end elsewhere


def survey_images(setup: Setup, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean power (the first noise spectrum) and largest |X| by optics group and shell: two (groups, shells) arrays.

    An optics group without images has the mean power of all images: nothing is compared with it.
    """
    plane, shells = setup.store.plane, setup.store.plane.radius + 1
    power, largest = [], np.zeros((groups, shells))
    with setup.progress("reading images", sum(len(setup.batches[n].rows) for n in setup.numbers)) as line:
        for number, crops in setup.store.stream(setup.numbers):
            rows = setup.batches[number].rows
            group = setup.particles.optics[rows]
            each = power_by_shell(crops, plane.shell, shells)
            power.append(np.stack([each[group == g].sum(axis=0) for g in range(groups)]))
            magnitude = np.abs(crops)
            for g in range(groups):
                if np.any(group == g):
                    np.maximum.at(largest[g], plane.shell, magnitude[group == g].max(axis=0))
            line.advance(len(rows))
            setup.check_stop()
    total = setup.team.gather_rows(np.array(power).reshape(-1, groups, shells)).sum(axis=0)
    images = np.bincount(setup.particles.optics, minlength=groups)[:, None]
    mean = np.where(images > 0, total / np.maximum(images, 1), total.sum(axis=0) / images.sum())
    return mean / np.bincount(plane.shell, minlength=shells), setup.team.largest(largest)


def iterate(setup: Setup, state: State) -> State:
    """One iteration of expectation-maximisation."""
    setup = at_scales(setup, state)
    band, model = state.band, state.model
    context = _context(setup, state)
    search = band.search(setup.shift_extent_px)
    with setup.progress(f"iteration {band.iteration + 1}", sum(len(setup.batches[n].rows) for n in setup.numbers)) as line:

        def advance(number: int) -> None:
            line.advance(number)
            setup.check_stop()

        share = expect(
            setup.batches, setup.numbers, setup.store, setup.particles, model, search, state.poses, replace(context, advance=advance)
        )
    poses = _gather_poses(setup, share.poses)
    scale = refined_scale(state.scale, in_table_order(setup, share.grey)) if setup.particle_scale else state.scale
    noise, fit = _update_noise(setup, model, setup.team.gather_rows(share.residuals).sum(axis=0))
    totals = add_up_ranks(share.accumulators, setup.keys, model.insertion_radius, setup.team)
    maps, curve = maximise(setup, totals, share.scale, band)
    resolved = min(first_shell_below(curve, setup.alignment_fsc), model.insertion_radius)
    if setup.is_relaxed:
        maps, poses = in_one_frame(setup, maps, poses)
    turn_deg = turns_deg(state.poses, poses, model.operators)
    found_deg = turns_deg(state.poses, poses, model.mates) if setup.is_relaxed else turn_deg
    agreed = np.where(context.search_again, np.where(found_deg < SAME_POSE_DEG, state.agreed + 1, 0), state.agreed)
    width_deg = rotation_widths_deg(poses.covariance)
    certainty = float(poses.weight[:, 0].mean())
    gained = certainty - (state.history[-1]["mean_top_weight"] if state.history else 0.0)
    after = band.next(resolved, float(np.median(turn_deg)), float(np.median(width_deg)), gained)
    record = {
        "iteration": band.iteration + 1,
        "alignment_radius": band.radius,
        "resolved_shell": resolved,
        "median_turn_deg": float(np.median(turn_deg)),
        **pose_change_quartiles(turn_deg, state.poses, poses, setup.pixel_size_A),
        "median_width_deg": float(np.median(width_deg)),
        "mean_top_weight": certainty,
        "grey_fit": fit,
        "null_class": context.null_class,
        "mean_presence": float(poses.presence.mean()),
        "searched": int(context.search_again.sum()),
        "found_elsewhere": _found_elsewhere(state.agreed, context.search_again, found_deg),
        "fsc": [round(float(c), 5) for c in curve],
        "noise": noise.round(8).tolist(),
    }
    model = replace(model, maps=maps, noise=noise, insertion_radius=after.insertion_radius)
    return State(after, model, poses, agreed, scale, [*state.history, record])


def in_one_frame(setup: Setup, maps: dict[Key, np.ndarray], poses: PoseTable) -> tuple[dict[Key, np.ndarray], PoseTable]:
    """Maps and poses with those of the second half turned by an operator of the relaxed group where that makes the halves agree."""
    operator = frame_of_second_half(Halves(maps[0, 0], maps[1, 0]), setup.mates)
    if np.array_equal(operator, np.eye(3)):
        return maps, poses
    turned = {key: turned_map(volume, operator) if key[0] == 1 else volume for key, volume in maps.items()}
    return turned, turned_half(poses, np.flatnonzero(setup.particles.half == 1), operator)


def _context(setup: Setup, state: State) -> Context:
    """Who is searched globally, and the iteration's fixed-point scale.

    A particle whose pose a search has found again only climbs from there; of those, the least likely and a rotating share are searched
    all the same, so that nothing stays lost.
    """
    again = state.agreed < np.where(state.poses.weight[:, 0] > CERTAIN_WEIGHT, AGREEMENTS_IF_CERTAIN, AGREEMENTS)
    again |= state.poses.weight[:, 0] < UNCERTAIN_WEIGHT
    elsewhere = state.history[-1]["found_elsewhere"] if state.history else None
    one_in = ONE_IN if elsewhere is None or elsewhere > STILL_SHARE else ONE_IN_WHEN_STILL
    turn = (uniform(setup.seed, setup.particles.image_uid, "search again") * one_in).astype(np.int64)
    again |= (turn + state.band.iteration) % one_in == 0
    if state.band.iteration > 0:
        again |= state.poses.log_likelihood < np.quantile(state.poses.log_likelihood, OUTLIER_SHARE * ONE_IN / one_in)
    scale = insertion_scale(setup.largest, setup.particles, state.model)
    clear = bool(state.history) and float(np.median(state.poses.presence)) > CLEARLY_PRESENT
    draw = uniform(setup.seed, setup.particles.image_uid, "mate") if setup.is_relaxed and state.band.iteration == 0 else None
    null_class = setup.null_class and clear
    how = null_class, setup.marginalise, draw, setup.local, state.band.iteration == 0
    return Context(again, scale, setup.pixel_size_A, setup.threads, lambda number: None, *how)


def _found_elsewhere(agreed: np.ndarray, searched: np.ndarray, turn_deg: np.ndarray) -> float | None:
    """Of the particles whose pose had been found again before and that were searched all the same, the share that ended elsewhere."""
    settled = searched & (agreed > 0)
    return float(np.mean(turn_deg[settled] >= SAME_POSE_DEG)) if settled.any() else None


def _gather_poses(setup: Setup, share: PoseTable) -> PoseTable:
    """Every rank's rows, back in the order of the particle table, on every rank."""
    return PoseTable(*(in_table_order(setup, getattr(share, name)) for name in PoseTable.__dataclass_fields__))


def in_table_order(setup: Setup, share: np.ndarray) -> np.ndarray:
    """Rows of every rank's batches, gathered and put into the order of the particle table, on every rank."""
    gathered = setup.team.gather_rows(share)
    column = np.empty_like(gathered)
    column[setup.row_order] = gathered
    return column


def _update_noise(setup: Setup, model: Model, residuals: np.ndarray) -> tuple[np.ndarray, float]:
    """sigma^2 from the residuals (groups, 3, shells) of whitened data, and the grey-scale fit sum Re(Y* M) / sum |M|^2."""
    plane, shells = setup.store.plane, model.noise.shape[1]
    length = plane.prefix(usable_radius(setup.particles, model.insertion_radius))
    coefficients = np.bincount(plane.shell[:length], plane.multiplicity[:length], minlength=shells)
    images = np.bincount(setup.particles.optics, minlength=len(model.noise))[:, None]
    seen = (coefficients > 0) & (images > 0)
    ratio = np.where(seen, residuals[:, 0] / np.maximum(coefficients * images, 1), 1.0)
    low = slice(1, max(3, model.insertion_radius // 2))
    fit = float(residuals[:, 1, low].sum() / max(residuals[:, 2, low].sum(), 1e-30))
    return model.noise * np.maximum(ratio, 1e-6), fit


def maximise(setup: Setup, totals: dict[Key, np.ndarray], scale: float, band: Band) -> tuple[dict[Key, np.ndarray], np.ndarray]:
    """References of the next iteration, and the FSC of unregularised half maps: in a sphere, or in the mask in use, corrected for it."""
    box, shells = working_box(band.box, band.insertion_radius), band.insertion_radius + 1
    halves, join_shell = half_totals(totals), min(setup.join_shell, band.insertion_radius)
    half_maps = halves.map(lambda total: unregularised(Sums.of(total, scale), box, shells, setup.threads))
    mask = solid_sphere(box, MASK_FRACTION)
    curve = half_map_curve(half_maps, mask)
    resolved = min(first_shell_below(curve), shells - 1)
    tight = setup.masking.on(half_maps, band.box / box * setup.pixel_size_A, band.box * setup.pixel_size_A / max(resolved, 1))
    if tight.size > 1:
        mask = mask * tight
        curve = corrected_curve(half_maps, mask, curve, setup.seed)
        resolved = min(first_shell_below(curve), shells - 1)
    ssnr = signal_to_noise(np.resize(curve, shells), resolved)
    cut_offs = None if setup.non_uniform is None else find_cut_offs(half_maps, shells - 1, setup.non_uniform)
    own = [key for n, key in enumerate(setup.keys) if n % setup.team.size == setup.team.rank]
    maps = []
    for half, fold in own:
        sums = Sums.of(halves[half] if len(setup.keys) == 2 else halves[half] - totals[half, fold], scale)
        join_below(sums, halves[1 - half], scale, join_shell)
        volume = regularised(sums, ssnr, box, setup.threads)
        maps.append((volume if cut_offs is None else cut_offs.apply(volume)) * mask)
    gathered = setup.team.gather_rows(np.array(maps, np.float32).reshape(-1, box, box, box))
    owners = [key for rank in range(setup.team.size) for n, key in enumerate(setup.keys) if n % setup.team.size == rank]
    return dict(zip(owners, gathered, strict=True)), curve


def turns_deg(before: PoseTable, after: PoseTable, operators: np.ndarray) -> np.ndarray:
    """Angle (N,) between the heaviest modes of two iterations, group mates counted as one; 180 where there was none before."""
    if not np.any(before.weight):
        return np.full(len(before.weight), 180.0)
    first, second = (matrices_from_quaternions(table.rotation[:, 0]) for table in (before, after))
    trace = np.max([np.einsum("nij,nij->n", g @ first, second) for g in operators], axis=0)
    return np.rad2deg(np.arccos(np.clip(0.5 * (trace - 1), -1, 1)))


def pose_change_quartiles(turn_deg: np.ndarray, before: PoseTable, after: PoseTable, pixel_size_A: float) -> dict[str, list[float] | None]:
    """Quartiles over the particles of the turn and of the shift change between two iterations; None where there was none before."""
    if not np.any(before.weight):
        return {"turn_quartiles_deg": None, "shift_change_quartiles_A": None}
    moved_A = np.linalg.norm(after.shift_px[:, 0] - before.shift_px[:, 0], axis=1) * pixel_size_A
    quartiles = {"turn_quartiles_deg": turn_deg, "shift_change_quartiles_A": moved_A}
    return {name: np.percentile(values, (25, 50, 75)).round(6).tolist() for name, values in quartiles.items()}


def rotation_widths_deg(covariance: np.ndarray) -> np.ndarray:
    """Root mean square angle (N,) of each pose's posterior, from its packed covariance (N, 15)."""
    return np.rad2deg(np.sqrt(np.maximum(covariance[:, [0, 2, 5]].sum(axis=1), 0.0)))


def reconstruct_halves(
    setup: Setup, noise: np.ndarray, poses: PoseTable, operators: np.ndarray, translations_A: np.ndarray | None = None
) -> tuple[Halves[np.ndarray], np.ndarray]:
    """Half maps of the full box from given poses, unjoined, unregularised, unmasked; and the map of both halves' sums together, which
    weighs each coefficient by what each half knows of it, where the mean of the half maps counts both the same.

    operators (g, 3, 3), each followed by a translation (g, 3) where these are given.
    """
    translations_px = None if translations_A is None else translations_A / setup.pixel_size_A
    plane, box = setup.store.plane, setup.store.plane.box
    keys: list[Key] = [(0, 0), (1, 0)]
    model = Model({}, noise, operators, plane.radius)
    scale = insertion_scale(np.asarray(setup.largest), setup.particles, model)
    length = plane.prefix(usable_radius(setup.particles, plane.radius))
    weights, accumulators = model.root_weight(plane, length), {}
    with setup.progress("reconstructing", sum(len(setup.batches[n].rows) for n in setup.numbers)) as line:
        for number, crops in setup.store.stream(setup.numbers):
            rows, key = setup.batches[number].rows, (setup.batches[number].key[0], 0)
            if key not in accumulators:
                accumulators[key] = empty_accumulator(plane.radius)
            transfer = contrast_transfer(setup.particles, rows, plane, length, setup.pixel_size_A)
            batch = whiten(crops, transfer, weights[setup.particles.optics[rows]])
            insert_poses(batch, poses.take(rows), plane, operators, scale, setup.threads, accumulators[key], translations_px)
            line.advance(len(rows))
            setup.check_stop()
    totals = add_up_ranks(accumulators, keys, plane.radius, setup.team)
    half_maps = Halves(*(unregularised(Sums.of(totals[key], scale), box, plane.radius + 1, setup.threads) for key in keys))
    together = totals.pop(keys[0])
    together += totals.pop(keys[1])
    return half_maps, unregularised(Sums.of(together, scale), box, plane.radius + 1, setup.threads)
