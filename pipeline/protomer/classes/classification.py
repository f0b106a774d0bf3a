"""Several structures at once: the loop of refine, with a class as one more thing that is not known of an image (Scheres 2007).

Each image is compared with the map of every class of its own half, and counts in each by the class's posterior (hypotheses.py). Halves
share what the start gave them and nothing finer: in every class they are joined below the start's low-pass.

Classes that start alike are told apart by chance: for the first iterations each image lies in the one that was drawn for it. Meanwhile the
halves have their references in common, low-passed as the start was, so that a class is the same one in both; then they part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.special import expit, logsumexp

from protomer.classes.consensus import references_about_consensus
from protomer.classes.match import matched
from protomer.engine.hypotheses import Hypotheses, evidence
from protomer.engine.iteration_record import Moved, told
from protomer.engine.maximisation import first_shell_below
from protomer.engine.pose_table import PoseTable
from protomer.engine.schedule import Band
from protomer.engine.unknown import can_be_told
from protomer.maps.volumes import Halves
from protomer.randomness import uniform
from protomer.refinement.loop import AGREEMENTS, CLEARLY_PRESENT, Step, estimate
from protomer.refinement.setup import Setup, State
from protomer.running.batches import Key
from protomer_kernels.fourier import low_pass

LEAST_ITERATIONS, MOST_ITERATIONS = 5, 30  # after the random ones


@dataclass(frozen=True)
class Classes:
    """What does not change while images are classified. alike (K,): for each class the first one that starts from the same map;
    start_radius: of the low-pass of the starts, in shells."""

    setup: Setup
    alike: np.ndarray
    start_radius: int
    hard: bool = False
    null_class: bool = False
    random_iterations: int = 0
    final_iterations: int = 0
    class_change: float = 0.05

    @property
    def number(self) -> int:
        """K."""
        return len(self.alike)

    @property
    def random_until(self) -> int:
        """How many iterations have classes drawn at random."""
        return self.random_iterations if len(np.unique(self.alike)) < self.number else 0

    def drawn(self) -> np.ndarray:
        """(N, K) bool: of classes that start alike, the one that is drawn for each image."""
        chance = uniform(self.setup.seed, self.setup.particles.image_uid, "class")
        allowed = np.zeros((len(chance), self.number), bool)
        for first in np.unique(self.alike):
            members = np.flatnonzero(self.alike == first)
            allowed[np.arange(len(chance)), members[(chance * len(members)).astype(np.int64)]] = True
        return allowed


@dataclass(frozen=True)
class Mixture:
    """Where a classification stands: a state for each class, which share band, noise and grey scales; posterior (N, K) of the classes and
    prior (K + 1,), noise alone last; decoys: the starts of those classes; iterations left to do, -1 while it is not settled; and what each
    iteration gave."""

    states: tuple[State, ...]
    posterior: np.ndarray
    prior: np.ndarray
    decoys: Mapping[int, np.ndarray] = field(default_factory=dict)
    left: int = -1
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def band(self) -> Band:
        """Of all classes."""
        return self.states[0].band

    @property
    def assigned(self) -> np.ndarray:
        """The likeliest class of each image (N,), from 0; K where that is noise alone."""
        return likeliest(self.posterior)

    @property
    def poses(self) -> PoseTable:
        """Each image's poses in the likeliest of its classes."""
        return PoseTable.chosen([state.poses for state in self.states], self.posterior.argmax(axis=1))


def likeliest(posterior: np.ndarray) -> np.ndarray:
    """The likeliest class (N,) of posteriors (N, K), from 0; K where noise alone, the rest to one, is likelier than any."""
    null = 1.0 - posterior.sum(axis=1, keepdims=True)
    return np.asarray(np.concatenate([posterior, null], axis=1).argmax(axis=1))


def iterate_classes(classes: Classes, mixture: Mixture) -> Mixture:
    """One iteration of expectation-maximisation of all classes."""
    setup, band, states = classes.setup, mixture.band, mixture.states
    is_random = band.iteration < classes.random_until
    step = first_step(classes, mixture) if not mixture.history else estimate(setup, states, hypotheses_of(classes, mixture))
    maps, curves = solve_classes(classes, step, band, is_random, mixture.decoys)
    correlation: list[list[float]] | None = None
    if band.iteration + 1 == classes.random_until:
        maps, step, correlation = in_one_order(setup, maps, step)
    resolved = [min(first_shell_below(curve), states[0].model.insertion_radius) for curve in curves]
    moves = [Moved.between(setup, *each) for each in zip(states, step.poses, step.searched, strict=True)]
    after = next_band(classes, mixture, step, moves, max(resolved))
    new_states = []
    for state, poses, moved, searched, own_maps, curve, shell in zip(
        states, step.poses, moves, step.searched, maps, curves, resolved, strict=True
    ):
        record = {**told(setup, state, poses, moved, searched), "resolved_shell": shell, "fsc": [round(float(c), 5) for c in curve],
                  "noise": step.noise.round(8).tolist()}
        model = replace(state.model, maps=own_maps, noise=step.noise, insertion_radius=after.insertion_radius)
        new_states.append(State(after, model, poses, moved.agreed, step.scale, [*state.history, record]))
    return counted_on(classes, mixture, tuple(new_states), step, correlation)


def first_step(classes: Classes, mixture: Mixture) -> Step:
    """The E-step of the first iteration. Where it shows that most images clearly hold a particle, it is done again, with what it told of
    the noise, so that junk may be none of the classes: junk that counts in the first maps is hard to get out of them."""
    step = estimate(classes.setup, mixture.states, hypotheses_of(classes, mixture))
    if not classes.null_class or presence_of(classes, step.poses, mixture.prior) <= CLEARLY_PRESENT:
        return step
    for with_unknown in (False, True):
        if with_unknown and not is_unknown_told(classes, step):
            break
        seen = [replace(state, poses=poses, agreed=state.agreed + AGREEMENTS, model=replace(state.model, noise=step.noise))
                for state, poses in zip(mixture.states, step.poses, strict=True)]
        step = replace(step, totals=())  # of which two would not fit
        step = estimate(classes.setup, seen, hypotheses_of(classes, mixture, (True, with_unknown)))
    return step


def hypotheses_of(classes: Classes, mixture: Mixture, known: tuple[bool, bool] | None = None) -> Hypotheses:
    """What an image may show in this iteration. known: whether most images are known to hold a particle, and whether something unknown can
    be told from it; unset: as the iteration before has found."""
    if known is None:
        last = mixture.history[-1] if mixture.history else {"median_presence": 0.0, "unknown_told": False}
        known = bool(last["median_presence"] > CLEARLY_PRESENT), bool(last["unknown_told"])
    is_clear, with_unknown = known
    null = float(np.log(mixture.prior[-1])) if classes.null_class and is_clear else -np.inf
    allowed = classes.drawn() if mixture.band.iteration < classes.random_until else None
    structures = np.where(np.isin(np.arange(classes.number), list(mixture.decoys)), 0.0, mixture.prior[:-1])
    return Hypotheses(np.log(mixture.prior[:-1]), null, allowed, classes.hard, classes.setup.shift_extent_px,
                      structures if classes.null_class and structures.any() else None, with_unknown)


def is_unknown_told(classes: Classes, step: Step) -> bool:
    """Whether something unknown can be told from the classes (unknown.py, eq. 3)."""
    log_odds = np.stack([evidence(poses, classes.setup.shift_extent_px) for poses in step.poses], axis=1)
    return can_be_told(log_odds.max(axis=1), step.unknown)


def presence_of(classes: Classes, poses: Sequence[PoseTable], prior: np.ndarray) -> float:
    """The median probability that an image holds one of the classes, and not noise alone, both as likely beforehand."""
    log_odds = np.stack([evidence(of_class, classes.setup.shift_extent_px) for of_class in poses], axis=1)
    return float(np.median(expit(logsumexp(log_odds + np.log(prior[:-1] / prior[:-1].sum()), axis=1))))


def solve_classes(
    classes: Classes, step: Step, band: Band, is_random: bool, decoys: Mapping[int, np.ndarray]
) -> tuple[list[dict[Key, np.ndarray]], list[np.ndarray]]:
    """References and FSC of each class; while classes are random, halves share them, low-passed as the start was."""
    setup = replace(classes.setup, join_shell=band.insertion_radius) if is_random else classes.setup
    maps, curves = references_about_consensus(setup, step.totals, step.fixed_point, band, step.posterior, decoys, is_random)
    if is_random:
        maps = [{key: low_pass(volume, float(classes.start_radius), 2.0) for key, volume in of_class.items()} for of_class in maps]
    return maps, curves


def in_one_order(
    setup: Setup, maps: list[dict[Key, np.ndarray]], step: Step
) -> tuple[list[dict[Key, np.ndarray]], Step, list[list[float]]]:
    """Maps and poses with the classes of the second half in the order of those of the first, as their maps correlate; and by how much."""
    order, correlation = matched([Halves(of_class[0, 0], of_class[1, 0]) for of_class in maps])
    if np.array_equal(order, np.arange(len(order))):
        return maps, step, correlation
    second = setup.particles.half == 1
    ordered = [{key: (maps[order[k]] if key[0] else maps[k])[key] for key in maps[k]} for k in range(len(maps))]
    poses = [PoseTable.chosen(step.poses, np.where(second, order[k], k)) for k in range(len(maps))]
    posterior = np.where(second[:, None], step.posterior[:, order], step.posterior)
    return ordered, replace(step, poses=tuple(poses), posterior=posterior), correlation


def next_band(classes: Classes, mixture: Mixture, step: Step, moves: Sequence[Moved], resolved: int) -> Band:
    """The band that all classes share: the best one's resolution, and how far images moved in the class that each is in."""
    best, rows = step.posterior.argmax(axis=1), np.arange(len(step.posterior))
    turn, width = (np.stack([getattr(moved, name) for moved in moves], axis=1)[rows, best] for name in ("turn_deg", "width_deg"))
    after = mixture.band.next(resolved, float(np.median(turn)), float(np.median(width)), 0.0)
    if after.iteration <= classes.random_until:
        after = replace(after, radius=min(after.radius, max(classes.start_radius, 8)), stalled=0)
    return after


def counted_on(
    classes: Classes, mixture: Mixture, states: tuple[State, ...], step: Step, correlation: list[list[float]] | None
) -> Mixture:
    """The mixture after an iteration: how many changed class, the new prior, and whether it is settled: by how much of the posteriors
    moved, since images that lie between two classes change the likelier one for ever."""
    band, before, posterior = states[0].band, mixture.assigned, step.posterior
    assigned = likeliest(posterior)
    changed = float(np.mean(assigned != before)) if mixture.history else 1.0
    moved = float(0.5 * np.abs(posterior - mixture.posterior).sum(axis=1).mean()) if mixture.history else 1.0
    is_random = band.iteration <= classes.random_until
    counts = np.append(posterior.sum(axis=0), max(len(posterior) - posterior.sum(), 0.0)) + 1.0
    has_null = len(posterior) - posterior.sum() > 1e-6
    null = counts[-1] / counts.sum() if has_null else mixture.prior[-1]
    of_classes = counts[:-1] / counts[:-1].sum() * (1.0 - null)
    prior = mixture.prior if is_random else np.append(of_classes, null)
    flow = np.zeros((classes.number + 1, classes.number + 1), np.int64)
    np.add.at(flow, (before, assigned), 1)
    record = {
        "iteration": band.iteration, "changed": changed, "moved": moved, "fractions": (counts / counts.sum()).round(6).tolist(),
        "median_presence": presence_of(classes, [state.poses for state in states], prior),
        "unknown_told": classes.null_class and is_unknown_told(classes, step),
        "mean_best_posterior": float(posterior.max(axis=1).mean()),
        "resolved_shell": band.resolved, "is_random": is_random, "flow": flow.tolist() if mixture.history else None,
        "match": correlation,
    }
    since = band.iteration - classes.random_until
    settled = (since >= LEAST_ITERATIONS and moved < classes.class_change and band.stalled >= 1) or since >= MOST_ITERATIONS
    left = mixture.left - 1 if mixture.left > 0 else classes.final_iterations if settled else -1
    return Mixture(states, posterior, prior, mixture.decoys, left, [*mixture.history, record])
