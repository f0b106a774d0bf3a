"""Classification at known poses: a common map, a start, epochs of online EM, then passes over all images until classes settle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from protomer.classes.match import matched
from protomer.engine.maximisation import first_shell_below
from protomer.fixed_poses.references import References, blended, references
from protomer.fixed_poses.scores import Scored, score
from protomer.fixed_poses.subspace import start_maps
from protomer.fixed_poses.work import Fixed, Standing
from protomer.maps.volumes import Halves
from protomer.randomness import combine, uniform

LEAST_PASSES, MOST_PASSES = 3, 40  # after the epochs
NOISE_PASSES = 2  # over the common map, so that the noise is known before classes are
LEAST_AMPLITUDE, MOST_AMPLITUDE = 0.25, 4.0  # of differences, over what their own images say
GROWING = 10  # passes, at least, in which classes that were drawn at random grow apart


def begin(fixed: Fixed, common: Standing, volumes: Sequence[np.ndarray]) -> Standing:
    """The first references about the common map: from given differences (K, d, d, d), by chance, or from what varies."""
    number, rows = fixed.number, len(fixed.setup.particles)
    prior = np.full(number, 1.0 / number)
    nothing = np.zeros((rows, number))
    even = replace(common, posterior=np.tile(prior, (rows, 1)), shared=nothing, power=nothing, prior=prior)
    if volumes:
        return replace(even, apart=tuple(dict.fromkeys(fixed.setup.keys, volume) for volume in volumes))
    if fixed.is_random:
        drawn = np.eye(number)[(chance(fixed, "class") * number).astype(np.int64)]
        standing = replace(even, apart=common.apart * number)
        scored = score(fixed, standing, everything(fixed), "drawing classes", drawn)
        return replace(standing, apart=references(fixed, scored.totals, scored.scale, fixed.start_radius).apart, noise=scored.noise)
    return in_one_order(fixed, replace(even, apart=start_maps(fixed, common.mean, common.noise)))


def common_map(fixed: Fixed, noise: np.ndarray) -> Standing:
    """The map of all images and the noise about it."""
    one, rows = replace(fixed, number=1, similarity=0.0), len(fixed.setup.particles)
    nothing = dict.fromkeys(fixed.setup.keys, np.zeros((fixed.box,) * 3, np.float32))
    none = np.zeros((rows, 1))
    standing = Standing(nothing, (nothing,), noise, np.ones((rows, 1)), none, none, np.zeros(rows), np.ones(1))
    for _ in range(NOISE_PASSES):
        scored = score(one, standing, everything(fixed), "the map of all images")
        found = references(one, scored.totals, scored.scale)
        standing = replace(standing, mean=found.mean, noise=scored.noise)
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
    names = ("posterior", "shared", "power", "presence")
    columns = {name: getattr(standing, name).copy() for name in names}
    for name in names:
        columns[name][scored.rows] = getattr(scored, name)
    counts = columns["posterior"].sum(axis=0) + 1.0
    amplitude = float(np.clip(standing.amplitude * scored.amplitude, LEAST_AMPLITUDE, MOST_AMPLITUDE))
    return replace(standing, mean=found.mean, apart=found.apart, noise=scored.noise, prior=counts / counts.sum(), amplitude=amplitude,
                   **columns)


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
        "gain": float(standing.gain.mean()), "amplitude": standing.amplitude, "flow": flow.tolist() if before.history else None,
        "resolved_shell": [min(first_shell_below(curve), radius) for curve in found.curves],
        "fsc": [np.round(curve, 5).tolist() for curve in found.curves], "ratio": found.ratio.round(6).tolist(),
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
    order, correlation = matched([Halves(of_class[0, 0], of_class[1, 0]) for of_class in standing.apart])
    second = (fixed.setup.particles.half == 1)[:, None]
    apart = tuple({key: standing.apart[order[k]][key] if key[0] else volume for key, volume in of_class.items()}
                  for k, of_class in enumerate(standing.apart))
    names = ("posterior", "shared", "power")
    columns = {name: np.where(second, getattr(standing, name)[:, order], getattr(standing, name)) for name in names}
    history = standing.history
    if history:
        history = [*history[:-1], {**history[-1], "match": correlation}]
    return replace(standing, apart=apart, history=history, **columns)
