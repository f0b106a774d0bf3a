"""The noise-only control: the same analysis of images that show the mean map and nothing that varies.

Each image is made anew: the mean map of its half at its pose, with its CTF and grey scale, and white noise of its noise level,

(1) Y' = A S_0(exp(w) R, shift + d) + noise,     (w, d) ~ Normal(0, pose covariance)

the pose being off by as much as the refinement said that it may be, since wrong poses look like motion. Copies of one image share noise and
error of pose, as those of a real one do. What modes the analysis then finds is what chance and poses make. To compare, every image is held
against the modes V_k that the *other* half found, in which its own noise has no part: with G = L L^T and b of posterior.py at c = 1,

(2) excess_k = sum_i L_kk^2 (w_k^2 - 1) / sum_i L_kk^2,  w = L^-1 b

is how much more images vary along the mode, less what they vary along those before it, than their noise does, in units of the noise: zero,
with the standard error sqrt(2 / images), where nothing varies. Modes are real whose excess stands out of the control's largest and on which
the halves agree: what moves outside the mask, such as the other copies of a protomer, is in the images as well, and varies along any mode.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from protomer.engine.confidence import full_covariance
from protomer.fixed_poses.scores import Seen
from protomer.randomness import generator
from protomer.variability.expectation import Source, Views
from protomer.variability.loop import by_chance
from protomer.variability.maximisation import inner
from protomer.variability.work import Standing, Varying
from protomer_kernels.slices import transform_volume

CLEARLY = 1.5  # times the control's largest excess
LEAST_AGREEMENT = 0.2  # correlation of a mode of one half with that of the other
SIGMAS, LEAST_EXCESS = 4.0, 0.05  # standard errors beyond that; of the noise, below which noise that is not quite white may look so


@dataclass(frozen=True)
class Excess:
    """Of each mode (K,): eq. (2), and its standard error if nothing varied."""

    value: np.ndarray
    error: float


@dataclass(frozen=True)
class Verdict:
    """Of each mode, whether it stands out of the control (K,); and what it was judged by: run and control, None where none was run."""

    is_real: np.ndarray
    run: Excess
    control: Excess | None

    @property
    def number(self) -> int:
        """How many modes are real."""
        return int(self.is_real.sum())

    @property
    def level(self) -> float:
        """What a mode has to exceed."""
        return level_of(self.run, self.control)


def level_of(run: Excess, control: Excess | None) -> float:
    """The excess from which on a mode counts as real."""
    if control is None:
        return max(LEAST_EXCESS, SIGMAS * run.error)
    return max(LEAST_EXCESS, CLEARLY * max(float(control.value.max()), 0.0) + SIGMAS * float(np.hypot(run.error, control.error)))


def judged(run: Excess, control: Excess | None, agreement: np.ndarray) -> Verdict:
    """Which modes of a run stand out of its control; agreement (K,): correlation of the halves' modes."""
    return Verdict((run.value > level_of(run, control)) & (agreement > LEAST_AGREEMENT), run, control)


def excess_of(varying: Varying, standing: Standing, source: Source, label: str) -> Excess:
    """Eq. (2): every image against the modes that the other half found. Every rank takes part."""
    fixed, setup, number = varying.fixed, varying.fixed.setup, varying.number
    sums, current = [np.zeros((0, 2, number))], -1
    with setup.progress(label, sum(len(setup.batches[n].rows) for n in setup.numbers)) as line:
        for together, seen in source(setup.numbers):
            half = setup.batches[together[0]].key[0]
            if half != current:
                current = half
                views = Views.of(standing.mean[half], of_unit_norm(standing.modes[1 - half]), fixed.radius, varying.arithmetic)
            _, products = views.seen_by(seen, setup.store.plane.arrays(seen.batch.amplitude.shape[1]))
            edges = np.cumsum([len(setup.batches[n].rows) for n in together])[:-1]
            sums += [beyond_noise(of_batch)[None] for of_batch in np.split(products, edges)]
            line.advance(len(seen.rows))
            setup.check_stop()
    excess, weight = setup.team.gather_rows(np.concatenate(sums)).sum(axis=0)
    images = len(np.unique(setup.particles.by_image("image_uid")[0]))
    return Excess(excess / np.maximum(weight, 1e-30), float(np.sqrt(2.0 / images)))


def beyond_noise(products: np.ndarray) -> np.ndarray:
    """Numerator and denominator of eq. (2), summed over images: (2, K), from products (n, K + 1, K + 2) of see_modes."""
    gram, b = products[:, 1:, 1:-1], products[:, 1:, -1] - products[:, 1:, 0]
    size = np.einsum("nkk->nk", gram).max(axis=1)[:, None, None]
    root = np.linalg.cholesky(gram + (1e-9 * size + 1e-30) * np.eye(gram.shape[1]))
    own = np.linalg.solve(root, b[:, :, None])[:, :, 0]
    weight = np.einsum("nkk->nk", root) ** 2
    return np.stack([(weight * (own**2 - 1.0)).sum(axis=0), weight.sum(axis=0)])


def of_unit_norm(modes: np.ndarray) -> np.ndarray:
    """(K, d, d, d), each over its norm; one of zeros stays so."""
    return np.stack([mode / np.float32(max(np.sqrt(inner(mode, mode)), 1e-30)) for mode in modes])


def control_start(varying: Varying, run: Standing) -> Standing:
    """Where the control begins: mean maps and noise of the run that is done, modes by chance."""
    return replace(run, modes=by_chance(varying, run.mean), ratio=np.full_like(run.ratio, np.inf), scales=(1.0, run.scales[1]), done=0,
                   history=[])


def made_images(varying: Varying, run: Standing) -> Source:
    """Batches of eq. (1), whitened by the run's noise."""
    fixed, plane = varying.fixed, varying.fixed.setup.store.plane
    setup = fixed.setup
    held: dict[int, Any] = {}

    def source(numbers: Sequence[int]) -> Iterator[tuple[Sequence[int], Seen]]:
        for n in numbers:
            rows, half = setup.batches[n].rows, setup.batches[n].key[0]
            if half not in held:
                held.clear()
                held[half] = transform_volume(setup.arithmetic.here(run.mean[half]), fixed.radius, workers=setup.threads)
            seen = Seen.blank(fixed, n, run.noise, fixed.radius)
            shown = perturbed(varying, seen).shown(held[half], plane)
            yield [n], seen.with_data(shown + setup.arithmetic.here(noise_of(varying, rows, shown.shape[2])))
            setup.arithmetic.finish()

    return source


def noise_of(varying: Varying, rows: np.ndarray, length: int) -> np.ndarray:
    """White noise (n, 2, C) of variance one; the same for all copies of an image."""
    setup = varying.fixed.setup
    uids = setup.particles.at("image_uid", rows).tolist()
    drawn = {uid: generator(setup.seed, uid, "variability control").standard_normal((2, length), np.float32) for uid in dict.fromkeys(uids)}
    return np.stack([drawn[uid] for uid in uids])


def perturbed(varying: Varying, seen: Seen) -> Seen:
    """A batch at poses that differ from the given ones by an error of their covariance, the same for all copies of an image."""
    setup = varying.fixed.setup
    packed = setup.particles.at("pose_covariance", seen.rows)
    if not packed.any():
        return seen
    covariance, turn = full_covariance(packed.astype(np.float64), 1.0), np.zeros((len(seen.rows), 5, 5))
    turn[:, :3, :3], turn[:, 3:, 3:] = seen.rotation.transpose(0, 2, 1), np.eye(2)
    own = turn @ covariance @ turn.transpose(0, 2, 1)  # about the image's axes, in which copies of an image have the same errors
    root = np.linalg.cholesky(own + 1e-12 * np.eye(5))
    uids = setup.particles.at("image_uid", seen.rows).tolist()
    drawn = {uid: generator(setup.seed, uid, "variability poses").standard_normal(5) for uid in dict.fromkeys(uids)}
    error = np.einsum("nij,nj->ni", root, np.stack([drawn[uid] for uid in uids]))
    rotation = seen.rotation @ Rotation.from_rotvec(error[:, :3]).as_matrix()
    return replace(seen, rotation=np.ascontiguousarray(rotation), shift_px=seen.shift_px + error[:, 3:] / setup.pixel_size_A)
