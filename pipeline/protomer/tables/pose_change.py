"""How far the poses found lie from those that came with the particles: neither is the truth, but where they differ one of them is wrong."""

from __future__ import annotations

import numpy as np

from protomer.running.events import Events
from protomer.simulation.truth import pose_errors
from protomer.tables.particles import Particles

DISAGREE_DEG = 20.0
FEWEST = 3


def compare_with_given(given: Particles, found: Particles, operators: np.ndarray, events: Events) -> dict[str, float] | None:
    """Median angle and shift between the two (truth.PoseErrors.summary), after one rigid motion of the whole; None where no poses came.

    operators: (g, 3, 3) of the point group. Warns where half of the particles or more differ by more than DISAGREE_DEG.
    """
    if not given.has_poses or len(given) < FEWEST:
        return None
    summary = pose_errors(found.rotation, found.shift_A, given.rotation, given.shift_A, operators).summary()
    if summary["median_angle_deg"] > DISAGREE_DEG:
        events.warn(
            "poses_disagree",
            f"the poses found differ from those that came with the particles by {summary['median_angle_deg']:.0f} degrees in the median, "
            "whatever the frame: one or the other are wrong for most images (132 degrees is chance)",
        )
    return {name: round(summary[name], 4) for name in ("median_angle_deg", "p90_angle_deg", "median_shift_A")}
