"""The one loop: align, insert, solve, measure, until neither resolution nor poses move (Scheres 2012)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from protomer.engine.batch_alignment import Context
from protomer.engine.expectation import expect
from protomer.engine.frame import motion_from_given, moved_at, moved_table
from protomer.engine.hypotheses import Hypotheses
from protomer.engine.iteration_record import Moved, told
from protomer.engine.maximisation import (
    Sums,
    add_up_ranks,
    corrected_curve,
    half_map_curve,
    half_totals,
    join_below,
    regularised,
    signal_to_noise,
    unregularised,
    working_box,
)
from protomer.engine.model import Model, insertion_scale
from protomer.engine.particle_scale import refined_scale
from protomer.engine.pose_table import PoseTable
from protomer.engine.schedule import Band
from protomer.helical.lattice import Lattice
from protomer.imaging.aberrations import usable_radius
from protomer.maps.local_wiener import find_gains
from protomer.maps.rigid_motion import RigidMotion
from protomer.maps.volumes import Halves, Volume
from protomer.randomness import uniform
from protomer.refinement.setup import Setup, State, at_scales
from protomer.running.batches import Key
from protomer.symmetry.relaxation import frame_of_second_half, turned_half, turned_map
from protomer_kernels.noise import power_by_shell

AGREEMENTS, AGREEMENTS_IF_CERTAIN = 2, 1  # searches that must find a pose again before it only climbs
CERTAIN_WEIGHT = 0.99
UNCERTAIN_WEIGHT = 0.95  # those below are searched in every iteration: modes found with a worse map may not hold the right one
# of those, the least likely and one in so many are searched in each iteration all the same; fewer once such searches find nothing new
OUTLIER_SHARE, ONE_IN, ONE_IN_WHEN_STILL = 0.05, 8, 32
CLEARLY_PRESENT = 0.9  # where most images hold the particle with this probability, the others count by theirs
STILL_LATTICE = 0.005  # of the resolution: by how much the ends of the central part may move in an iteration that changes nothing any more
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


@dataclass(frozen=True)
class Step:
    """What an E-step gave, the same on every rank. Of each class: poses, who was searched globally (K, N), and accumulators; the posterior
    (N, K) of the classes, log odds (N,) of something unknown; grey scales, noise and the grey-scale fit of the references."""

    poses: tuple[PoseTable, ...]
    searched: np.ndarray
    totals: tuple[dict[Key, np.ndarray], ...]
    fixed_point: float
    posterior: np.ndarray
    unknown: np.ndarray
    scale: np.ndarray
    noise: np.ndarray
    fit: float


def iterate(setup: Setup, state: State) -> State:
    """One iteration of expectation-maximisation of one structure."""
    band, model = state.band, state.model
    clear = bool(state.history) and float(np.median(state.poses.presence)) > CLEARLY_PRESENT
    step = estimate(setup, (state,), Hypotheses.of_one(setup.null_class and clear))
    poses = step.poses[0]
    lattice = refitted(setup, step.totals[0], step.fixed_point, state)
    maps, curve = maximise(setup, step.totals[0], step.fixed_point, band, lattice)
    resolved = min(setup.resolved_shell(curve, setup.alignment_fsc), model.insertion_radius)
    if setup.is_relaxed:
        maps, poses = in_one_frame(setup, maps, poses)
    moved = Moved.between(setup, state, poses, step.searched[0])
    record = {**told(setup, state, poses, moved, step.searched[0]), "resolved_shell": resolved, "grey_fit": step.fit,
              "null_class": setup.null_class and clear, "mean_presence": float(poses.presence.mean()),
              "fsc": [round(float(c), 5) for c in curve], "noise": step.noise.round(8).tolist(), **_told_of_frame(setup, poses)}
    gained = record["mean_top_weight"] - (state.history[-1]["mean_top_weight"] if state.history else 0.0)
    if setup.winding is not None and lattice is not None and state.lattice is not None:
        moved_A = setup.winding.moved_A(lattice, state.lattice, setup.width_A)
        record |= {"lattice": asdict(lattice), "lattice_moved_A": moved_A}
        gained = gained if moved_A < STILL_LATTICE * setup.width_A / max(resolved, 1) else np.inf
    after = band.next(resolved, record["median_turn_deg"], record["median_width_deg"], gained)
    model = replace(model, maps=maps, noise=step.noise, insertion_radius=after.insertion_radius)
    return State(after, model, poses, moved.agreed, step.scale, [*state.history, record], lattice)


def estimate(setup: Setup, states: Sequence[State], hypotheses: Hypotheses) -> Step:
    """The E-step over all ranks: every image against the maps of all classes. The states share band, noise and grey scales."""
    setup, first = at_scales(setup, states[0]), states[0]
    context = _context(setup, states, hypotheses)
    search = setup.search(first.band)
    with setup.progress(f"iteration {first.band.iteration + 1}", sum(len(setup.batches[n].rows) for n in setup.numbers)) as line:

        def advance(number: int) -> None:
            line.advance(number)
            setup.check_stop()

        share = expect(
            setup.batches, setup.numbers, setup.store, setup.particles, [state.model for state in states], search,
            [state.poses for state in states], replace(context, advance=advance),
        )
    poses = tuple(_gather_poses(setup, of_class) for of_class in share.poses)
    scale = refined_scale(first.scale, in_table_order(setup, share.grey)) if setup.particle_scale else first.scale
    noise, fit = _update_noise(setup, first.model, setup.team.gather_rows(share.residuals).sum(axis=0))
    radius, team = first.model.insertion_radius, setup.team
    totals = tuple(add_up_ranks(of_class, setup.keys, radius, team, setup.arithmetic) for of_class in share.accumulators)
    posterior, unknown = in_table_order(setup, share.posterior), in_table_order(setup, share.unknown)
    return Step(poses, context.search_again, totals, share.scale, posterior, unknown, scale, noise, fit)


def in_one_frame(setup: Setup, maps: dict[Key, np.ndarray], poses: PoseTable) -> tuple[dict[Key, np.ndarray], PoseTable]:
    """Maps and poses with those of the second half turned by an operator of the relaxed group where that makes the halves agree."""
    operator = frame_of_second_half(Halves(maps[0, 0], maps[1, 0]), setup.mates)
    if np.array_equal(operator, np.eye(3)):
        return maps, poses
    turned = {key: turned_map(volume, operator) if key[0] == 1 else volume for key, volume in maps.items()}
    return turned, turned_half(poses, np.flatnonzero(setup.particles.half == 1), operator)


def _context(setup: Setup, states: Sequence[State], hypotheses: Hypotheses) -> Context:
    """Who is searched globally in each class, and the iteration's fixed-point scale."""
    first = states[0]
    again = np.stack([_search_again(setup, state) for state in states])
    scale = insertion_scale(setup.largest, setup.particles, first.model)
    draw = uniform(setup.seed, setup.particles.image_uid, "mate") if setup.is_relaxed and first.band.iteration == 0 else None
    how = hypotheses, setup.marginalise, draw, setup.local, first.band.iteration == 0, setup.arithmetic, setup.filaments_at(first.lattice)
    put_back = None if setup.local is None or first.band.iteration == 0 else motion_of(setup, first.poses).inverse
    return Context(again, scale, setup.pixel_size_A, lambda number: None, *how, put_back)


def motion_of(setup: Setup, poses: PoseTable) -> RigidMotion:
    """How the frame of these poses has moved from that of the given ones (frame.py); not at all where none were given."""
    if setup.local is None:
        return RigidMotion.none()
    return motion_from_given(setup.local, poses, setup.operators, setup.mates, setup.pixel_size_A)


def in_given_frame(setup: Setup, state: State) -> State:
    """The state with poses in the frame of the given ones: those of the last iteration have moved on by a step."""
    return replace(state, poses=moved_table(state.poses, motion_of(setup, state.poses).inverse, setup.pixel_size_A))


def _told_of_frame(setup: Setup, poses: PoseTable) -> dict[str, float]:
    """For the history of a local refinement: what an iteration that began in the given frame has moved it by, at the fulcrum."""
    if setup.local is None:
        return {}
    motion = motion_of(setup, poses)
    return {"frame_turn_deg": motion.angle_deg, "frame_move_A": moved_at(motion, setup.local.fulcrum_px * setup.pixel_size_A)}


def _search_again(setup: Setup, state: State) -> np.ndarray:
    """Who (N,) is searched globally.

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
    return again


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


def refitted(setup: Setup, totals: dict[Key, np.ndarray], scale: float, state: State) -> Lattice | None:
    """The lattice that the half maps of an iteration tell, without which they were made; None where none is imposed."""
    if setup.winding is None or state.lattice is None:
        return None
    band = state.band
    box, shells = working_box(band.box, band.insertion_radius), band.insertion_radius + 1
    here, on_host = setup.arithmetic.here, setup.arithmetic.on_host
    half_maps = half_totals(totals).map(lambda total: unregularised(Sums.of(here(total), scale), box, shells, setup.threads))
    resolved = setup.resolved_shell(half_map_curve(half_maps, setup.solid(box)))
    volumes = half_maps.map(lambda data: Volume(on_host(data), setup.width_A / box))
    return setup.winding.refitted(volumes, setup.width_A / max(resolved, 1), state.lattice)


def maximise(
    setup: Setup, totals: dict[Key, np.ndarray], scale: float, band: Band, lattice: Lattice | None = None
) -> tuple[dict[Key, np.ndarray], np.ndarray]:
    """References of the next iteration, with the lattice imposed, if any, and the FSC of unregularised half maps: where references live, or
    in the mask in use, corrected for it."""
    box, shells = working_box(band.box, band.insertion_radius), band.insertion_radius + 1
    arithmetic, join_shell = setup.arithmetic, min(setup.join_shell, band.insertion_radius)
    halves = half_totals(totals).map(arithmetic.here)
    half_maps = halves.map(lambda total: setup.wound(unregularised(Sums.of(total, scale), box, shells, setup.threads), lattice))
    mask = setup.solid(box)
    curve = half_map_curve(half_maps, mask)
    resolved = min(setup.resolved_shell(curve), shells - 1)
    tight = setup.masking.on(half_maps, band.box / box * setup.pixel_size_A, band.box * setup.pixel_size_A / max(resolved, 1))
    if tight.size > 1:
        mask = mask * tight
        curve = corrected_curve(half_maps, mask, curve, setup.seed, arithmetic)
        resolved = min(setup.resolved_shell(curve), shells - 1)
    ssnr = signal_to_noise(np.resize(curve, shells), resolved)
    gains = None
    if setup.non_uniform is not None:
        gains = find_gains(half_maps, setup.solid(box), shells - 1, setup.non_uniform)
        ssnr = gains.ssnr(shells)
    own = [key for n, key in enumerate(setup.keys) if n % setup.team.size == setup.team.rank]
    maps = []
    for half, fold in own:
        sums = Sums.of(halves[half] if len(setup.keys) == 2 else halves[half] - arithmetic.here(totals[half, fold]), scale)
        join_below(sums, halves[1 - half], scale, join_shell)
        volume = setup.wound(regularised(sums, ssnr, box, setup.threads), lattice)
        maps.append(arithmetic.on_host((volume if gains is None else gains.apply(volume)) * mask).astype(np.float32, copy=False))
    if setup.team.size == 1:
        return dict(zip(own, maps, strict=True)), curve
    gathered = setup.team.gather_rows(np.array(maps, np.float32).reshape(-1, box, box, box))
    owners = [key for rank in range(setup.team.size) for n, key in enumerate(setup.keys) if n % setup.team.size == rank]
    return dict(zip(owners, gathered, strict=True)), curve
