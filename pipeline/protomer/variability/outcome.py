"""What an analysis of variability found: particles with coordinates, the mean map, modes, movies, windows and clusters, and warnings."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from protomer.declarations.variability import VariabilitySettings
from protomer.formats.hdf5 import write_map_record, write_particles
from protomer.formats.mrc import write_volume
from protomer.maps.finishing import map_summary, warn_of_resolution, write_maps
from protomer.maps.volumes import MapRecord, Volume
from protomer.running.events import Events
from protomer.running.job_run import JobRun
from protomer.tables.particles import Particles
from protomer.tables.shared_columns import replaced
from protomer.variability.control import Verdict
from protomer.variability.displays import Part, clusters_of, mode_record, movie, windows_of, write_part
from protomer.variability.report import Shown, write_report
from protomer.variability.work import Coordinates, Standing, Varying

#: foreign columns of particles.h5, counted from 0 and named as in cryoSPARC's 3D variability
VALUE, ERROR = "components_mode_{}/value", "components_mode_{}/error"
ADRIFT = 0.05  # by which the variance of the first mode still changed in the last iteration


@dataclass(frozen=True)
class Found:
    """The result: where the analysis stands, coordinates of all rows, which modes are real, and the mean map."""

    standing: Standing
    coordinates: Coordinates
    verdict: Verdict
    mean: MapRecord


def finish(
    varying: Varying, standing: Standing, placed: tuple[Coordinates, Verdict], particles: Particles, settings: VariabilitySettings,
    job: JobRun,
) -> dict[str, Any]:
    """Reconstruct what is asked for (all ranks), write everything (rank 0), and say how it went."""
    coordinates, verdict = placed
    everyone = Part("", "mean map", np.ones(len(particles)))
    parts = [everyone, *windows_of(coordinates, settings), *clusters_of(coordinates, verdict, settings)]
    records = [write_part(varying, standing, coordinates, part, job) for part in parts]
    mean = records[0]
    assert mean is not None and mean.fsc is not None
    if not job.team.is_first:
        return {}
    warn(standing, verdict, settings, job.events)
    warn_of_resolution(mean.fsc, mean.fsc_mask, job, np.inf)
    write_maps(mean, job)
    found = Found(standing, coordinates, verdict, mean)
    out = with_coordinates(particles, coordinates, [part for part in parts if part.is_cluster], job)
    write_tables(found, out, job)
    for part in parts:
        if part.is_cluster:
            with job.output.within(part.folder).writing("particles.h5") as path:
                write_particles(path, out.take(np.flatnonzero(part.weight > 0)))
    movies = [write_mode(varying, found, k, settings, job) for k in range(varying.number)]
    write_report(varying, Shown(standing, coordinates, verdict, mean, movies, list(zip(parts[1:], records[1:], strict=True))), out, job)
    return {**map_summary(out, mean), **summary_of(varying, found), "clusters": [int(p.weight.sum()) for p in parts if p.is_cluster],
            "windows": [round(float(p.weight.sum()), 1) for p in parts[1:] if not p.is_cluster]}


def with_coordinates(particles: Particles, coordinates: Coordinates, clusters: list[Part], job: JobRun) -> Particles:
    """The particles with coordinates and their standard errors as foreign columns, and their cluster as class; all else as it was."""
    new = {VALUE.format(k): coordinates.mean[:, k].astype(np.float32) for k in range(coordinates.mean.shape[1])}
    new |= {ERROR.format(k): coordinates.error[:, k].astype(np.float32) for k in range(coordinates.mean.shape[1])}
    if clusters:
        number = np.argmax([part.weight for part in clusters], axis=0) + 1
        particles = particles.with_columns(class_number=number, class_posterior=np.ones(len(particles)))
    return replace(particles, extra=replaced(particles.extra, new), provenance=dict(job.provenance))


def write_tables(found: Found, particles: Particles, job: JobRun) -> None:
    """particles.h5, variability.csv and modes_fsc.csv."""
    with job.output.writing("particles.h5") as path:
        write_particles(path, particles)
    with job.output.writing("variability.csv") as path:
        write_coordinates(path, particles, found.coordinates)
    with job.output.writing("modes_fsc.csv") as path:
        write_fsc(path, np.array(found.standing.last["fsc"]), found.mean.map.box * found.mean.map.voxel_size_A)


def write_coordinates(path: Path, particles: Particles, coordinates: Coordinates) -> None:
    """variability.csv: a row for each row of particles.h5, in its order."""
    number = coordinates.mean.shape[1]
    names = [name for k in range(1, number + 1) for name in (f"mode_{k}", f"error_{k}")]
    pairs = np.stack([coordinates.mean, coordinates.error], axis=2).reshape(len(particles), -1)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["image_uid", "copy", "half", *names, "scale", "gain_nats"])
        rows = zip(particles.image_uid.tolist(), particles.copy.tolist(), particles.half.tolist(), pairs.tolist(),
                   coordinates.scale.tolist(), coordinates.gain.tolist(), strict=True)
        for uid, copy, half, values, scale, gain in rows:
            table.writerow([uid, copy, half, *(f"{value:.6g}" for value in values), f"{scale:.6g}", f"{gain:.6g}"])


def write_fsc(path: Path, fsc: np.ndarray, width_A: float) -> None:
    """modes_fsc.csv: FSC (K, shells) between the halves' modes."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["shell", "resolution_A", *(f"mode_{k + 1}" for k in range(len(fsc)))])
        for shell, row in enumerate(fsc.T.tolist()):
            table.writerow([shell, f"{width_A / shell:.6g}" if shell else "inf", *(f"{value:.5f}" for value in row)])


def write_mode(varying: Varying, found: Found, k: int, settings: VariabilitySettings, job: JobRun) -> list[Volume]:
    """mode_1.mrc, mode_1/volume.h5 and the maps of its movie, which are returned."""
    record, name = mode_record(varying, found.standing, k, job), f"mode_{k + 1}"
    with job.output.writing(f"{name}.mrc") as path:
        write_volume(path, record.map)
    there = job.output.within(name)
    with there.writing("volume.h5") as path:
        write_map_record(path, record)
    frames = movie(found.mean.map, record.map, found.coordinates.mean[:, k], settings)
    for number, frame in enumerate(frames):
        with there.writing(f"frame_{number:03d}.mrc") as path:
            write_volume(path, frame)
    return frames


def warn(standing: Standing, verdict: Verdict, settings: VariabilitySettings, events: Events) -> None:
    """Warnings of modes that are none, of a missing control, and of iterations that were too few."""
    asked = len(verdict.is_real)
    false = [str(k + 1) for k in np.flatnonzero(~verdict.is_real)]
    if verdict.number == 0:
        events.warn("no_variability", "no mode stands out of what noise and errors of poses make by themselves: nothing was found that "
                    "varies. The movies show noise; a mask over the part in question, a coarser filter_resolution or more images may help")
    elif false:
        events.warn("false_modes", f"{verdict.number} of {asked} modes stand out of what noise makes by itself; do not interpret mode "
                    f"{', '.join(false)}")
    if verdict.control is None:
        events.warn("no_control", "noise_control is off: which modes are real was judged without errors of poses, which look like motion")
    variance = [entry["variance"][0] for entry in standing.history[-2:]]
    if verdict.number and len(variance) == 2 and abs(variance[1] - variance[0]) > ADRIFT * variance[1]:
        events.warn("modes_unsettled", f"the variance of mode 1 still changed by {100 * abs(variance[1] / variance[0] - 1):.0f} % in the "
                    f"last of {settings.iterations} iterations: ask for more")


def summary_of(varying: Varying, found: Found) -> dict[str, Any]:
    """For summary.json."""
    last, verdict = found.standing.last, found.verdict
    return {
        "real_modes": verdict.number,
        "least_excess": round(verdict.level, 4),
        "modes": [
            {"mode": k + 1, "is_real": bool(verdict.is_real[k]), "excess": round(float(verdict.run.value[k]), 4),
             "control_excess": None if verdict.control is None else round(float(verdict.control.value[k]), 4),
             "halves_agree": round(last["correlation"][k], 4), "variance_share": round(last["variance"][k] / sum(last["variance"]), 4),
             "mean_error": round(float(found.coordinates.error[:, k].mean()), 4)} for k in range(varying.number)],
        "iterations": found.standing.done,
        "gain_nats": round(float(found.coordinates.gain.mean()), 4),
        "mean_scale": round(float(found.coordinates.scale.mean()), 4),
    }
