"""What align-maps is given: which files belong together, and one volume at a time with all that belongs to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from protomer.declarations.align_maps import AlignMapsSettings
from protomer.errors import InputError, SettingsError
from protomer.formats.hdf5 import read_map_record, read_particles
from protomer.formats.mrc import read_header, read_volume
from protomer.maps.finishing import require_mask_values
from protomer.maps.map_aligning import Side
from protomer.maps.volumes import MapRecord, Volume
from protomer.running.job_run import Inputs
from protomer.tables.particles import Particles

HDF5_ENDINGS = (".h5", ".hdf5")


@dataclass(frozen=True)
class Source:
    """The files of one volume."""

    volume: Path
    mask: Path | None = None
    particles: Path | None = None

    @property
    def name(self) -> str:
        """The path in messages: its last two parts."""
        return "/".join(self.volume.parts[-2:])


@dataclass(frozen=True)
class Given:
    """One volume with what belongs to it: its name, map, record (None: .mrc), mask and particles."""

    name: str
    map: Volume
    record: MapRecord | None
    mask: Volume | None = None
    particles: Particles | None = None

    @property
    def resolution_A(self) -> float | None:
        """The corrected resolution of its record, if there is one."""
        resolution_A = np.inf if self.record is None or self.record.fsc is None else self.record.fsc.resolution_A_at("corrected")
        return float(resolution_A) if np.isfinite(resolution_A) else None


def sources(inputs: Inputs, settings: AlignMapsSettings) -> tuple[Source, list[Source]]:
    """The files of the reference and of each volume. Raises InputError and SettingsError where they cannot belong together."""
    paths, masks, particles = list(inputs.volume), list(inputs.mask or ()), list(inputs.particles or ())
    if any(path is None for path in paths):
        raise InputError("--volume none", "a volume", "leave it out, with its mask and particles")
    masks = masks * len(paths) if len(masks) == 1 else masks
    for name, many in (("mask", masks), ("particles", particles)):
        if many and len(many) != len(paths):
            one_for_all = "one for all, or " if name == "mask" else ""
            raise InputError(f"{len(many)} --{name} for {len(paths)} --volume", f"{one_for_all}one for each volume, in order",
                             f"add --{name} none for a volume that has none")
    if any(path is not None for path in particles) and not settings.update_particles:
        raise SettingsError("--particles were given, but update_particles is off", "update_particles=true, which moves their poses",
                            "set it, or leave the particles out")
    gaps = [None] * len(paths)
    return Source(inputs.reference, inputs.reference_mask), [
        Source(*files) for files in zip(paths, masks or gaps, particles or gaps, strict=True)]


def read(source: Source, settings: AlignMapsSettings) -> Given:
    """A volume with what belongs to it. Raises InputError where its mask is none of its own, or its particles have no poses."""
    record = read_map_record(source.volume) if source.volume.suffix.lower() in HDF5_ENDINGS else None
    volume = record.map if record is not None else read_mrc(source.volume, settings)
    mask = None if source.mask is None else read_mask(source, volume, settings)
    particles = None if source.particles is None else read_particles(source.particles)
    if particles is not None and not particles.has_poses:
        raise InputError(f"the particles of {source.particles} have no poses", "particles with rotations and shifts",
                         "give the particles.h5 of the refinement that made the map")
    return Given(source.name, volume, record, mask, particles)


def read_mrc(path: Path, settings: AlignMapsSettings) -> Volume:
    """An .mrc file, with the voxel size of the settings where its header says none. Raises InputError where neither does."""
    if min(read_header(path).voxel_size_A) <= 0 and settings.voxel_size is None:
        raise InputError(f"{path} says no voxel size (its cell is zero)", "a voxel size in the header, or the setting voxel_size",
                         "set voxel_size, such as voxel_size=1.05A")
    return read_volume(path, settings.voxel_size if min(read_header(path).voxel_size_A) <= 0 else None)


def read_mask(source: Source, volume: Volume, settings: AlignMapsSettings) -> Volume:
    """The mask of a volume. Raises InputError for values that are no mask's, and another box or voxel size."""
    assert source.mask is not None
    mask = read_mrc(source.mask, settings)
    require_mask_values(mask, source.mask.name)
    if mask.box != volume.box or abs(mask.voxel_size_A / volume.voxel_size_A - 1) > 1e-3:
        raise InputError(f"the mask {source.mask.name} has box {mask.box} at {mask.voxel_size_A:.4g} Å, the map {source.name} box "
                         f"{volume.box} at {volume.voxel_size_A:.4g} Å", "one box and voxel size", "give the mask that belongs to this map")
    return Volume(mask.data, volume.voxel_size_A)


def side(given: Given, settings: AlignMapsSettings) -> Side:
    """What of a volume is compared."""
    return Side(given.name, given.map, given.mask if settings.apply_masks else None)
