"""A start volume without half maps and the group that is to be imposed on it: carried, unsure, or not carried."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from protomer.formats.mrc import read_volume, write_volume
from protomer.maps.volumes import Volume
from protomer.running.events import Events
from protomer.symmetry.point_groups import operators
from protomer.symmetry.start_axes import find_start_axes, on_axes
from protomer_kernels.fourier import low_pass
from simulated import symmetric_dataset

BOX, PIXEL_A = 40, 5.0


@pytest.mark.parametrize(("group", "start_A", "told"), [("C2", 40.0, []), ("C3", 60.0, ["start_symmetry_unsure"]),
                                                        ("C4", 12.0, ["start_without_symmetry"])])
def test_a_dimer_is_taken_for_one_warned_of_as_a_trimer_and_refused_as_one_where_detail_tells(
    group: str, start_A: float, told: list[str], tmp_path: Path
) -> None:
    volume = symmetric_dataset("C2", 2, BOX, PIXEL_A, 0.3).volume
    path = tmp_path / "start.mrc"
    write_volume(path, Volume(low_pass(volume.data, BOX * PIXEL_A / start_A, 2.0).astype(np.float32), PIXEL_A))
    events, axes = Events(None), find_start_axes(path, group, operators(group), start_A)
    on_axes(read_volume(path), axes, events)
    assert [warning["code"] for warning in events.warnings] == told
