"""Joining halves only where something is left to measure, and comparing poses with those that came."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from protomer.engine.joining import join_shell
from protomer.running.events import Events
from protomer.tables.pose_change import compare_with_given
from simulated import chain_dataset


@pytest.mark.parametrize(("join_A", "shell", "codes"), [(20.0, 11, []), (0.0, 0, []), (10.0, 7, ["join_moved"])])
def test_halves_are_joined_as_set_but_never_beyond_half_of_the_band(join_A: float, shell: int, codes: list[str]) -> None:
    events = Events(None)
    assert join_shell(48 * 4.7, 23, join_A, 30.0, events) == shell
    assert [warning["code"] for warning in events.warnings] == codes


def test_pixels_too_coarse_for_the_default_join_leave_half_of_the_band_to_independent_halves() -> None:
    events = Events(None)
    assert join_shell(64 * 14.65, 31, 20.0, 30.0, events) == 15
    assert "no gold standard" in events.warnings[0]["text"]


def test_poses_that_left_those_given_are_said_and_a_common_turn_is_not() -> None:
    truth = chain_dataset(number=60).truth
    turn = Rotation.from_rotvec([0.3, 1.0, -0.4])
    common = (turn * Rotation.from_quat(truth.rotation)).as_quat()
    for rotation, codes in ((common, []), (Rotation.random(60, random_state=1).as_quat(), ["poses_disagree"])):
        events = Events(None)
        change = compare_with_given(PosesOnly(truth.rotation, truth.shift_A), PosesOnly(rotation, truth.shift_A), np.eye(3)[None], events)
        assert change is not None and (change["median_angle_deg"] < 0.01) == (not codes)
        assert [warning["code"] for warning in events.warnings] == codes


class PosesOnly:
    """What compare_with_given reads of a particle table."""

    has_poses = True

    def __init__(self, rotation: np.ndarray, shift_A: np.ndarray) -> None:
        self.rotation, self.shift_A = rotation, shift_A

    def __len__(self) -> int:
        return len(self.rotation)
