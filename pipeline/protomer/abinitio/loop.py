"""The loop of an ab-initio run: attempts from random poses, the best of them gone on with, coarsely, then finely (schedule.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from protomer.abinitio.schedule import Step, coarse_radius
from protomer.abinitio.setting_up import AbInitio
from protomer.abinitio.steps import Found, expect_coarsely, expect_finely, found_finely, random_start, with_prior
from protomer.abinitio.structures import COARSE_GAIN, FINE_GAIN, Shaping, Structures
from protomer_kernels.half_plane import largest_radius

SCORED_STEPS = 6  # the last of a start


@dataclass(frozen=True)
class State:
    """Where a run stands: the number of the next step, the classes, those of the best attempt so far with its score, and what each step
    gave."""

    at: int
    now: Structures
    best: Structures
    best_score: float = -np.inf
    history: list[dict[str, Any]] = field(default_factory=list)


def radius_of_sums(work: AbInitio, is_fine: bool) -> int:
    """Up to which running sums are kept."""
    first, last = work.frame.first_radius, work.frame.last_radius
    reach = last if is_fine else coarse_radius(first, last)
    return min(reach + 2, largest_radius(work.frame.box))


def begin(work: AbInitio) -> State:
    """Before the first step."""
    nothing = Structures.nothing(work.classes, work.frame.box, radius_of_sums(work, False), work.setup.arithmetic.library)
    return State(0, nothing, nothing)


def advance(work: AbInitio, state: State) -> State:
    """One step."""
    step, now = work.steps[state.at], state.now
    if step.is_first:
        nothing = begin(work).now
        now = shaped(work, nothing.added(random_start(work, step, nothing), 1.0), step)
        now = now.emptied(radius_of_sums(work, False))
    found, now = fine_step(work, step, now) if step.is_fine else coarse_step(work, step, now)
    history = [*state.history, {
        "step": step.number + 1, "start": step.start + 1, "radius": step.radius, "log_evidence": found.log_evidence,
        "certainty": found.certainty, "fractions": found.fractions.round(6).tolist(), "is_fine": step.is_fine,
    }]
    after = replace(state, at=state.at + 1, now=now, history=history)
    return chosen(work, after, step) if step.is_last_of_start else after


def coarse_step(work: AbInitio, step: Step, now: Structures) -> tuple[Found, Structures]:
    """A batch over the whole grid."""
    found = expect_coarsely(work, step, now)
    if step.shared == 0.0:
        now = with_prior(now, found, COARSE_GAIN)
    return found, shaped(work, now.added(found.sums, COARSE_GAIN), step)


def fine_step(work: AbInitio, step: Step, now: Structures) -> tuple[Found, Structures]:
    """A larger batch by the engine's search."""
    radius = radius_of_sums(work, True)
    if not work.steps[step.number - 1].is_fine:
        now = now.emptied(radius)
    units = work.units(step)
    found = found_finely(work, expect_finely(work, step, now, units, lambda number: None), units, radius, np.log(now.prior))
    return found, shaped(work, with_prior(now, found, FINE_GAIN).added(found.sums, FINE_GAIN), step)


def shaped(work: AbInitio, now: Structures, step: Step) -> Structures:
    """The maps that the sums give."""
    shaping = Shaping(work.setup.operators, work.centre, work.non_negative, work.setup.threads)
    shells = (now.numerator.shape[3] - 3) // 2 + 1
    maps = np.stack([shaping.solved(now.sums(k), work.frame.box, shells, step.radius) for k in range(work.classes)])
    return replace(now, maps=maps)


def chosen(work: AbInitio, state: State, step: Step) -> State:
    """After the last step of an attempt: the better of it and the best before; after the last attempt it is gone on with."""
    score = float(np.mean([h["log_evidence"] for h in state.history[-SCORED_STEPS:]]))
    if score > state.best_score:
        state = replace(state, best=state.now, best_score=score)
    is_last = step.number + 1 == len(work.steps) or not work.steps[step.number + 1].is_first
    return replace(state, now=state.best) if is_last else state


def until_done(work: AbInitio, state: State, tell: Callable[[State], None]) -> State:
    """All steps that are left; each is told."""
    while state.at < len(work.steps):
        state = advance(work, state)
        tell(state)
    return state
