"""Two half maps as people give them: in one volume.h5, or as two .mrc files; and a mask in their frame."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from protomer.errors import InputError
from protomer.formats.hdf5 import read_map_record
from protomer.formats.mrc import read_volume
from protomer.maps.volumes import Halves, Volume

HDF5_ENDINGS = (".h5", ".hdf5")


@dataclass(frozen=True)
class HalfMapInput:
    """Half maps, and the point group that volume.h5 says they have."""

    half_maps: Halves[Volume]
    symmetry: str


def load_half_maps(paths: tuple[Path | None, ...], voxel_size_A: float | None) -> HalfMapInput:
    """The half maps of one volume.h5, or of two .mrc files. Raises InputError for anything else."""
    present = [path for path in paths if path is not None]
    if len(present) == 1 and present[0].suffix.lower() in HDF5_ENDINGS:
        record = read_map_record(present[0])
        return HalfMapInput(record.half_maps, record.symmetry)
    if len(present) != 2 or any(path.suffix.lower() in HDF5_ENDINGS for path in present):
        raise InputError(f"{len(present)} volume(s): {', '.join(path.name for path in present)}",
                         "one volume.h5 (or the folder of a job), or the two half maps as .mrc",
                         "give --volume half_a.mrc --volume half_b.mrc; a single map has no FSC")
    if present[0].resolve() == present[1].resolve():
        raise InputError(f"{present[0]} was given as both half maps", "two different half maps", "give the other half map")
    halves = Halves(*(read_volume(path, voxel_size_A) for path in present))
    if halves.a.box != halves.b.box or abs(halves.a.voxel_size_A / halves.b.voxel_size_A - 1) > 1e-3:
        raise InputError(f"half maps of box {halves.a.box} at {halves.a.voxel_size_A:.4g} Å and box {halves.b.box} at "
                         f"{halves.b.voxel_size_A:.4g} Å", "one box and voxel size", "give the two half maps of one reconstruction")
    if np.array_equal(halves.a.data, halves.b.data):
        raise InputError(f"{present[0].name} and {present[1].name} hold the same map", "two independent half maps",
                         "their FSC would be 1 everywhere and mean nothing")
    return HalfMapInput(Halves(halves.a, Volume(halves.b.data, halves.a.voxel_size_A)), "C1")


def in_frame(mask: Volume, voxel_size_A: float) -> Volume:
    """The mask with exactly the maps' voxel size where it differs by rounding only; else as it is, and the FSC refuses it."""
    return Volume(mask.data, voxel_size_A) if abs(mask.voxel_size_A / voxel_size_A - 1) < 1e-3 else mask
