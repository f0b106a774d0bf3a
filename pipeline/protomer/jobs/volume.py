"""volume: a map, its half maps, masks and poses -> the same, resampled, cut, filtered, moved or made noisy; or a map from nothing."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from protomer.declarations.volume import VolumeSettings
from protomer.errors import InputError, SettingsError
from protomer.finishing import require_mask_values, write_maps
from protomer.formats.hdf5 import read_map_record, read_particles, write_particles
from protomer.formats.mrc import read_header, read_volume, write_volume
from protomer.job_run import Inputs, JobRun, Plan
from protomer.map_agreement import agreement
from protomer.mask_rule import find_support
from protomer.particles import Particles
from protomer.report.build import Report
from protomer.report.figures import fsc_caption, fsc_figure
from protomer.report.pictures import slices_figure
from protomer.report.symmetry_pictures import operator_figure
from protomer.report.volume_pictures import spectrum_figure
from protomer.rigid_motion import RigidMotion, mirror_particles, move_particles
from protomer.volume_creation import model_map, shape_map
from protomer.volume_fsc import fsc_after
from protomer.volume_motion import keeps_symmetry, motion_of, off_their_images
from protomer.volume_operations import Operation, apply_to_map, apply_to_mask, apply_to_record, operations_of
from protomer.volumes import MapRecord, Volume

HDF5_ENDINGS = (".h5", ".hdf5")
LARGEST_LOSS = 0.02  # of the density, to the faces of the box
IN_PLACE = ("flip_hand", "move")


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


def run(inputs: Inputs, settings: VolumeSettings, job: JobRun) -> dict[str, Any]:
    """Read, change, follow, write."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        given = load(inputs, settings)
    for warning in told:
        job.events.warn("input", str(warning.message))
    motion = motion_of(settings, given.mask)
    operations, idle = operations_of(settings, given.frame.box, given.frame.voxel_size_A, motion)
    require_possible(operations, idle, given, settings)
    after = change(given, operations, motion, job)
    warn_of_trouble(given, after, operations, idle, motion, job)
    write(after, motion, job)
    write_report(given, after, operations, settings, job)
    return summary(after, operations, settings, motion)


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
        raise InputError(f"the mask has box {mask.box} at {mask.voxel_size_A:.4g} Å, the map box {volume.box} at {volume.voxel_size_A:.4g} Å",
                         "one box and voxel size", "give the mask alone first, with resample and crop or pad, to bring it to the map's box")
    return Volume(mask.data, volume.voxel_size_A)


def require_possible(operations: list[Operation], idle: list[str], given: Given, settings: VolumeSettings) -> None:
    """Raise where nothing is asked for, where a mask would be filtered, and where poses cannot follow a flip."""
    if not operations and not idle and settings.create is None and settings.box is None:
        raise SettingsError("no operation", "at least one of resample, crop, pad, low_pass, high_pass, b_factor, flip_hand, centre_on_mask, "
                            "rotate, shift, add_noise, phase_randomise, scale or create", "add for example --set low_pass=10A")
    unfit = [operation.name for operation in operations if operation.on_mask is None]
    if given.map is None and unfit:
        raise SettingsError(f"{', '.join(unfit)} of a mask", "resample, crop, pad, flip_hand, centre_on_mask, rotate or shift",
                            "give a map with --volume; to change a mask's size or edge use protomer mask")
    if settings.flip_hand and given.particles is not None and not settings.update_flipped_poses:
        raise InputError("particles of a map that is mirrored", "a decision about their poses",
                         "set update_flipped_poses=true to mirror them too: they are then right for the mirrored map alone; or leave "
                         "--particles out")


def change(given: Given, operations: list[Operation], motion: RigidMotion, job: JobRun) -> Given:
    """Everything after the operations."""
    record, volume, particles = given.record, given.map, given.particles
    if record is not None:
        record = replace(apply_to_record(operations, record), fsc=fsc_after(operations, record, job.seed), provenance=dict(job.provenance))
        is_flipped = any(operation.name == "flip_hand" for operation in operations)
        if not keeps_symmetry(record.symmetry, motion, is_flipped):
            job.events.warn("off_its_axes", f"the map was refined in {record.symmetry} and no longer lies on its axes: it is now called C1; "
                                            "protomer symmetry-find moves it back")
            record = replace(record, symmetry="C1")
        volume = record.map
    elif volume is not None:
        volume = apply_to_map(operations, volume)
    if particles is not None:
        if any(operation.name == "flip_hand" for operation in operations):
            particles = mirror_particles(particles)
        particles = replace(move_particles(particles, motion), provenance=dict(job.provenance))
    return Given(volume, record, None if given.mask is None else apply_to_mask(operations, given.mask), particles)


def warn_of_trouble(given: Given, after: Given, operations: list[Operation], idle: list[str], motion: RigidMotion, job: JobRun) -> None:
    """Warn of settings without effect, lost density, poses that do not follow or lie off their images."""
    for text in idle:
        job.events.warn("no_effect", text)
    lost = density_lost(given, operations)
    if lost > LARGEST_LOSS:
        job.events.warn("density_lost", f"{100 * lost:.0f}% of the {'density' if given.map is not None else 'mask'} no longer lies in the box: "
                                        "crop less, or pad before moving")
    names = [operation.name for operation in operations]
    if "flip_hand" in names and given.particles is None:
        job.events.warn("hand_flipped", "the map is now its mirror image: poses that were found with it do not belong to it; refine from this "
                                        "map, or flip again with --particles and update_flipped_poses=true")
    if after.particles is None:
        return
    if not set(names) & set(IN_PLACE):
        job.events.warn("particles_unmoved", "nothing here moves the map's frame: the poses of --particles are as they were")
    if after.particles.is_expanded:
        job.events.warn("expanded_particles", "the particles are symmetry copies; they were moved as they are, with their operators")
    outside = off_their_images(after.particles)
    if outside:
        job.events.warn("centre_off_images", f"the new centre lies outside the images of {outside} of {len(after.particles)} particles: what "
                                             "is centred now is not in these images")


def density_lost(given: Given, operations: list[Operation]) -> float:
    """Share of the density (of the mask, where it is alone) that is no longer in the box, 0 to 1."""
    frame = given.frame
    support = frame if given.map is None else Volume(find_support(frame).voxels.astype(np.float32), frame.voxel_size_A)
    left = apply_to_mask(operations, support)
    before, now = (float(each.data.sum(dtype=np.float64)) * each.voxel_size_A**3 for each in (support, left))
    return max(0.0, 1.0 - now / before) if before > 0 else 0.0


def write(after: Given, motion: RigidMotion, job: JobRun) -> None:
    """Maps, mask, particles and the motion."""
    if after.record is not None:
        write_maps(after.record, job)
    for name, volume in (("map.mrc", after.map if after.record is None else None), ("mask.mrc", after.mask)):
        if volume is not None:
            with job.output.writing(name) as path:
                write_volume(path, volume)
    if after.particles is not None:
        with job.output.writing("particles.h5") as path:
            write_particles(path, after.particles)
    if motion.angle_deg > 0 or motion.distance_A > 0:
        job.output.write_text("transformation.yaml", yaml.safe_dump(motion.to_mapping(), sort_keys=False))


def write_report(given: Given, after: Given, operations: list[Operation], settings: VolumeSettings, job: JobRun) -> None:
    """report.html."""
    before, now = given.frame, after.frame
    report = Report("Volume", job.events.warnings, {"before": f"{before.box} voxels of {before.voxel_size_A:.4g} Å",
                                                    "after": f"{now.box} voxels of {now.voxel_size_A:.4g} Å"})
    report.section("What was done")
    done = [f"created: {settings.create or 'model'}"] if given.record is None and (settings.create or settings.box) else []
    report.table(["step", "what"], [[n + 1, text] for n, text in enumerate([*done, *(o.text for o in operations)])], "In this order.")
    what = "map" if given.map is not None else "mask"
    report.figure(slices_figure(before, given.mask), f"Central slices of the {what} before.")
    report.figure(slices_figure(now, after.mask), f"Central slices of the {what} after.")
    if given.map is not None and after.map is not None:
        report.section("In Fourier space")
        report.figure(spectrum_figure({"before": given.map, "after": after.map}), "Mean power in shells, over the volume of the box.")
        names = {operation.name for operation in operations}
        if not names & {"resample", "crop", "pad", *IN_PLACE}:
            same = agreement(after.map, given.map)
            report.figure(operator_figure({"this map": same.curve}, same.extent_A, None, "the map before"),
                          "Fourier shell correlation of the map after with the map before; this is agreement, no resolution.")
    if after.record is not None and after.record.fsc is not None:
        report.section("Resolution", "Half maps after the same steps; shells that a low-pass or larger voxels took away count as 0.")
        report.figure(fsc_figure(after.record.fsc), fsc_caption(after.record.fsc))
    job.output.write_text("report.html", report.html())


def summary(after: Given, operations: list[Operation], settings: VolumeSettings, motion: RigidMotion) -> dict[str, Any]:
    """What summary.json says."""
    fsc = None if after.record is None else after.record.fsc
    numbers: dict[str, Any] = {"operations": [operation.text for operation in operations], "box": after.frame.box,
                               "voxel_size_A": after.frame.voxel_size_A}
    if settings.create is not None:
        numbers["created"] = settings.create
    if motion.angle_deg > 0 or motion.distance_A > 0:
        numbers |= {"angle_deg": round(motion.angle_deg, 4), "shift_A": [round(float(s), 4) for s in motion.shift_A]}
    if fsc is not None:
        numbers |= {"resolution_A": fsc.summary(), "mask": fsc.mask_name}
    return numbers if after.particles is None else {**numbers, "particles": len(after.particles)}


def plan(inputs: Inputs, settings: VolumeSettings, ranks: int, threads: int) -> Plan:
    """Memory for some copies of the larger box; seconds at measured rates."""
    box, maps = settings.box or 0, 1
    for path in (inputs.volume, inputs.mask):
        if path is not None:
            is_record = path.suffix.lower() in HDF5_ENDINGS
            box, maps = max(box, read_map_record(path).map.box if is_record else read_header(path).shape[-1]), 6 if is_record else maps
    voxels = max(box, settings.pad or 0) ** 3
    return Plan(memory_bytes=200_000_000 + (40 + 4 * maps) * voxels, disk_bytes=8 * maps * voxels + 1_000_000,
                seconds=2 + maps * voxels * 1.5e-6)
