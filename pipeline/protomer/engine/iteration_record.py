"""What an iteration did to the poses, and what the history says of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from protomer.engine.filaments import turned_about_z
from protomer.engine.pose_table import PoseTable
from protomer.helical.lattice import Lattice
from protomer.refinement.setup import Setup, State
from protomer_kernels.rotations import matrices_from_quaternions

SAME_POSE_DEG = 10.0


@dataclass(frozen=True)
class Moved:
    """Of each particle between two iterations: by how much it turned, group mates counted as one (`turn_deg`) and relaxed mates too
    (`found_deg`), how wide its posterior is, and how many searches in a row have found its pose again."""

    turn_deg: np.ndarray
    found_deg: np.ndarray
    width_deg: np.ndarray
    agreed: np.ndarray

    @classmethod
    def between(cls, setup: Setup, state: State, poses: PoseTable, searched: np.ndarray) -> Moved:
        """From the state before and the poses after."""
        turn_deg = turns_deg(state.poses, poses, alike_along(state.lattice, state.model.operators))
        found_deg = turns_deg(state.poses, poses, state.model.mates) if setup.is_relaxed else turn_deg
        agreed = np.where(searched, np.where(found_deg < SAME_POSE_DEG, state.agreed + 1, 0), state.agreed)
        return cls(turn_deg, found_deg, rotation_widths_deg(poses.covariance), agreed)


def alike_along(lattice: Lattice | None, operators: np.ndarray) -> np.ndarray:
    """A group's operators (g, 3, 3), and where there is a helical lattice those of its nearest subunits, between
    whose poses an image at half a rise may change."""
    if lattice is None:
        return operators
    turns = turned_about_z(np.tile(np.eye(3), (3, 1, 1)), np.deg2rad(lattice.twist_deg) * np.array([0.0, -1.0, 1.0]))
    return (turns[:, None] @ operators[None]).reshape(-1, 3, 3)


def told(setup: Setup, state: State, poses: PoseTable, moved: Moved, searched: np.ndarray) -> dict[str, Any]:
    """What the history says of the poses of an iteration."""
    return {
        "iteration": state.band.iteration + 1,
        "alignment_radius": state.band.radius,
        "median_turn_deg": float(np.median(moved.turn_deg)),
        **pose_change_quartiles(moved.turn_deg, state.poses, poses, setup.pixel_size_A),
        "median_width_deg": float(np.median(moved.width_deg)),
        "mean_top_weight": float(poses.weight[:, 0].mean()),
        "searched": int(searched.sum()),
        "found_elsewhere": _found_elsewhere(state.agreed, searched, moved.found_deg),
    }


def _found_elsewhere(agreed: np.ndarray, searched: np.ndarray, turn_deg: np.ndarray) -> float | None:
    """Of the particles whose pose had been found again before and that were searched all the same, the share that ended elsewhere."""
    settled = searched & (agreed > 0)
    return float(np.mean(turn_deg[settled] >= SAME_POSE_DEG)) if settled.any() else None


def turns_deg(before: PoseTable, after: PoseTable, operators: np.ndarray) -> np.ndarray:
    """Angle (N,) between the heaviest modes of two iterations, group mates counted as one; 180 where there was none before."""
    if not np.any(before.weight):
        return np.full(len(before.weight), 180.0)
    first, second = (matrices_from_quaternions(table.rotation[:, 0]) for table in (before, after))
    trace = np.max([np.einsum("nij,nij->n", g @ first, second) for g in operators], axis=0)
    return np.rad2deg(np.arccos(np.clip(0.5 * (trace - 1), -1, 1)))


def pose_change_quartiles(turn_deg: np.ndarray, before: PoseTable, after: PoseTable, pixel_size_A: float) -> dict[str, list[float] | None]:
    """Quartiles over the particles of the turn and of the shift change between two iterations; None where there was none before."""
    if not np.any(before.weight):
        return {"turn_quartiles_deg": None, "shift_change_quartiles_A": None}
    moved_A = np.linalg.norm(after.shift_px[:, 0] - before.shift_px[:, 0], axis=1) * pixel_size_A
    quartiles = {"turn_quartiles_deg": turn_deg, "shift_change_quartiles_A": moved_A}
    return {name: np.percentile(values, (25, 50, 75)).round(6).tolist() for name, values in quartiles.items()}


def rotation_widths_deg(covariance: np.ndarray) -> np.ndarray:
    """Root mean square angle (N,) of each pose's posterior, from its packed covariance (N, 15)."""
    return np.rad2deg(np.sqrt(np.maximum(covariance[:, [0, 2, 5]].sum(axis=1), 0.0)))
