"""How far posteriors can be believed: images whose class is known, made as the engine believes real ones to be, and classified likewise.

Each image of a sample is made anew at its pose, with its CTF, scale and noise level, from the map of a class drawn by the classes' sizes.
That map is not the reference itself but one that could be true, given how well the half-sets agree on what all classes have in common and
on what the class differs by (rehearsal.py, eq. 1, for either). Posteriors are then found against the references, as for real images.

(1) a posterior is reliable where, of all classes that it was p for, the share p was right
(2) P(k | image) = pi_k L_k^beta / sum_j pi_j L_j^beta, beta of the greatest likelihood of the true classes: what is stated in the end

The rehearsal knows what references lack for want of images; it does not know of what no model here holds, such as wrong poses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from protomer.engine.hypotheses import class_posterior
from protomer.engine.rehearsal import of_references, possible_truth
from protomer.fixed_poses.scores import Seen, products, transforms
from protomer.fixed_poses.work import Fixed, Standing
from protomer.randomness import generator
from protomer_kernels.slices import transform_volume

BINS = 10
LEAST_BETA, MOST_BETA = 0.02, 1.0


@dataclass(frozen=True)
class Reliability:
    """stated, right, count (BINS,): of posteriors by size, for all images and classes, after eq. (2); beta; of the rehearsed images the
    mean posterior of the likeliest class before and after eq. (2), and the share in which this is the right one."""

    stated: np.ndarray
    right: np.ndarray
    count: np.ndarray
    beta: float
    mean_before: float
    mean_stated: float
    share_right: float
    images: int

    @classmethod
    def of(cls, log_odds: np.ndarray, true: np.ndarray, prior: np.ndarray) -> Reliability:
        """From log odds (n, K) of rehearsed images, their classes (n,) and the classes' sizes (K,)."""
        beta, before = fitted_beta(log_odds, true, prior), stated(log_odds, prior, 1.0)
        after = stated(log_odds, prior, beta)
        is_true = np.eye(len(prior))[true]
        at = np.minimum((after * BINS).astype(int), BINS - 1).ravel()
        count = np.bincount(at, minlength=BINS)
        mean = [np.bincount(at, values.ravel(), BINS) / np.maximum(count, 1) for values in (after, is_true)]
        return cls(mean[0], mean[1], count, beta, float(before.max(axis=1).mean()), float(after.max(axis=1).mean()),
                   float(np.mean(after.argmax(axis=1) == true)), len(true))

    def summary(self) -> dict[str, Any]:
        """For summary.json."""
        return {"images": self.images, "mean_posterior": round(self.mean_stated, 4), "right": round(self.share_right, 4),
                "beta": round(self.beta, 4)}


def stated(log_odds: np.ndarray, prior: np.ndarray, beta: float) -> np.ndarray:
    """Eq. (2): (n, K)."""
    return class_posterior(beta * (log_odds - log_odds.max(axis=1, keepdims=True)), np.log(prior), -np.inf)


def fitted_beta(log_odds: np.ndarray, true: np.ndarray, prior: np.ndarray) -> float:
    """beta of eq. (2), never above 1: posteriors are only made less sure."""
    rows = np.arange(len(true))

    def surprise(log_beta: float) -> float:
        return -float(np.log(np.maximum(stated(log_odds, prior, np.exp(log_beta))[rows, true], 1e-300)).mean())

    found = minimize_scalar(surprise, bounds=(np.log(LEAST_BETA), np.log(MOST_BETA)), method="bounded", options={"xatol": 1e-3})
    return 1.0 if surprise(0.0) <= found.fun + 1e-4 else float(np.exp(found.x))


def of_ratio(ratio: list[float]) -> np.ndarray:
    """The FSC (shells,) that goes with S / N by shell."""
    return np.array(ratio) / (1.0 + np.array(ratio))


def rehearse(fixed: Fixed, standing: Standing) -> Reliability | None:
    """Classify images made from the classes' maps; the same on every rank. None where the classes do not differ."""
    setup, plane, radius = fixed.setup, fixed.setup.store.plane, fixed.radius
    number, shells, arithmetic = fixed.number, standing.noise.shape[1], setup.arithmetic
    own = [n for n in setup.numbers if n in fixed.sample]
    folds, last = len(setup.keys) // 2, standing.history[-1]
    mean_fsc, *class_fsc = (of_references(np.array(fsc), folds, -1) for fsc in (last["fsc"][0], *(of_ratio(r) for r in last["ratio"])))
    if standing.is_flat:
        return None
    tried: list[tuple[np.ndarray, np.ndarray]] = [(np.zeros((0, number)), np.zeros(0))]
    current = None
    with setup.progress("rehearsing with known classes", sum(len(setup.batches[n].rows) for n in own)) as line:
        for n in own:
            key, rows = setup.batches[n].key, setup.batches[n].rows
            if key != current:
                current, other = key, (1 - key[0], key[1])
                views = transforms(standing, key, radius, arithmetic)
                common = possible_truth(standing.mean[key], standing.mean[other], mean_fsc)
                apart = [possible_truth(of_class[key], of_class[other], fsc) * np.float32(standing.amplitude)
                         for of_class, fsc in zip(standing.apart, class_fsc, strict=True)]
                true_maps = [arithmetic.here((common + volume).astype(np.float32)) for volume in apart]
                true_views = [transform_volume(volume, radius, workers=setup.threads) for volume in true_maps]
            random = generator(setup.seed, n, "rehearsed class")
            true = random.choice(number, len(rows), p=standing.prior)
            seen = Seen.blank(fixed, n, standing.noise, radius)
            chosen = arithmetic.here(true), arithmetic.here(np.arange(len(rows)))
            shown = np.stack([seen.shown(view, plane) for view in true_views])[chosen]
            left, _ = seen.with_data(shown + arithmetic.here(random.standard_normal(shown.shape, np.float32))).less(views[0], plane)
            shared, power = np.moveaxis(products(np.stack([left.against(view, plane, shells) for view in views[1:]], axis=1)), 2, 0)
            log_odds = shared - 0.5 * power
            tried.append((log_odds, true.astype(np.float64)))
            line.advance(len(rows))
            setup.check_stop()
    log_odds, true = (setup.team.gather_rows(np.concatenate(part)) for part in zip(*tried, strict=True))
    return Reliability.of(log_odds, true.astype(np.int64), standing.prior)
