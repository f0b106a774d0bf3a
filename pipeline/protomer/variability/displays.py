"""What makes modes visible: maps along them, and maps and particles of those that lie in one place."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.cluster.vq import kmeans2

from protomer.classes.outcome import LEAST_IMAGES, weight_of_halves, write_empty
from protomer.declarations.variability import VariabilitySettings
from protomer.fixed_poses.subspace import in_box
from protomer.maps.finishing import measure_maps, warn_of_resolution, write_maps
from protomer.maps.volumes import Halves, MapRecord, Volume
from protomer.randomness import generator
from protomer.refinement.reconstruction import reconstruct_halves
from protomer.running.job_run import JobRun
from protomer.variability.control import Verdict
from protomer.variability.work import Coordinates, Standing, Varying

RESTARTS = 16  # of k-means: the one with the least spread is taken


@dataclass(frozen=True)
class Part:
    """Some of the particles, by weight (N,), whose map is reconstructed: folder, "" for the mean of all, and name for people."""

    folder: str
    name: str
    weight: np.ndarray
    is_cluster: bool = False


def in_images_box(varying: Varying, volume: np.ndarray) -> Volume:
    """A map of the loop in the box and greys of the images."""
    setup = varying.fixed.setup
    return Volume(np.ascontiguousarray(in_box(volume, setup.store.plane.box), np.float32), setup.pixel_size_A)


def mode_record(varying: Varying, standing: Standing, k: int, job: JobRun) -> MapRecord:
    """The mode of each half, and their mean."""
    halves = standing.modes.map(lambda modes: in_images_box(varying, modes[k]))
    mean = Volume(np.float32(0.5) * (halves.a.data + halves.b.data), halves.a.voxel_size_A)
    return MapRecord(halves, mean, provenance=job.provenance)


def movie(mean: Volume, mode: Volume, coordinate: np.ndarray, settings: VariabilitySettings) -> list[Volume]:
    """The mean map and the mode times coordinates from the first to the last percentile."""
    low, high = np.percentile(coordinate, (settings.movie_percentile, 100.0 - settings.movie_percentile))
    return [Volume(mean.data + np.float32(at) * mode.data, mean.voxel_size_A) for at in np.linspace(low, high, settings.frames)]


def windows_of(coordinates: Coordinates, settings: VariabilitySettings) -> list[Part]:
    """Overlapping windows along a mode, whose weights sum to one between the first and the last."""
    if not settings.intermediates:
        return []
    coordinate = coordinates.mean[:, settings.intermediate_mode - 1]
    low, high = np.percentile(coordinate, (settings.movie_percentile, 100.0 - settings.movie_percentile))
    places = np.linspace(low, high, settings.intermediates) if settings.intermediates > 1 else np.array([0.5 * (low + high)])
    width = max(float(places[1] - places[0]) if len(places) > 1 else float(high - low), 1e-9)
    held = np.clip(coordinate, low, high)
    return [Part(f"mode_{settings.intermediate_mode}/window_{n}", f"window {n} of mode {settings.intermediate_mode}",
                 np.maximum(1.0 - np.abs(held - place) / width, 0.0)) for n, place in enumerate(places, 1)]


def clusters_of(coordinates: Coordinates, verdict: Verdict, settings: VariabilitySettings) -> list[Part]:
    """Clusters by k-means on the real modes, or on all where none is real; in order of the first of these."""
    if not settings.clusters:
        return []
    chosen = np.flatnonzero(verdict.is_real) if verdict.number else np.arange(coordinates.mean.shape[1])
    number = grouped(coordinates.mean[:, chosen], settings.clusters, settings.seed)
    return [Part(f"cluster_{n + 1}", f"cluster {n + 1}", (number == n).astype(np.float64), True) for n in range(settings.clusters)]


def grouped(points: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """The cluster (N,) of each point (N, J): the best of several runs of k-means, in order of the first coordinate of their centres."""
    random, best, least = generator(seed, clusters, "clusters of coordinates"), np.zeros(len(points), np.int64), np.inf
    for _ in range(RESTARTS):
        centres, number = kmeans2(points, clusters, minit="++", rng=random, missing="warn")
        spread = float(((points - centres[number]) ** 2).sum())
        if spread < least:
            order = np.argsort(np.argsort(centres[:, 0], kind="stable"), kind="stable")
            best, least = order[number], spread
    return best


def write_part(varying: Varying, standing: Standing, coordinates: Coordinates, part: Part, job: JobRun) -> MapRecord | None:
    """Half maps, FSC and map of a part, and its files (rank 0) unless it is the mean of all; None where it has next to no images."""
    fixed, setup = varying.fixed, varying.fixed.setup
    if varying.finds_scale:
        setup = replace(setup, particles=setup.particles.with_columns(scale=coordinates.scale))
    poses = replace(fixed.poses, weight=part.weight[:, None])
    there = replace(job, output=job.output.within(part.folder)) if part.folder else job
    if min(weight_of_halves(poses, setup.particles.half)) < LEAST_IMAGES:
        job.events.warn("empty_part", f"{part.name} has next to no images in one of the half-sets: no map was made of it")
        if job.team.is_first and part.folder:
            nothing = Volume(np.zeros((setup.store.plane.box,) * 3, np.float32), setup.pixel_size_A)
            write_empty(MapRecord(Halves.of(nothing), nothing, provenance=job.provenance), there)
        return None
    half_maps, both = reconstruct_halves(setup, standing.noise, poses, setup.operators)
    if part.folder:
        there = replace(there, events=job.events.about(part.name, part=part.name))
    volumes = half_maps.map(lambda data: Volume(data, setup.pixel_size_A)), Volume(both, setup.pixel_size_A)
    record = measure_maps(*volumes, None, "", "C1", None, there)
    if job.team.is_first and part.folder:
        assert record.fsc is not None
        warn_of_resolution(record.fsc, record.fsc_mask, there, np.inf)
        write_maps(record, there)
    return record
