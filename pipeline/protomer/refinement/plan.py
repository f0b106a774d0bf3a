"""What a refinement would take."""

from __future__ import annotations

from dataclasses import replace

from protomer.declarations.refine import RefineSettings
from protomer.engine.schedule import GRID_RADII, GRID_ROTATIONS, Band
from protomer.formats.hdf5 import read_particles
from protomer.imaging.images import common_frame
from protomer.refinement.asked import asked_group, require_possible
from protomer.running.batches import BATCH, WINDOWED, Batch, folded_batches, share_of_batches
from protomer.running.footprint import Work
from protomer.running.job_run import Inputs, Plan
from protomer_kernels.half_plane import HalfPlane, largest_radius
from protomer_kernels.rotations import shift_grid

Grid = tuple[int, int]  # rotations and radius of the densest global search


def work_of(half_precision: bool, batches: list[Batch], numbers: range, box: int, threads: int, filaments: Grid | None = None) -> Work:
    """What decides the memory of the rank with these batches; filaments: their grid, which is another."""
    rotations, radius = filaments or (GRID_ROTATIONS[-1], GRID_RADII[-1])
    keys, own = {batch.key for batch in batches}, [batches[n] for n in numbers]
    return Work(
        sum(len(batch.rows) for batch in own),
        box,
        len(keys),
        len({batch.key for batch in own}),
        half_precision,
        threads,
        rotations,
        radius,
        len(shift_grid(box / 16, box / 32)),
        scored=BATCH if filaments is None else WINDOWED,
    )


def plan(inputs: Inputs, settings: RefineSettings, ranks: int, threads: int, filaments: Grid | None = None) -> Plan:
    """Memory of the rank that needs most; time from the number of images, at measured rates. filaments: as in work_of."""
    particles = read_particles(inputs.particles)
    asked_group(inputs, settings)
    require_possible(particles, inputs, settings)
    box = settings.box or common_frame(particles)[0]
    radius = largest_radius(box)
    batches = folded_batches(particles, settings.cross_fit_folds, radius, settings.seed)
    works = [work_of(settings.half_precision, batches, share_of_batches(len(batches), rank, ranks), box, threads, filaments)
             for rank in range(ranks)]
    most = max(works, key=lambda work: work.image_bytes + work.refinement_bytes)
    half = most.image_bytes + replace(most, reach=Band.at(box, radius // 2).at_limit.insertion_radius).refinement_bytes
    return Plan(
        most.image_bytes + most.refinement_bytes,
        40 * box**3 + 2000 * len(particles),
        15 + len(particles) * len(HalfPlane(box, radius)) * 1e-5 / (ranks * threads),
        (
            f"{most.image_bytes / 1e9:.2f} GB of it are prepared images; where memory is short they stream from the node's disk",
            f"memory is for a map that resolves to the pixel size; half of that resolution would take {half / 1e9:.2f} GB",
        ),
        scratch_bytes=most.image_bytes,
        device_bytes=most.device_bytes,
    )
