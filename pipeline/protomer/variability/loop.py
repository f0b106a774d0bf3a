"""The loop: a mean map of each half, modes from chance, then passes of expectation-maximisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from protomer.engine.maximisation import Sums, half_totals, unregularised
from protomer.fixed_poses.loop import common_map, everything
from protomer.fixed_poses.scores import score
from protomer.fixed_poses.subspace import orthonormal, random_maps
from protomer.maps.volumes import Halves
from protomer.variability.expectation import Source, look
from protomer.variability.maximisation import Aligned, maximise, shaped
from protomer.variability.posterior import scales_of
from protomer.variability.work import Coordinates, Standing, Varying

FREE_PASSES = 0.5  # of the iterations, in which modes are as large as images make them: what halves share is not sure yet
START = 0.05  # of the norm of the mean map in the mask: of the modes that chance begins with


def begin(varying: Varying, noise: np.ndarray) -> Standing:
    """Mean maps without a prior, which would leave a part of the mean to be taken for variance; the noise about them; modes by chance."""
    fixed = varying.fixed
    one = replace(fixed, number=1, similarity=0.0)
    common = common_map(fixed, noise)
    scored = score(one, common, everything(one), "the mean maps")
    box, shells, solvent, setup = fixed.box, fixed.radius + 1, fixed.masks(fixed.box)[0], fixed.setup
    halves = half_totals(scored.totals[0]).map(
        lambda total: setup.arithmetic.on_host(unregularised(Sums.of(total, scored.scale), box, shells, setup.threads)) * solvent)
    return Standing(halves, by_chance(varying, halves), scored.noise, np.full((varying.number, shells), np.inf))


def by_chance(varying: Varying, mean: Halves[np.ndarray]) -> Halves[np.ndarray]:
    """Modes of white noise in the mask up to the finest shell; others in either half, so that what they share later is not from here."""
    fixed, focus = varying.fixed, varying.fixed.masks(varying.fixed.box)[1]

    def of_half(half: int) -> np.ndarray:
        drawn = random_maps(fixed.setup.seed, half, varying.number, focus, fixed.radius)
        size = START * float(np.sqrt(np.sum((mean[half] * focus) ** 2, dtype=np.float64)))
        return np.asarray(orthonormal(np.stack([shaped(varying, one) for one in drawn])) * np.float32(size))

    return Halves(of_half(0), of_half(1))


def advance(varying: Varying, standing: Standing, source: Source, label: str, keeps_noise: bool = False) -> Standing:
    """One iteration."""
    seen = look(varying, standing, source, f"{label} {standing.done + 1}")
    found = maximise(varying, standing, seen.totals, seen.factor, seen.coordinates)
    done = standing.done + 1
    ratio = found.ratio if done >= FREE_PASSES * varying.iterations else standing.ratio
    scales = scales_of(seen.coordinates.fit) if varying.finds_scale else standing.scales
    return replace(standing, modes=found.modes, noise=standing.noise if keeps_noise else seen.noise, ratio=ratio, scales=scales, done=done,
                   history=[*standing.history, told(done, found, seen.coordinates)])


def told(done: int, found: Aligned, coordinates: Coordinates) -> dict[str, Any]:
    """What an iteration found, for history and log."""
    return {"iteration": done, "variance": found.variance.tolist(), "shared": found.shared.tolist(),
            "correlation": found.correlation.tolist(), "fsc": np.round(found.fsc, 5).tolist(), "gain": float(coordinates.gain.mean())}


def until_done(varying: Varying, standing: Standing, step: Callable[[Standing], Standing], after: Callable[[Standing], None]) -> Standing:
    """All iterations; `after` each of them."""
    while standing.done < varying.iterations:
        standing = step(standing)
        after(standing)
    return standing


def resized(standing: Standing, size: np.ndarray) -> Standing:
    """The standing with modes, and what history says of their variance, in units of size (K,)."""

    def in_units(entry: dict[str, Any]) -> dict[str, Any]:
        return {**entry, **{name: (np.array(entry[name]) * size**2).tolist() for name in ("variance", "shared")}}

    modes = standing.modes.map(lambda own: own * size.astype(np.float32)[:, None, None, None])
    return replace(standing, modes=modes, history=[in_units(entry) for entry in standing.history])
