"""The E-step at known poses: every image against one slice of every class's map, and insertion as it counts.

With Y the whitened image, A its whitened transfer, r = Y - A S what is left of it after the slice of the map that all classes have in
common, and S_k a slice of what class k differs by, at the image's own pose,

(1) log L_k = g <r, A S_k> - g^2 <A S_k, A S_k> / 2,      against the common map
(2) P(k | image) = pi_k L_k / sum_j pi_j L_j                                                        (hypotheses.py, eq. 1)
(3) g: of the greatest sum_i log sum_k pi_k L_ik, for a sample of images of either half and the differences that the other half found

There is nothing to integrate over. The maps that an image is compared with come from the other folds of its own half: its own noise is in
none of them. Where they are posterior means (references.py), (2) holds for maps that are not exactly known too, but for a term of second
order in their variance that classes of like size have in common. Classes that images hardly tell apart are mixed in the maps, and differ by
less than they should; the amplitude g of their differences is therefore left to images that had no part in them. Folds would not do for
this: which images of one fold count in a class was decided by maps of the others. The half-sets share this one number, and no density.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from protomer.computing.arithmetic import CPU, Arithmetic
from protomer.engine.hypotheses import class_posterior
from protomer.engine.maximisation import add_up_ranks
from protomer.engine.model import Model, insertion_scale
from protomer.engine.sums import by_batch
from protomer.fixed_poses.work import Fixed, Standing
from protomer.imaging.aberrations import usable_radius
from protomer.imaging.images import Whitened, whitened
from protomer.imaging.in_flight import in_flight, rows_of
from protomer.running.batches import Key
from protomer_kernels.half_plane import HalfPlane
from protomer_kernels.slices import transform_volume

LEAST_WEIGHT = 1e-4  # of an image in a class, to be inserted
MOST_CHANGE = 2.0  # of the amplitude of differences, in one pass


@dataclass(frozen=True)
class Seen:
    """Batches at their poses: whitened images, where `arithmetic` computes, rows of the table, rotations (n, 3, 3), shifts (n, 2)."""

    batch: Whitened
    rows: np.ndarray
    rotation: np.ndarray
    shift_px: np.ndarray
    arithmetic: Arithmetic = CPU

    @property
    def magnified(self) -> np.ndarray:
        """What takes each image's frequencies to the map's, (n, 3, 3)."""
        return self.batch.magnified(self.rotation, np.arange(len(self.rows)))

    def take(self, chosen: np.ndarray) -> Seen:
        """Some of the images."""
        return replace(self, batch=self.batch.take(chosen), rows=self.rows[chosen], rotation=self.rotation[chosen],
                       shift_px=self.shift_px[chosen])

    def less(self, volume_ft: Any, plane: HalfPlane) -> tuple[Seen, np.ndarray]:
        """The images less what a map shows at their poses, and the log odds (n,) that they show it against noise alone."""
        shown = self.shown(volume_ft, plane)
        odds = (shown[:, :, 1:] * (self.batch.data - np.float32(0.5) * shown)[:, :, 1:]).sum(axis=(1, 2), dtype=np.float64)
        return self.with_data(self.batch.data - shown), self.arithmetic.on_host(odds)

    def with_data(self, data: Any) -> Seen:
        """Other images (n, 2, K), whitened, under the same amplitudes and poses."""
        return replace(self, batch=replace(self.batch, data=data))

    def shown(self, volume_ft: Any, plane: HalfPlane) -> Any:
        """What the images would be of a map, (n, 2, K), without noise."""
        return self.batch.of_map(volume_ft, self.rotation, self.shift_px, plane, self.arithmetic)

    @classmethod
    def of(cls, fixed: Fixed, numbers: Sequence[int], crops: Any, noise: np.ndarray, radius: int) -> Seen:
        """The batches `numbers`, up to a Fourier radius; their crops (n, K) are where the setup's arithmetic computes."""
        setup, plane = fixed.setup, fixed.setup.store.plane
        rows, length = rows_of(setup.batches, numbers), plane.prefix(usable_radius(setup.particles, radius))
        weights = np.sqrt(plane.multiplicity[:length] / noise[:, plane.shell[:length]]).astype(np.float32)
        batch = whitened(setup.particles, rows, crops, weights, plane, setup.pixel_size_A, setup.arithmetic)
        poses = fixed.poses.take(rows)
        pose = np.ascontiguousarray(poses.rotation[:, 0]), np.ascontiguousarray(poses.shift_px[:, 0])
        return cls(batch, rows, *pose, setup.arithmetic)

    @classmethod
    def blank(cls, fixed: Fixed, number: int, noise: np.ndarray, radius: int) -> Seen:
        """Batch `number` of images that show nothing."""
        crops = np.zeros((len(fixed.setup.batches[number].rows), len(fixed.setup.store.plane)), np.complex64)
        return cls.of(fixed, [number], fixed.setup.arithmetic.here(crops), noise, radius)

    def against(self, volume_ft: Any, plane: HalfPlane, shells: int) -> np.ndarray:
        """Sums by image and shell (n, 3, shells) of |Y - A S|^2, Re(Y* A S) and |A S|^2."""
        length = self.batch.amplitude.shape[1]
        waves, shell = plane.arrays(length), plane.shell[:length]
        slices = self.arithmetic.slices(volume_ft, self.magnified, waves)
        return self.arithmetic.residual_power(slices, self.shift_px, self.batch.arrays, waves, shell, shells)

    def insert(self, weight: np.ndarray, plane: HalfPlane, scale: float, out: Any) -> None:
        """Add the images to an accumulator by weight (n,), which may be negative."""
        image = np.flatnonzero(np.abs(weight) > LEAST_WEIGHT)
        length = self.batch.amplitude.shape[1]
        at = (image, np.ascontiguousarray(self.magnified[image]), self.shift_px[image], weight[image].astype(np.float64))
        self.arithmetic.insert(at, self.batch.arrays, plane.arrays(length), scale, out)


@dataclass(frozen=True)
class Scored:
    """What a pass over some batches gave, the same on every rank: rows of the table in the order of the batches, and for each of these what
    Standing has; amplitude: what eq. (3) multiplies the present one by; the noise spectrum; accumulators of each class, where
    they are computed on, and their fixed-point scale."""

    rows: np.ndarray
    posterior: np.ndarray
    shared: np.ndarray
    power: np.ndarray
    presence: np.ndarray
    amplitude: float
    noise: np.ndarray
    totals: tuple[dict[Key, Any], ...]
    scale: float


def transforms(standing: Standing, key: Key, radius: int, arithmetic: Arithmetic) -> list[Any]:
    """Fourier volumes that images of a half and fold are compared with: the common map, then what each class differs by; where
    `arithmetic` computes."""
    apart = (of_class[key] * np.float32(standing.amplitude) for of_class in standing.apart)
    return [transform_volume(arithmetic.here(volume), radius, workers=arithmetic.threads) for volume in (standing.mean[key], *apart)]


def scale_of(fixed: Fixed, noise: np.ndarray, radius: int) -> float:
    """The fixed-point scale of insertion, from bounds alone."""
    return insertion_scale(fixed.setup.largest, fixed.setup.particles, Model({}, noise, fixed.setup.operators, radius))


def products(sums: np.ndarray) -> np.ndarray:
    """<r, A S> and <A S, A S> (n, K, 2) from sums (n, K, 3, shells); the mean grey of an image, shell 0, says nothing."""
    return np.asarray(sums[:, :, 1:, 1:].sum(axis=3))


def fitted_amplitude(shared: np.ndarray, power: np.ndarray, prior: np.ndarray) -> float:
    """g of eq. (3) from (N, K) each, within MOST_CHANGE of one."""

    def misfit(log_g: float) -> float:
        g = np.exp(log_g)
        return -float(logsumexp(g * shared - 0.5 * g * g * power + np.log(prior), axis=1).mean())

    limit = np.log(MOST_CHANGE)
    found = minimize_scalar(misfit, bounds=(-limit, limit), method="bounded", options={"xatol": 1e-3})
    return float(np.exp(found.x))


def score(fixed: Fixed, standing: Standing, block: Sequence[int], label: str, drawn: np.ndarray | None = None) -> Scored:
    """Compare the batches of a block with all classes and insert them. drawn (N, K): by how much each image counts, in place of its
    posterior. Every rank takes part; each works on its own batches of the block."""
    setup, plane, radius, arithmetic = fixed.setup, fixed.setup.store.plane, fixed.radius, fixed.setup.arithmetic
    groups, shells = standing.noise.shape
    own, number = [n for n in block if n in setup.numbers], len(standing.apart)
    scale, similarity = scale_of(fixed, standing.noise, radius), fixed.similarity_in(standing.done)
    accumulators: list[dict[Key, Any]] = [{} for _ in range(number)]
    found: list[tuple[np.ndarray, ...]] = [(*(np.zeros((0, number)),) * 3, np.zeros(0))]
    crossed, sample = [np.zeros((0, 2, number))], fixed.sample
    residuals, current = [], None
    with setup.progress(label, sum(len(setup.batches[n].rows) for n in own)) as line:
        for together, crops in in_flight(setup.store, setup.batches, own, arithmetic):
            key, sizes = setup.batches[together[0]].key, [len(setup.batches[n].rows) for n in together]
            if key != current:
                current = key
                volumes = transforms(standing, key, radius, arithmetic)
                others = transforms(standing, (1 - key[0], key[1]), radius, arithmetic)[1:]
                for of_class in accumulators:
                    if key not in of_class:
                        of_class[key] = arithmetic.empty_accumulator(radius)
            seen = Seen.of(fixed, together, crops, standing.noise, radius)
            left, presence = seen.less(volumes[0], plane)
            sums = np.stack([left.against(volume, plane, shells) for volume in volumes[1:]], axis=1)
            shared, power = np.moveaxis(products(sums), 2, 0)
            if sample.intersection(together):
                some = left.take(np.flatnonzero(np.repeat([n in sample for n in together], sizes)))
                seen_by_other = np.stack([some.against(volume, plane, shells) for volume in others], axis=1)
                crossed.append(np.moveaxis(products(seen_by_other), 2, 1))
            posterior = class_posterior(shared - 0.5 * power, np.log(standing.prior), -np.inf)
            counted = (1 - similarity) * (posterior if drawn is None else drawn[seen.rows]) + similarity * standing.prior
            for k in range(number):
                seen.insert(counted[:, k], plane, scale, accumulators[k][key])
            residuals.append(by_batch((posterior[:, :, None, None] * sums).sum(axis=1), setup.particles.optics[seen.rows], sizes, groups))
            found.append((posterior, shared, power, presence))
            line.advance(len(seen.rows))
            setup.check_stop()
    residuals.append(np.zeros((0, groups, 3, shells)))
    posterior, shared, power, presence = (setup.team.gather_rows(np.concatenate(part)) for part in zip(*found, strict=True))
    rows = np.concatenate([setup.batches[n].rows for n in block])
    residual = setup.team.gather_rows(np.concatenate(residuals)).sum(axis=0)
    totals = tuple({key: arithmetic.here(total) for key, total in
                    add_up_ranks(of_class, setup.keys, radius, setup.team, arithmetic).items()} for of_class in accumulators)
    held_out = setup.team.gather_rows(np.concatenate(crossed))
    factor = fitted_amplitude(held_out[:, 0], held_out[:, 1], standing.prior) if len(held_out) else 1.0
    return Scored(rows, posterior, shared, power, presence, factor, updated_noise(fixed, standing.noise, residual, rows), totals, scale)


def updated_noise(fixed: Fixed, noise: np.ndarray, residual: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """sigma^2 (groups, shells) from residuals (groups, 3, shells) of whitened images: their mean power was to be one."""
    plane, shells = fixed.setup.store.plane, noise.shape[1]
    length = plane.prefix(usable_radius(fixed.setup.particles, fixed.radius))
    coefficients = np.bincount(plane.shell[:length], plane.multiplicity[:length], minlength=shells)
    images = np.bincount(fixed.setup.particles.optics[rows], minlength=len(noise))[:, None]
    seen = (coefficients > 0) & (images > 0)
    return np.asarray(noise * np.maximum(np.where(seen, residual[:, 0] / np.maximum(coefficients * images, 1), 1.0), 1e-6))
