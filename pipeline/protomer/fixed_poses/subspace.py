"""A start for classes at known poses: the directions in which maps of a half-set vary most, and clusters of images in their plane.

With r = Y - A S what is left of an image after the slice S of the map of all images, and U_j maps in the focus mask,

(1) b_j = <r, A u_j>,  G_jl = <A u_j, A u_l>,  u_j a slice of U_j at the image's pose
(2) U_j <- f (sum_i w_ij A r_i at its pose) / (sum_i A^2 + ridge),  w = b / sqrt(G) held within +- MOST_SIGMAS; made orthonormal

which is power iteration for the principal directions of the maps that images show (as in probabilistic PCA with known poses: Tagare et al.
2015, J. Struct. Biol. 191, 245). A map V + sum_j c_j U_j then has, up to a constant, the log likelihood

(3) log L = b . c - c . G c / 2

so that classes are found by expectation-maximisation over (b, G) alone, many times over from random images, without the images:

(4) c_k = (sum_i p_ik G_i + ridge)^-1 sum_i p_ik b_i

Views that do not show a difference have a small G and count for as much as they show. All of this happens in each half-set by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import logsumexp

from protomer.engine.maximisation import UNREGULARISED, Sums, add_up_ranks, working_box
from protomer.fixed_poses.scores import Seen, scale_of
from protomer.fixed_poses.work import Fixed, Maps
from protomer.imaging.in_flight import in_flight
from protomer.randomness import generator
from protomer.running.batches import Key
from protomer_kernels.fourier import crop_volume, low_pass, pad_volume
from protomer_kernels.slices import transform_volume
from protomer_kernels.wiener import shell_weights, solve_volume

POWER_PASSES, SPARE_DIRECTIONS = 7, 1
MOST_SIGMAS = 4.0
WEAK = 0.1  # of the mean weight of a shell: the ridge of eq. (2)
RESTARTS, STEPS = 24, 60
MOST_CLUSTERED = 20_000  # images of a half, spread evenly: more would make centres no surer that begin a search only
LEAST_CLASS = 0.02  # share of the images, below which a cluster is none
STRONGER = 1e-9


@dataclass(frozen=True)
class Plane:
    """Of each half: directions (J, d, d, d), orthonormal; of all rows: b (N, J) and G (N, J, J)."""

    directions: tuple[np.ndarray, np.ndarray]
    b: np.ndarray
    gram: np.ndarray


def start_maps(fixed: Fixed, mean: Maps, noise: np.ndarray) -> tuple[Maps, ...]:
    """For each class, and each half and fold, what the class differs by from the common map, (d, d, d)."""
    plane = principal(fixed, mean, noise)
    half = fixed.setup.particles.half
    differences = []
    for h in (0, 1):
        rows = np.flatnonzero(half == h)
        inside = rows[:: 1 + len(rows) // MOST_CLUSTERED]
        centres = clustered(plane.b[inside], plane.gram[inside], fixed.number, fixed.setup.seed)
        apart = np.tensordot(centres, plane.directions[h], 1).astype(np.float32)
        differences.append([in_box(volume, fixed.box) for volume in apart])
    return tuple({key: differences[key[0]][k] for key in fixed.setup.keys} for k in range(fixed.number))


def principal(fixed: Fixed, mean: Maps, noise: np.ndarray) -> Plane:
    """Eqs. (1) and (2), at the radius of the start."""
    setup, arithmetic, number = fixed.setup, fixed.setup.arithmetic, max(1, fixed.number - 1) + SPARE_DIRECTIONS
    radius = min(fixed.start_radius, fixed.radius)
    box = working_box(setup.store.plane.box, radius)
    focus = fixed.masks(box)[1]
    first, second = (orthonormal(random_maps(setup.seed, half, number, focus, radius)) for half in (0, 1))
    directions = first, second
    weight: dict[Key, Any] | None = None
    for _ in range(POWER_PASSES):
        totals, scale, _, _ = one_pass(fixed, mean, noise, radius, directions, weight is None)
        weight = totals[0] if weight is None else weight
        new = []
        for half in (0, 1):
            density = Sums.of(weight[half, 0], scale).weight
            ridge = WEAK * shell_weights(density, radius + 1) + UNREGULARISED
            maps = [solve_volume(Sums.of(totals[j + 1][half, 0], scale).numerator, density, ridge, box, setup.threads)
                    for j in range(number)]
            new.append(orthonormal(np.stack([arithmetic.on_host(volume) * focus for volume in maps])))
        directions = (new[0], new[1])
    _, _, b, gram = one_pass(fixed, mean, noise, radius, directions, False)
    return strongest(Plane(directions, b, gram), fixed)


def one_pass(
    fixed: Fixed, mean: Maps, noise: np.ndarray, radius: int, directions: tuple[np.ndarray, np.ndarray], with_weight: bool
) -> tuple[list[dict[Key, Any]], float, np.ndarray, np.ndarray]:
    """Accumulators of each half, where they are computed on, that of plain images first (only with_weight has them), and (b, G) of all
    rows in table order."""
    setup, plane, number, arithmetic = fixed.setup, fixed.setup.store.plane, len(directions[0]), fixed.setup.arithmetic
    scale = scale_of(fixed, noise, radius) / 2.0 ** np.ceil(np.log2(2.0 * MOST_SIGMAS))
    found: list[tuple[np.ndarray, np.ndarray]] = [(np.zeros((0, number)), np.zeros((0, number, number)))]
    accumulators: list[dict[Key, Any]] = [{} for _ in range(number + 1)]
    current = None
    with setup.progress("looking for what varies", sum(len(setup.batches[n].rows) for n in setup.numbers)) as line:
        for together, crops in in_flight(setup.store, setup.batches, setup.numbers, arithmetic):
            key = setup.batches[together[0]].key
            if key != current:
                current = key
                maps = in_box(mean[key], len(directions[0][0])), *directions[key[0]]
                common, *views = [transform_volume(arithmetic.here(each), radius, workers=setup.threads) for each in maps]
                for of_one in accumulators:
                    if (key[0], 0) not in of_one:
                        of_one[key[0], 0] = arithmetic.empty_accumulator(radius)
            seen = Seen.of(fixed, together, crops, noise, radius)
            if with_weight:
                seen.insert(np.ones(len(seen.rows)), plane, scale, accumulators[0][key[0], 0])
            left, _ = seen.less(common, plane)
            shown = np.stack([seen.shown(view, plane) for view in views], axis=1)
            b, gram = arithmetic.scalar_products(left.batch.data, shown)
            found.append((b, gram))
            sigmas = b / np.sqrt(np.maximum(np.einsum("njj->nj", gram), 1e-12))
            for j in range(number):
                left.insert(np.clip(sigmas[:, j], -MOST_SIGMAS, MOST_SIGMAS), plane, scale, accumulators[j + 1][key[0], 0])
            line.advance(len(seen.rows))
            setup.check_stop()
    added = [add_up_ranks(of_one, [(0, 0), (1, 0)], radius, setup.team, arithmetic) for of_one in accumulators]
    totals = [{key: arithmetic.here(total) for key, total in of_one.items()} for of_one in added]
    order = np.argsort(setup.row_order, kind="stable")
    b, gram = (setup.team.gather_rows(np.concatenate(part))[order] for part in zip(*found, strict=True))
    return totals, scale, b, gram


def in_box(volume: np.ndarray, box: int) -> np.ndarray:
    """A map in another box of the same width, in the greys that unitary slices have there (slices.transform_volume)."""
    resized = crop_volume(volume, box) if box <= len(volume) else pad_volume(volume, box)
    return np.asarray(resized * np.float32((len(volume) / box) ** 2))


def random_maps(seed: int, half: int, number: int, focus: np.ndarray, radius: int) -> np.ndarray:
    """Maps of white noise up to a radius, in the focus mask: (number, d, d, d) float32."""
    random = generator(seed, half, "directions")
    return np.stack([low_pass(random.standard_normal(focus.shape).astype(np.float32), radius, 2.0) * focus for _ in range(number)])


def orthonormal(maps: np.ndarray) -> np.ndarray:
    """Maps (J, d, d, d) that span the same, orthonormal (modified Gram-Schmidt, in order)."""
    done: list[np.ndarray] = []
    for volume in maps.astype(np.float64):
        for _ in range(2):
            for other in done:
                volume = volume - other * float((other * volume).sum())
        done.append(volume / max(float(np.sqrt((volume**2).sum())), 1e-30))
    return np.stack(done).astype(np.float32)


def strongest(found: Plane, fixed: Fixed) -> Plane:
    """Each half turned to the axes along which its images vary most beyond noise, the best K - 1 of them kept."""
    number, half = max(1, fixed.number - 1), fixed.setup.particles.half
    b, gram = np.zeros((len(half), number)), np.zeros((len(half), number, number))
    kept = []
    for h in (0, 1):
        rows = np.flatnonzero(half == h)
        own_b, own_gram = found.b[rows], found.gram[rows]
        beyond = own_b.T @ own_b - own_gram.sum(axis=0)
        power = own_gram.sum(axis=0)
        root = np.linalg.cholesky(power + 1e-9 * np.trace(power) * np.eye(len(power)))
        inverse = np.linalg.inv(root)
        values, vectors = np.linalg.eigh(inverse @ beyond @ inverse.T)
        axes = vectors[:, np.argsort(values)[::-1][:number]].T @ inverse  # rows: coefficients on the directions
        axes = np.linalg.qr(axes.T)[0].T
        b[rows], gram[rows] = own_b @ axes.T, axes @ own_gram @ axes.T
        kept.append(np.tensordot(axes, found.directions[h], 1).astype(np.float32))
    return Plane((kept[0], kept[1]), b, gram)


def clustered(b: np.ndarray, gram: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Centres (K, J) by eqs. (3) and (4): the best of RESTARTS by likelihood, among those in which every class has images."""
    random, dimensions = generator(seed, number, "clusters"), b.shape[1]
    ridge = 1e-3 * gram.mean(axis=0) + STRONGER * np.eye(dimensions)
    own = np.linalg.solve(gram + gram.mean(axis=0), b[:, :, None])[:, :, 0]  # of each image, drawn towards none
    best, best_value = np.zeros((number, dimensions)), -np.inf
    for _ in range(RESTARTS):
        centres = 2.0 * own[random.choice(len(b), number, replace=len(b) < number)]
        share = np.full(number, 1.0 / number)
        for _ in range(STEPS):
            odds = b @ centres.T - 0.5 * np.einsum("kj,njl,kl->nk", centres, gram, centres) + np.log(share)
            total = logsumexp(odds, axis=1)
            posterior = np.exp(odds - total[:, None])
            share = np.maximum(posterior.mean(axis=0), 1e-6)
            weighed = np.einsum("nk,njl->kjl", posterior, gram) + len(b) * ridge
            centres = np.linalg.solve(weighed, (posterior.T @ b)[:, :, None])[:, :, 0]
        value = float(total.sum()) if share.min() > LEAST_CLASS else -np.inf
        if value > best_value:
            best, best_value = centres, value
    return best
