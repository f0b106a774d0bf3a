"""What is different between two maps in one frame."""

from __future__ import annotations

import numpy as np

from protomer.maps.volumes import Volume
from protomer_kernels.fourier import low_pass

EDGE_SHELLS = 2.0


def difference_map(reference: Volume, volume: Volume, resolution_A: float) -> tuple[Volume, Volume]:
    """The reference low-passed, and the low-passed map, brought to its grey scale by least squares, minus it.

    Raises ValueError where the two do not have one box.
    """
    if reference.box != volume.box:
        raise ValueError(f"boxes of {reference.box} and {volume.box} voxels")
    shell = reference.box * reference.voxel_size_A / resolution_A
    smooth, other = (low_pass(each.data, shell, EDGE_SHELLS) for each in (reference, volume))
    a, b = (each - each.mean(dtype=np.float64) for each in (smooth, other))
    scale = float((a * b).sum(dtype=np.float64)) / max(float((b * b).sum(dtype=np.float64)), 1e-30)
    difference = (b * np.float32(max(scale, 0.0)) - a).astype(np.float32)
    return Volume(smooth.astype(np.float32), reference.voxel_size_A), Volume(difference, reference.voxel_size_A)
