"""A start volume whose contrast is inverted is warned of; others are not."""

from __future__ import annotations

import numpy as np
import pytest

from protomer.refinement.start import warn_of_inverted
from protomer.running.events import Events
from protomer_kernels.fourier import low_pass
from simulated import chain_dataset

BOX, PIXEL_A = 48, 4.0


@pytest.mark.parametrize("resolution_A", [20.0, 60.0])
@pytest.mark.parametrize(("sign", "told"), [(1, []), (-1, ["start_inverted"])])
def test_a_start_volume_that_is_dark_on_bright_is_warned_of(sign: int, told: list[str], resolution_A: float) -> None:
    volume, events = chain_dataset(1, BOX, PIXEL_A, 0.5).volume.data, Events(None)
    getattr(volume, "data", volume)
    warn_of_inverted(sign * low_pass(volume, BOX * PIXEL_A / resolution_A, 2.0) + np.float32(3.0), events)
    assert [warning["code"] for warning in events.warnings] == told


def test_a_volume_of_noise_is_not_called_inverted() -> None:
    events = Events(None)
    warn_of_inverted(np.random.default_rng(3).standard_normal((BOX,) * 3), events)
    assert not events.warnings
