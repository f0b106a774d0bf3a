"""Classification at known poses: a common map, a start, epochs of online EM, then passes over all images until classes settle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from protomer.classes.match import matched
from protomer.engine.maximisation import first_shell_below
from protomer.fixed.references import References, blended, references, with_halves_matched
from protomer.fixed.scores import Scored, score
from protomer.fixed.subspace import start_maps
from protomer.fixed.work import Fixed, Standing
from protomer.maps.volumes import Halves
from protomer.randomness import combine, uniform

LEAST_PASSES, MOST_PASSES = 3, 40  # after the epochs
NOISE_PASSES = 2  # over the common map, so that the noise is known before classes are
GROWING = 10  # passes, at least, in which classes that were drawn at random grow apart


def begin(fixed: Fixed, common: Standing, volumes: Sequence[np.ndarray]) -> Standing:
    """The first references about the common map: from given differences (K, d, d, d), by chance, or from what varies."""
    number, rows = fixed.number, len(fixed.setup.particles)
    prior = np.full(number, 1.0 / number)
    even = replace(common, posterior=np.tile(prior, (rows, 1)), log_odds=np.zeros((rows, number)), prior=prior)
    if volumes:
        return replace(even, maps=tuple({key: (common.mean[key] + v).astype(np.float32) for key in fixed.setup.keys} for v in volumes))
    if fixed.is_random:
        drawn = np.eye(number)[(chance(fixed, "class") * number).astype(np.int64)]
        standing = replace(even, maps=(common.mean,) * number)
        scored = score(fixed, standing, everything(fixed), "drawing classes", drawn)
        return replace(standing, maps=references(fixed, scored.totals, scored.scale, fixed.start_radius).maps, noise=scored.noise)
    start = replace(even, maps=start_maps(fixed, common.mean, common.noise))
    return in_one_order(fixed, start)


def common_map(fixed: Fixed, noise: np.ndarray) -> Standing:
    """The map of all images and the noise about it."""
    one, rows = replace(fixed, number=1, similarity=0.0), len(fixed.setup.particles)
    nothing = dict.fromkeys(fixed.setup.keys, np.zeros((fixed.box,) * 3, np.float32))
    standing = Standing(nothing, (nothing,), noise, np.ones((rows, 1)), np.zeros((rows, 1)), np.zeros(rows), np.ones(1))
    for _ in range(NOISE_PASSES):
        scored = score(one, standing, everything(fixed), "the map of all images")
        found = references(one, scored.totals, scored.scale)
        standing = replace(standing, mean=found.mean, maps=(found.mean,), noise=scored.noise)
    return standing


def everything(fixed: Fixed) -> range:
    """The numbers of all batches."""
    return range(len(fixed.setup.batches))


def chance(fixed: Fixed, purpose: str) -> np.ndarray:
    """A number in [0, 1) for each row: copies of an image may show different things."""
    particles = fixed.setup.particles
    return uniform(fixed.setup.seed, combine(particles.image_uid, particles.copy), purpose)


def advance(fixed: Fixed, standing: Standing) -> Standing:
    """An epoch of online EM, or a pass over all images, and whether classes are settled."""
    is_online = standing.done < fixed.epochs
    blocks: Sequence[Sequence[int]] = fixed.blocks if is_online else (everything(fixed),)
    before, totals = standing, standing.totals
    for n, block in enumerate(blocks):
        part = f" ({n + 1} of {len(blocks)})" if len(blocks) > 1 else ""
        scored = score(fixed, standing, block, f"pass {standing.done + 1}{part}")
        totals = blended(totals if len(blocks) > 1 else (), scored.totals, 1.0 - 1.0 / len(blocks))
        found = references(fixed, totals, scored.scale, search_radius(fixed, standing.done))
        standing = taken_in(standing, scored, found)
    if len(blocks) == 1:
        totals = ()
    return settled(fixed, replace(before, totals=totals), standing, found)


def search_radius(fixed: Fixed, done: int) -> int:
    """Up to where classes that chance began may differ as they like; 0 once they must differ alike in both halves."""
    return fixed.start_radius if fixed.is_random and done + 1 < max(fixed.epochs, GROWING) else 0


def taken_in(standing: Standing, scored: Scored, found: References) -> Standing:
    """The standing after one block."""
    posterior, log_odds, gain = standing.posterior.copy(), standing.log_odds.copy(), standing.gain.copy()
    posterior[scored.rows], log_odds[scored.rows], gain[scored.rows] = scored.posterior, scored.log_odds, scored.gain
    counts = posterior.sum(axis=0) + 1.0
    return replace(standing, mean=found.mean, maps=found.maps, noise=scored.noise, posterior=posterior, log_odds=log_odds, gain=gain,
                   prior=counts / counts.sum())


def settled(fixed: Fixed, before: Standing, standing: Standing, found: References) -> Standing:
    """What the pass changed, and how many are left."""
    assigned, earlier = standing.posterior.argmax(axis=1), before.posterior.argmax(axis=1)
    moved = 0.5 * np.abs(standing.posterior - before.posterior).sum(axis=1).mean() if before.history else 1.0
    done, number = standing.done + 1, fixed.number
    flow = np.zeros((number, number), np.int64)
    np.add.at(flow, (earlier, assigned), 1)
    radius = fixed.radius
    record = {
        "pass": done, "is_online": before.done < fixed.epochs, "similarity": fixed.similarity_in(before.done),
        "is_search": search_radius(fixed, before.done) > 0,
        "changed": float(np.mean(assigned != earlier)) if before.history else 1.0, "moved": float(moved),
        "fractions": standing.prior.round(6).tolist(), "mean_best_posterior": float(standing.posterior.max(axis=1).mean()),
        "gain": float(standing.gain.mean()), "flow": flow.tolist() if before.history else None,
        "resolved_shell": [min(first_shell_below(curve), radius) for curve in found.curves],
        "ratio": found.ratio.round(6).tolist(),
    }
    least = max(fixed.epochs, GROWING if fixed.is_random else 0) + LEAST_PASSES
    is_still = (done >= least and moved < fixed.class_change) or done >= least + MOST_PASSES
    left = before.left - 1 if before.left > 0 else fixed.final_passes if is_still else -1
    after = replace(standing, totals=before.totals, done=done, left=left, history=[*before.history, record])
    if search_radius(fixed, done) == 0 and search_radius(fixed, before.done) > 0:
        after = in_one_order(fixed, after)
    return after


def in_one_order(fixed: Fixed, standing: Standing) -> Standing:
    """The standing with the classes of the second half in the order of those of the first, as their maps correlate in the focus mask."""
    focus = fixed.masks(fixed.box)[1]
    first = [Halves(of_class[0, 0] * focus, of_class[1, 0] * focus) for of_class in standing.maps]
    order, correlation = matched(first)
    second = (fixed.setup.particles.half == 1)[:, None]
    found = with_halves_matched(References(standing.mean, standing.maps, [], np.zeros(0)), order)
    posterior, log_odds = (np.where(second, values[:, order], values) for values in (standing.posterior, standing.log_odds))
    history = standing.history
    if history:
        history = [*history[:-1], {**history[-1], "match": correlation}]
    return replace(standing, maps=found.maps, posterior=posterior, log_odds=log_odds, history=history)
