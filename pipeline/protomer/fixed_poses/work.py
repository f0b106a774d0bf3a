"""What a classification at known poses works with, and where it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import logsumexp

from protomer.engine.maximisation import working_box
from protomer.engine.pose_table import PoseTable
from protomer.refinement.setup import Setup
from protomer.running.batches import Key
from protomer_kernels.fourier import crop_volume

Maps = Mapping[Key, np.ndarray]
MOST_SAMPLED = 2048


@dataclass(frozen=True)
class Fixed:
    """What does not change. poses: one mode for each row; radius: the finest shell that is compared; start_radius: of the start; solvent,
    focus (D, D, D): where the particle lies, and where classes may differ; blocks: parts of an epoch of online EM, as numbers of batches.
    """

    setup: Setup
    poses: PoseTable
    number: int
    radius: int
    start_radius: int
    solvent: np.ndarray
    focus: np.ndarray
    blocks: tuple[tuple[int, ...], ...]
    epochs: int = 5
    similarity: float = 0.0
    is_random: bool = False
    class_change: float = 0.01
    final_passes: int = 1

    @property
    def box(self) -> int:
        """Of the references: as small as the radius allows."""
        return working_box(self.setup.store.plane.box, self.radius)

    def masks(self, box: int) -> tuple[np.ndarray, np.ndarray]:
        """Solvent and focus mask in a smaller box of the same width."""
        solvent, focus = (np.clip(crop_volume(mask, box), 0.0, 1.0).astype(np.float32) for mask in (self.solvent, self.focus))
        return solvent, focus

    @property
    def sample(self) -> set[int]:
        """Batches spread evenly over all, for what needs no more than MOST_SAMPLED images."""
        batches = self.setup.batches
        number = max(2, round(len(batches) * min(1.0, MOST_SAMPLED / max(1, len(self.setup.particles)))))
        return set(np.linspace(0, len(batches) - 1, min(number, len(batches))).round().astype(int).tolist())

    def similarity_in(self, epoch: int) -> float:
        """The share of every image that counts in all classes alike: falls to zero over the epochs."""
        return self.similarity * max(0.0, 1.0 - epoch / self.epochs) if self.epochs else 0.0


@dataclass(frozen=True)
class Standing:
    """Where a classification stands. mean: for each half and fold the map that all classes have in common, (d, d, d); apart: for each class
    by how much it differs from that; amplitude: of these differences; noise (groups, shells); posterior (N, K) of the images; shared (N, K)
    and power (N, K): <r, A S> and <A S, A S> of what is left of an image and a class's difference (scores.py, eq. 1); presence (N,): log
    odds of the common map against noise alone; prior (K,); totals: accumulators that online EM goes on with; done: passes over all
    images; left: passes to do, -1 while it is not settled; history."""

    mean: Maps
    apart: tuple[Maps, ...]
    noise: np.ndarray
    posterior: np.ndarray
    shared: np.ndarray
    power: np.ndarray
    presence: np.ndarray
    prior: np.ndarray
    amplitude: float = 1.0
    totals: tuple[dict[Key, np.ndarray], ...] = ()
    done: int = 0
    left: int = -1
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def log_odds(self) -> np.ndarray:
        """(N, K) of each class against the common map, as the last pass found them."""
        return self.shared - 0.5 * self.power

    @property
    def gain(self) -> np.ndarray:
        """(N,) by how much the classes predict each image better than the common map does, in nats."""
        return np.asarray(logsumexp(self.log_odds + np.log(self.prior), axis=1))

    @property
    def is_flat(self) -> bool:
        """Whether classes do not differ at all."""
        return not any(np.any(volume) for of_class in self.apart for volume in of_class.values())
