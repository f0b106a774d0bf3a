"""volume: a map, its half maps, masks and poses -> the same, resampled, cut, filtered, moved or made noisy; or a map from nothing."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import yaml

from protomer.declarations.volume import VolumeSettings
from protomer.formats.hdf5 import read_map_record, write_particles
from protomer.formats.mrc import read_header, write_volume
from protomer.maps.finishing import write_maps
from protomer.maps.map_agreement import agreement
from protomer.maps.mask_rule import find_support
from protomer.maps.rigid_motion import RigidMotion, mirror_particles, move_particles
from protomer.maps.volume_fsc import fsc_after
from protomer.maps.volume_given import HDF5_ENDINGS, Given, load, require_possible
from protomer.maps.volume_motion import keeps_symmetry, motion_of, off_their_images
from protomer.maps.volume_operations import Operation, apply_to_map, apply_to_mask, apply_to_record, operations_of
from protomer.maps.volumes import Volume
from protomer.report.build import Report
from protomer.report.figures import fsc_caption, fsc_figure
from protomer.report.pictures import slices_figure
from protomer.report.symmetry_pictures import operator_figure
from protomer.report.volume_pictures import spectrum_figure
from protomer.running.job_run import Inputs, JobRun, Plan

LARGEST_LOSS = 0.02  # of the density, to the faces of the box
IN_PLACE = ("flip_hand", "move")


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


def change(given: Given, operations: list[Operation], motion: RigidMotion, job: JobRun) -> Given:
    """Everything after the operations."""
    record, volume, particles = given.record, given.map, given.particles
    if record is not None:
        record = replace(apply_to_record(operations, record), fsc=fsc_after(operations, record, job.seed), provenance=dict(job.provenance))
        is_flipped = any(operation.name == "flip_hand" for operation in operations)
        if not keeps_symmetry(record.symmetry, motion, is_flipped):
            job.events.warn("off_its_axes", f"the map was refined in {record.symmetry} and no longer lies on its axes: it is now called "
                                            "C1; protomer symmetry-find moves it back")
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
        job.events.warn("density_lost", f"{100 * lost:.0f}% of the {'density' if given.map is not None else 'mask'} no longer lies in the "
                                        "box: crop less, or pad before moving")
    names = [operation.name for operation in operations]
    if "flip_hand" in names and given.particles is None:
        job.events.warn("hand_flipped", "the map is now its mirror image: poses that were found with it do not belong to it; refine from "
                                        "this map, or flip again with --particles and update_flipped_poses=true")
    if after.particles is None:
        return
    if not set(names) & set(IN_PLACE):
        job.events.warn("particles_unmoved", "nothing here moves the map's frame: the poses of --particles are as they were")
    if after.particles.is_expanded:
        job.events.warn("expanded_particles", "the particles are symmetry copies; they were moved as they are, with their operators")
    outside = off_their_images(after.particles)
    if outside:
        job.events.warn("centre_off_images", f"the new centre lies outside the images of {outside} of {len(after.particles)} particles: "
                                             "what is centred now is not in these images")


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
    turning = 130 if settings.rotate is not None else 0  # bytes per voxel of the oversampled transform
    return Plan(memory_bytes=250_000_000 + (30 + turning + 4 * maps) * voxels, disk_bytes=8 * maps * voxels + 1_000_000,
                seconds=2 + maps * voxels * (1.5e-6 if turning else 3e-7))
