"""What the job `volume` starts from: a map from a file or made from nothing, a mask, particles; all in one frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from protomer.config.job_inputs import Inputs
from protomer.declarations.volume import VolumeSettings
from protomer.errors import InputError, SettingsError
from protomer.formats.hdf5 import read_map_record, read_particles
from protomer.formats.mrc import read_volume
from protomer.maps.finishing import require_mask_values
from protomer.maps.volume_creation import model_map, shape_map
from protomer.maps.volume_operations import Operation
from protomer.maps.volumes import MapRecord, Volume
from protomer.tables.particles import Particles

HDF5_ENDINGS = (".h5", ".hdf5")


@dataclass(frozen=True)
class Given:
    """What is changed: the map (None: a mask alone), the record it came in (None: .mrc or created), mask and particles."""

    map: Volume | None
    record: MapRecord | None
    mask: Volume | None
    particles: Particles | None

    @property
    def frame(self) -> Volume:
        """Whose box and voxel size everything has."""
        frame = self.map if self.map is not None else self.mask
        assert frame is not None
        return frame


def load(inputs: Inputs, settings: VolumeSettings) -> Given:
    """Map, mask and particles, in one frame. Raises InputError, SettingsError."""
    record = read_map_record(inputs.volume) if inputs.volume is not None and inputs.volume.suffix.lower() in HDF5_ENDINGS else None
    volume = record.map if record is not None else None
    if record is None and inputs.volume is not None:
        volume = read_volume(inputs.volume, settings.voxel_size)
    create = settings.create or ("model" if inputs.model is not None and volume is None else None)
    if create is not None:
        volume, record = created(create, volume, inputs, settings), None
    elif inputs.model is not None:
        raise InputError("--model and --volume without create", "create=model, to make a map of the model on the grid of --volume",
                         "add --set create=model, or leave --model or --volume out")
    if volume is not None and float(volume.data.std()) == 0.0:
        raise InputError(f"the map {inputs.volume or create} is constant", "a map with density", "give another --volume")
    mask = None if inputs.mask is None else read_volume(inputs.mask, settings.voxel_size)
    if volume is None and mask is None:
        raise InputError("neither --volume nor --mask nor anything to create", "a map, a mask, or create", "add --volume")
    if mask is not None:
        mask = fitting(mask, volume, inputs.mask)
    particles = None if inputs.particles is None else read_particles(inputs.particles)
    if particles is not None and not particles.has_poses:
        raise InputError(f"the particles of {inputs.particles} have no poses", "particles with rotations and shifts",
                         "give the particles.h5 of the refinement that made the map")
    return Given(volume, record, mask, particles)


def created(create: str, grid: Volume | None, inputs: Inputs, settings: VolumeSettings) -> Volume:
    """The map that `create` asks for. Raises InputError, SettingsError."""
    if grid is None and (settings.box is None or settings.voxel_size is None):
        raise SettingsError(f"create {create} without a grid", "box (px) and voxel_size (Å), or --volume",
                            "add --set box=128 --set voxel_size=2A")
    box, voxel_size_A = (grid.box, grid.voxel_size_A) if grid is not None else (int(settings.box or 0), float(settings.voxel_size or 0))
    if create.strip().lower() != "model":
        return shape_map(create, box, voxel_size_A, settings.seed)
    if inputs.model is None:
        raise InputError("create=model without --model", "an atomic model", "add --model FILE")
    origin = settings.model_origin or ("mass" if grid is None else "map")
    return model_map(inputs.model, origin, box, voxel_size_A, inputs.volume)


def fitting(mask: Volume, volume: Volume | None, path: Path) -> Volume:
    """The mask, if it can be one of the map. Raises InputError."""
    require_mask_values(mask, path.name)
    if volume is None:
        return mask
    if mask.box != volume.box or abs(mask.voxel_size_A / volume.voxel_size_A - 1) > 1e-3:
        raise InputError(f"the mask has box {mask.box} at {mask.voxel_size_A:.4g} Å, the map box {volume.box} at "
                         f"{volume.voxel_size_A:.4g} Å",
                         "one box and voxel size", "give the mask alone first, with resample and crop or pad, to bring it to the map's box")
    return Volume(mask.data, volume.voxel_size_A)


def require_possible(operations: Sequence[Operation], idle: Sequence[str], given: Given, settings: VolumeSettings) -> None:
    """Raise where nothing is asked for, where a mask would be filtered, and where poses cannot follow a flip."""
    if not operations and not idle and settings.create is None and settings.box is None:
        raise SettingsError("no operation", "at least one of resample, crop, pad, low_pass, high_pass, b_factor, flip_hand, "
                            "centre_on_mask, rotate, shift, add_noise, phase_randomise, scale or create",
                            "add for example --set low_pass=10A")
    unfit = [operation.name for operation in operations if operation.on_mask is None]
    if given.map is None and unfit:
        raise SettingsError(f"{', '.join(unfit)} of a mask", "resample, crop, pad, flip_hand, centre_on_mask, rotate or shift",
                            "give a map with --volume; to change a mask's size or edge use protomer mask")
    if settings.flip_hand and given.particles is not None and not settings.update_flipped_poses:
        raise InputError("particles of a map that is mirrored", "a decision about their poses",
                         "set update_flipped_poses=true to mirror them too: they are then right for the mirrored map alone; or leave "
                         "--particles out")
