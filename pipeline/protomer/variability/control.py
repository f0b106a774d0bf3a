"""The noise-only control: the same analysis of images that show the mean map and nothing that varies.

Each image is made anew: the mean map of its half at its pose, with its CTF and grey scale, and white noise of its noise level,

(1) Y' = A S_0(exp(w) R, shift + d) + noise,     (w, d) ~ Normal(0, pose covariance)

the pose being off by as much as the refinement said that it may be, since wrong poses look like motion. Copies of one image share noise and
error of pose, as those of a real one do. What modes the analysis then finds is what chance and poses make: the number of modes that are
real is that of those which stand out of it.
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
from protomer.variability.expectation import Source
from protomer.variability.loop import by_chance
from protomer.variability.work import Standing, Varying
from protomer_kernels.slices import transform_volume

CLEARLY = 1.5  # times what the control's strongest mode has in common between the halves
LEAST_CORRELATION = 0.25  # of a mode of one half with that of the other
BEYOND_CONTROL = 0.1  # by which this exceeds the control's greatest


@dataclass(frozen=True)
class Verdict:
    """Of each mode, whether it stands out of the control (K,); and what it was judged by: shared variance and correlation of the halves,
    of the run and of the control (K,) each, the latter None where no control was run."""

    is_real: np.ndarray
    shared: np.ndarray
    correlation: np.ndarray
    control_shared: np.ndarray | None
    control_correlation: np.ndarray | None

    @property
    def number(self) -> int:
        """How many modes are real: those before the first that is not."""
        return int(np.argmin(np.append(self.is_real, False)))

    def summary(self) -> list[dict[str, Any]]:
        """For summary.json."""
        return [{"mode": k + 1, "is_real": bool(self.is_real[k]), "halves_agree": round(float(self.correlation[k]), 4),
                 "control_halves_agree": None if self.control_correlation is None else round(float(self.control_correlation[k]), 4)}
                for k in range(len(self.shared))]


def judged(run: Standing, control: Standing | None) -> Verdict:
    """Which modes of a run stand out of its control: in what the two halves have in common of them, and in how well they agree on it."""
    shared, correlation = (np.array(run.last[name]) for name in ("shared", "correlation"))
    if control is None:
        return Verdict(correlation > LEAST_CORRELATION, shared, correlation, None, None)
    null, agreed = (np.array(control.last[name]) for name in ("shared", "correlation"))
    is_real = (shared > CLEARLY * max(float(null.max()), 0.0)) & (correlation > max(LEAST_CORRELATION, float(agreed.max()) + BEYOND_CONTROL))
    return Verdict(is_real, shared, correlation, null, agreed)


def control_start(varying: Varying, run: Standing) -> Standing:
    """Where the control begins: mean maps and noise of the run that is done, modes by chance."""
    return replace(run, modes=by_chance(varying, run.mean), ratio=np.full_like(run.ratio, np.inf), scales=(1.0, run.scales[1]), done=0,
                   history=[])


def made_images(varying: Varying, run: Standing) -> Source:
    """Batches of eq. (1), whitened by the run's noise."""
    fixed, plane = varying.fixed, varying.fixed.setup.store.plane
    setup, held = fixed.setup, {}

    def source(numbers: Sequence[int]) -> Iterator[tuple[int, Seen]]:
        for n in numbers:
            rows, half = setup.batches[n].rows, setup.batches[n].key[0]
            if half not in held:
                held.clear()
                held[half] = transform_volume(run.mean[half], fixed.radius, workers=setup.threads)
            seen = Seen.of(fixed, n, np.zeros((len(rows), len(plane)), np.complex64), run.noise, fixed.radius)
            shown = perturbed(varying, seen).shown(held[half], plane)
            yield n, seen.with_data(shown + noise_of(varying, rows, shown.shape[2]))

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
