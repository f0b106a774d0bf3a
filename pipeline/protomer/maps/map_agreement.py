"""How far two maps in one frame agree, shell by shell: agreement, which says nothing of the resolution of either.

Of a map with half maps their mean is compared, so that no filter by the FSC takes the outer shells away.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from protomer.errors import InputError
from protomer.formats.hdf5 import read_any_volume, read_map_record
from protomer.maps.volumes import Halves, Volume
from protomer_kernels.shells import fourier_shell_correlation

HDF5_ENDINGS = (".h5", ".hdf5")


@dataclass(frozen=True)
class Agreement:
    """Fourier shell correlation of a map with a reference, shell 0 first, (box // 2 + 1,)."""

    curve: np.ndarray
    extent_A: float  # box times voxel size

    @property
    def lowest(self) -> float:
        """The lowest correlation of any shell up to Nyquist."""
        return float(self.curve[1:].min())

    @property
    def lowest_at_A(self) -> float:
        """Where that is."""
        return self.extent_A / (1 + int(self.curve[1:].argmin()))

    def summary(self) -> dict[str, float]:
        """For summary.json."""
        return {"lowest": round(self.lowest, 6), "lowest_at_A": round(self.lowest_at_A, 3), "mean": round(float(self.curve[1:].mean()), 6)}


def read_reference(path: Path, box: int, voxel_size_A: float) -> Volume:
    """The map to compare with. Raises InputError where it does not have the box and voxel size."""
    volume = mean_of(read_map_record(path).half_maps) if path.suffix.lower() in HDF5_ENDINGS else read_any_volume(path)
    if volume.box != box or abs(volume.voxel_size_A / voxel_size_A - 1) > 1e-3:
        raise InputError(f"the reference {path} has {volume.box} voxels of {volume.voxel_size_A:.4g} Å",
                         f"the box and pixel size of the images: {box} of {voxel_size_A:.4g} Å", "give a map made from the same images")
    if not np.isfinite(volume.data).all() or float(volume.data.std()) == 0.0:
        raise InputError(f"the reference {path} is constant or holds NaN", "a map with density", "give another one")
    return volume


def mean_of(half_maps: Halves[Volume]) -> Volume:
    """The mean of two half maps."""
    return Volume((half_maps.a.data + half_maps.b.data) * np.float32(0.5), half_maps.a.voxel_size_A)


def agreement(volume: Volume, reference: Volume) -> Agreement:
    """How far two volumes of one box agree."""
    return Agreement(fourier_shell_correlation(volume.data, reference.data), volume.box * volume.voxel_size_A)
