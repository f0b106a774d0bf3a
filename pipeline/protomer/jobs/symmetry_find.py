"""symmetry-find: a map -> its group, its axes, and map, masks and particles on them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import yaml

from protomer.declarations.symmetry_find import SymmetryFindSettings
from protomer.errors import InputError
from protomer.formats.hdf5 import read_map_record, read_particles, write_particles
from protomer.formats.mrc import read_header, read_volume, write_volume
from protomer.maps.finishing import require_mask_values, write_maps
from protomer.maps.mask_rule import find_support
from protomer.maps.rigid_motion import RigidMotion, move_mask, move_particles, move_volume
from protomer.maps.volumes import MapRecord, Volume
from protomer.report.build import Report
from protomer.report.figures import projections_figure
from protomer.report.symmetry_pictures import axis_figure, operator_figure
from protomer.running.job_run import Inputs, JobRun, Plan
from protomer.symmetry.axis_fit import AxisError, axis_error
from protomer.symmetry.finding import Found, as_mapping, find_any, find_named, operator_names, spectrum_for, verdict
from protomer.symmetry.helical_finding import run_helical
from protomer.symmetry.self_correlation import correlations_by_shell
from protomer.tables.particles import Particles

HDF5_ENDINGS = (".h5", ".hdf5")
MANY_CURVES = 12
LARGEST_LOSS = 0.02  # of the density, to the faces of the box


@dataclass(frozen=True)
class Given:
    """What the job starts from: the map, the record it came in (None: .mrc), the mask that was given, particles with poses."""

    map: Volume
    record: MapRecord | None
    mask: Volume | None
    particles: Particles | None


def run(inputs: Inputs, settings: SymmetryFindSettings, job: JobRun) -> dict[str, Any]:
    """Find, move, check, write."""
    given = load(inputs, settings)
    if inputs.symmetry.strip().lower() == "helical":
        return run_helical(given.map, given.record.half_maps if given.record is not None else None, settings, job)
    half_maps = given.record.half_maps if given.record is not None else None
    spectrum = spectrum_for(given.map, given.mask, half_maps, settings.low_pass)
    if inputs.symmetry.strip().lower() == "any":
        found = find_any(spectrum, inputs.axes, job)
    else:
        limits = settings.max_angle, np.inf if settings.max_shift is None else settings.max_shift
        found = find_named(spectrum, inputs.symmetry, inputs.axes, limits, settings.force, job)
    job.check_stop()
    warn_of_trouble(found, given, job)
    moved = move(given, found.motion)
    left = residual(moved, found)
    write(moved, found, job)
    write_report(given, moved, found, left, job)
    return summary(found, left, moved)


def load(inputs: Inputs, settings: SymmetryFindSettings) -> Given:
    """The map, mask and particles. Raises InputError where they do not go together."""
    record = read_map_record(inputs.volume) if inputs.volume.suffix.lower() in HDF5_ENDINGS else None
    volume = record.map if record is not None else read_volume(inputs.volume, settings.voxel_size)
    mask = None if inputs.mask is None else read_volume(inputs.mask, settings.voxel_size)
    if mask is not None:
        require_mask_values(mask, inputs.mask.name)
        if mask.box != volume.box or abs(mask.voxel_size_A / volume.voxel_size_A - 1) > 1e-3:
            raise InputError(f"the mask has box {mask.box} at {mask.voxel_size_A:.4g} Å, the map box {volume.box} at "
                             f"{volume.voxel_size_A:.4g} Å", "one box and voxel size", "give the mask that belongs to this map")
        mask = Volume(mask.data, volume.voxel_size_A)
    particles = None if inputs.particles is None else read_particles(inputs.particles)
    if particles is not None and not particles.has_poses:
        raise InputError(f"the particles of {inputs.particles} have no poses", "particles with rotations and shifts",
                         "give the particles.h5 of the refinement that made the map")
    return Given(volume, record, mask, particles)


def warn_of_trouble(found: Found, given: Given, job: JobRun) -> None:
    """Warn of a map that leaves its box, of particles that are copies, and of a decision without half maps."""
    if given.particles is not None and given.particles.is_expanded:
        job.events.warn("expanded_particles", "the particles are symmetry copies; they were moved as they are, with their operators")
    if found.fit is not None:
        support = Volume(find_support(given.map).voxels.astype(np.float32), given.map.voxel_size_A)
        lost = 1.0 - float(move_mask(support, found.motion).data.sum()) / max(float(support.data.sum()), 1.0)
        if lost > LARGEST_LOSS:
            job.events.warn("map_leaves_box", f"{100 * lost:.0f}% of the density leaves the box: pad map and images to a larger one")
    if given.record is None:
        job.events.warn("no_half_maps", "without half maps it is not known how much agreement the noise allows: a noisy map may carry a "
                                        "group that is not found here, and copies that differ a little may be called the same")


def move(given: Given, motion: RigidMotion) -> Given:
    """Everything moved by one motion."""
    record = given.record
    if record is not None:
        record = record.changed(lambda volume, _: move_volume(volume, motion), lambda mask: move_mask(mask, motion))
    volume = record.map if record is not None else move_volume(given.map, motion)
    mask = None if given.mask is None else move_mask(given.mask, motion)
    return Given(volume, record, mask, None if given.particles is None else move_particles(given.particles, motion))


def residual(moved: Given, found: Found) -> AxisError | None:
    """How far the moved map is from the axes, measured anew."""
    if found.fit is None:
        return None
    half_maps = moved.record.half_maps if moved.record is not None else None
    return axis_error(moved.map, found.fit.operators, moved.mask, half_maps, found.fit.resolution_A)


def write(moved: Given, found: Found, job: JobRun) -> None:
    """Maps, mask, particles and the motion."""
    if moved.record is not None:
        write_maps(replace(moved.record, provenance=dict(job.provenance)), job)
    else:
        with job.output.writing("map.mrc") as path:
            write_volume(path, moved.map)
    if moved.mask is not None:
        with job.output.writing("mask.mrc") as path:
            write_volume(path, moved.mask)
    if moved.particles is not None:
        with job.output.writing("particles.h5") as path:
            write_particles(path, replace(moved.particles, provenance=dict(job.provenance)))
    job.output.write_text("transformation.yaml", yaml.safe_dump(as_mapping(found), sort_keys=False))


def write_report(given: Given, moved: Given, found: Found, left: AxisError | None, job: JobRun) -> None:
    """report.html."""
    fit, extent_A = found.fit, found.spectrum.extent_A
    report = Report("Symmetry", job.events.warnings, {"compared down to": f"{extent_A / found.spectrum.limit:.1f} Å",
                                                      "needed of the weakest operator": f"{found.least:.2f}"})
    report.headline("group", found.group if fit is not None else "none", "largest that the map carries" if found.ranking else "asked for")
    if fit is not None and left is not None:
        report.headline("weakest operator", f"{found.weakest:.3f}", "correlation with its copy")
        report.headline("was off by", f"{fit.motion.angle_deg:.2f}°, {fit.motion.distance_A:.2f} Å", "turn and shift of the map")
        report.headline("is off by", f"{left.angle_deg:.3f} ± {left.angle_sd_deg:.3f}°",
                        f"{left.offset_A:.3f} ± {left.offset_sd_A:.3f} Å, measured after moving")
    report.section("Verdict", verdict(found))
    if found.ranking is not None:
        report.table(["group", "carried", "weakest operator", "mean", "why"],
                     [[score.name, "yes" if score.is_carried else "no", None if score.fit is None else score.weakest,
                       None if score.fit is None else score.fit.score, score.reason] for score in found.ranking.scores],
                     f"Groups tried. Searching alone brings a wrong group of this map to {found.ranking.chance:.2f} at most.")
    if fit is not None:
        report.section("Axes")
        fold = int((np.abs(fit.operators[:, 2, 2] - 1) < 1e-6).sum())  # about z; the group's highest axis may lie elsewhere
        if fold > 1:
            report.figure(axis_figure(given.map, moved.map, fold), "The map projected along z before and after it was moved; the cross is "
                          "the box centre. Where z is an axis of the map the copy is the same, and the difference even grey.")
        names, curves = operator_names(fit.operators), correlations_by_shell(found.spectrum, fit.operators, fit.motion)
        share = found.spectrum.noise
        expected = None if share is None else np.clip(1 - share / found.spectrum.power, 0, 1)
        shown = dict(list(zip(names, curves[1:], strict=True))[:MANY_CURVES])
        report.figure(operator_figure(shown, extent_A, expected), "Agreement of the map with its copy under each operator"
                      + (f" (the first {MANY_CURVES})." if len(names) > MANY_CURVES else "."))
        report.table(["operator", "correlation"], [[name, float(c)] for name, c in zip(names, fit.correlation[1:], strict=True)],
                     "The group's operators where --axes puts them, and the correlation of the map with its copy.")
    report.section("Map")
    report.figure(projections_figure(given.map), "Projections of the map as it was.")
    report.figure(projections_figure(moved.map), "Projections of the map as it is now.")
    job.output.write_text("report.html", report.html())


def summary(found: Found, left: AxisError | None, moved: Given) -> dict[str, Any]:
    """What summary.json says."""
    fit, ranking = found.fit, found.ranking
    numbers: dict[str, Any] = {"group": found.group, "is_carried": found.is_carried, "verdict": verdict(found),
                               "weakest_correlation": round(found.weakest, 4), "least_correlation": round(found.least, 4),
                               "compared_to_A": round(found.spectrum.extent_A / found.spectrum.limit, 3),
                               "angle_deg": round(found.motion.angle_deg, 4), "shift_A": [round(float(s), 4) for s in found.motion.shift_A]}
    if fit is not None and left is not None:
        numbers |= {"angle_sd_deg": round(fit.angle_sd_deg, 5), "shift_sd_A": round(fit.shift_sd_A, 5),
                    "residual_angle_deg": round(left.angle_deg, 5), "residual_offset_A": round(left.offset_A, 5),
                    "correlation": [round(float(c), 4) for c in fit.correlation[1:]]}
    if ranking is not None:
        numbers |= {"carried": [score.name for score in ranking.carried], "subgroups": ranking.subgroups(),
                    "chance": round(ranking.chance, 4),
                    "tried": {score.name: round(score.weakest, 4) for score in ranking.scores if score.fit is not None}}
    if moved.particles is not None:
        numbers |= {"particles": len(moved.particles)}
    return numbers


def plan(inputs: Inputs, settings: SymmetryFindSettings, ranks: int, threads: int) -> Plan:
    """Memory for some copies of the box; seconds at measured rates."""
    path = inputs.volume
    box = read_map_record(path).map.box if path.suffix.lower() in HDF5_ENDINGS else read_header(path).shape[-1]
    maps = 6 if path.suffix.lower() in HDF5_ENDINGS else 1
    search = 20 if inputs.symmetry.strip().lower() == "any" else 5
    return Plan(memory_bytes=300_000_000 + 100 * box**3, disk_bytes=8 * maps * box**3 + 2_000_000, seconds=search + maps * box**3 * 1e-6)
