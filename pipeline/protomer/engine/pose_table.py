"""The poses of all particles between two iterations, and how the modes of an image are counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from scipy.special import expit

from protomer.engine.alignment import MODES, Poses
from protomer_kernels.rotations import matrices_from_quaternions, quaternions_from_matrices


@dataclass(frozen=True)
class PoseTable:
    """Poses of all N particles (alignment.Poses, with rotations as quaternions (N, m, 4))."""

    rotation: np.ndarray
    shift_px: np.ndarray
    weight: np.ndarray
    log_likelihood: np.ndarray
    covariance: np.ndarray
    log_odds: np.ndarray

    @property
    def presence(self) -> np.ndarray:
        """Probability (N,) that each image holds the particle, and not noise alone."""
        return np.asarray(expit(self.log_odds))

    @classmethod
    def empty(cls, number: int, modes: int | None = None) -> PoseTable:
        """No modes yet; room for MODES of each, or for as many as are said."""
        modes = MODES if modes is None else modes
        return cls(
            np.zeros((number, modes, 4)),
            np.zeros((number, modes, 2)),
            np.zeros((number, modes)),
            np.full(number, -np.inf),
            np.zeros((number, 15)),
            np.zeros(number),
        )

    def take(self, rows: np.ndarray) -> Poses:
        """Some rows, with rotations as matrices."""
        return Poses(
            matrices_from_quaternions(self.rotation[rows]),
            self.shift_px[rows].copy(),
            self.weight[rows],
            self.log_likelihood[rows],
            self.covariance[rows],
            self.log_odds[rows],
        )

    @classmethod
    def of(cls, poses: Poses) -> PoseTable:
        """The same with quaternions."""
        rotation = quaternions_from_matrices(poses.rotation.reshape(-1, 3, 3)).reshape(*poses.shift_px.shape[:2], 4)
        return cls(rotation, poses.shift_px, poses.weight, poses.log_likelihood, poses.covariance, poses.log_odds)

    @classmethod
    def joined(cls, parts: list[PoseTable], like: PoseTable) -> PoseTable:
        """Tables one after the other; none give a table of no rows with as many modes as `like` has."""
        names = cls.__dataclass_fields__
        return cls(*(np.concatenate([getattr(p, name) for p in parts] or [getattr(like, name)[:0]]) for name in names))

    @classmethod
    def chosen(cls, tables: Sequence[PoseTable], which: np.ndarray) -> PoseTable:
        """Each row from the table that `which` (N,) says."""
        columns = []
        for name in cls.__dataclass_fields__:
            column = getattr(tables[0], name).copy()
            for k, table in enumerate(tables):
                column[which == k] = getattr(table, name)[which == k]
            columns.append(column)
        return cls(*columns)


P = TypeVar("P", Poses, PoseTable)


def at_heaviest_mode(poses: P) -> P:
    """The poses with all weight on the first mode, where there is one."""
    return replace(poses, weight=np.eye(1, poses.weight.shape[1]) * (poses.weight[:, :1] > 0))


def drawn(poses: Poses, at: np.ndarray) -> Poses:
    """Each image at one mode, the one at which its cumulated weights pass `at` (n,); it becomes the first and has all the weight."""
    passed = np.cumsum(poses.weight, axis=1) <= at[:, None] * poses.weight.sum(axis=1, keepdims=True)
    chosen = np.minimum(passed.sum(axis=1), poses.weight.shape[1] - 1)
    order = np.argsort(np.arange(poses.weight.shape[1]) != chosen[:, None], axis=1, kind="stable")
    rows = np.arange(len(order))[:, None]
    one = np.eye(1, order.shape[1]) * (poses.weight.sum(axis=1, keepdims=True) > 0)
    return replace(poses, rotation=poses.rotation[rows, order], shift_px=poses.shift_px[rows, order], weight=one)


def counted_by_presence(poses: P) -> P:
    """The poses with every weight times the probability that the image holds the particle."""
    return replace(poses, weight=poses.weight * expit(poses.log_odds)[:, None])
