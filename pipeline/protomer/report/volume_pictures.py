"""Pictures of what was done to a map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from protomer.maps.volumes import Volume
from protomer.report.drawing import BLUE, GREY, new_figure, styled
from protomer_kernels.shells import shell_power

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def power_density(volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Spatial frequency (1/Å) and power of each shell but the first, over the volume of the box: alike whatever box and voxel size."""
    frequency = np.arange(1, volume.box // 2 + 1) / (volume.box * volume.voxel_size_A)
    return frequency, shell_power(volume.data)[1:] * (volume.voxel_size_A**6 / (volume.box * volume.voxel_size_A) ** 3)


@styled
def spectrum_figure(volumes: Mapping[str, Volume]) -> Figure:
    """Power by spatial frequency on a logarithmic scale, the first volume in grey behind the others; down to 1e-10 of the highest."""
    figure, (axes,) = new_figure(height_in=3.2)
    highest = 0.0
    for number, (name, volume) in enumerate(volumes.items()):
        frequency, power = power_density(volume)
        highest = max(highest, float(power.max()))
        axes.semilogy(frequency, np.where(power > 1e-10 * highest, power, np.nan), color=BLUE if number else GREY,
                      linewidth=1.4 if number else 3.0, label=name)
    axes.set(xlabel="spatial frequency (1/Å)", ylabel="power (grey² Å³)", xlim=(0, None))
    axes.legend()
    return figure
