"""select: the rows of a particle set that pass criteria, and the rest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from protomer.declarations.select import SelectSettings
from protomer.errors import InputError
from protomer.formats.hdf5 import read_particles, write_particles
from protomer.running.job_run import Inputs, JobRun, Plan
from protomer.symmetry.expansion import no_longer_copies
from protomer.tables.particles import Particles
from protomer.tables.selection import select
from protomer.tables.selection_criteria import criteria_of
from protomer.tables.selection_report import report_of, summary_of, warn_of_outcome
from protomer.tables.selection_thinning import thinning_of

BASE_BYTES, BYTES_PER_ROW, BYTES_ON_DISK, SECONDS_PER_ROW = 250_000_000, 800, 400, 1e-5


def run(inputs: Inputs, settings: SelectSettings, job: JobRun) -> dict[str, Any]:
    """Load, ask, save."""
    particles = replace(load(inputs), provenance=dict(job.provenance))
    selection = select(particles, criteria_of(particles, inputs, settings, job.events), settings,
                       thinning_of(inputs, settings, job.events))
    rows = np.flatnonzero(selection.kept)
    kept = particles.take(rows) if settings.one_per_image is None else no_longer_copies(particles, rows)
    warn_of_outcome(particles, kept, job.events)
    with job.output.writing("particles.h5") as path:
        write_particles(path, kept)
    if settings.rest:
        with job.output.writing("rest.h5") as path:
            write_particles(path, particles.take(np.flatnonzero(~selection.kept)))
    summary = summary_of(particles, kept, selection)
    job.events.event("selected", **{name: summary[name] for name in ("rows_in", "rows_out", "rows_dropped", "criteria")})
    job.output.write_text("report.html", report_of(particles, kept, selection, job.events))
    return summary


def load(inputs: Inputs) -> Particles:
    """The particles. Raises InputError where there are none."""
    particles = read_particles(inputs.particles)
    if not len(particles):
        raise InputError(f"{inputs.particles} has no rows", "particles to select from", "give another set")
    return particles


def plan(inputs: Inputs, settings: SelectSettings, ranks: int, threads: int) -> Plan:
    """Memory of the tables; disk of what is kept and of the rest; time from a measured rate."""
    rows = len(load(inputs))
    return Plan(BASE_BYTES + BYTES_PER_ROW * rows, BYTES_ON_DISK * rows, 2 + SECONDS_PER_ROW * rows, ("no image is read or written",))
