"""What an analysis of variability works with, and where it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from protomer.computing.backend import mode_arithmetic_of
from protomer.computing.mode_arithmetic import ModeArithmetic
from protomer.fixed_poses.work import Fixed
from protomer.maps.volumes import Halves

Scales = tuple[float, float]  # mean and variance of the particles' grey scales


@dataclass(frozen=True)
class Varying:
    """What does not change. fixed: images, poses, the finest shell that is compared, and masks, of which `focus` says where modes may be;
    number: of modes, K; high_pass_shell: below which modes are empty, 0: none; iterations: of EM; finds_scale: whether each image's grey
    scale is found with its coordinates."""

    fixed: Fixed
    number: int
    high_pass_shell: float
    iterations: int
    finds_scale: bool = False

    @cached_property
    def arithmetic(self) -> ModeArithmetic:
        """What computes with modes, where the images are computed on."""
        return mode_arithmetic_of(self.fixed.setup.arithmetic)


@dataclass(frozen=True)
class Coordinates:
    """Of each row of a table or batch: mean (n, K) and covariance (n, K, K) of the posterior of its coordinates, which have unit variance
    before the image is seen; scale (n,) the grey scale; gain (n,) nats by which the modes predict the image better than the mean map; fit
    (n, 2) numerator and power of a least-squares scale."""

    mean: np.ndarray
    covariance: np.ndarray
    scale: np.ndarray
    gain: np.ndarray
    fit: np.ndarray

    @property
    def error(self) -> np.ndarray:
        """(n, K) standard errors."""
        return np.sqrt(np.einsum("nkk->nk", self.covariance))


@dataclass(frozen=True)
class Standing:
    """Where it stands. mean: of each half (d, d, d); modes: of each half (K, d, d, d), in grey values for one standard deviation of the
    particles; noise (groups, shells); ratio (K, shells): signal over noise that the modes of the next M-step are taken to have, infinite
    while it is not known; scales: mean and variance of grey scales; done: iterations; history."""

    mean: Halves[np.ndarray]
    modes: Halves[np.ndarray]
    noise: np.ndarray
    ratio: np.ndarray
    scales: Scales = (1.0, 0.04)
    done: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def last(self) -> Mapping[str, Any]:
        """What the last iteration found."""
        return self.history[-1]
