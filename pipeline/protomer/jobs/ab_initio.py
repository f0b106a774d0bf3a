"""ab-initio: volumes from particles alone, by stochastic expectation-maximisation at low resolution (Punjani 2017; Kimanius 2021)."""

from __future__ import annotations

from typing import Any

import numpy as np

from protomer.abinitio.checkpoint import EVERY, load, save
from protomer.abinitio.loop import State, begin, until_done
from protomer.abinitio.outcome import Outcome, gone_through, posed, warn
from protomer.abinitio.report import compared, tell, write_report
from protomer.abinitio.setting_up import AbInitio, prepare, require_possible
from protomer.abinitio.work import device_needs, image_bytes, seconds, work_bytes
from protomer.declarations.ab_initio import AbInitioSettings
from protomer.formats.hdf5 import read_particles, write_particles, write_single_volume
from protomer.formats.mrc import write_volume
from protomer.running.job_run import Inputs, JobRun, Plan
from protomer.symmetry.point_groups import canonical_name, operators
from protomer.tables.particles import Particles


def run(inputs: Inputs, settings: AbInitioSettings, job: JobRun) -> dict[str, Any]:
    """Load, make attempts, go on with the best, go through all images once, save."""
    given = read_particles(inputs.particles)
    require_possible(given, settings)
    group = operators(inputs.symmetry, inputs.axes)
    work = prepare(given, group, settings, job)
    state = load(job.checkpoint, work.setup.arithmetic) or begin(work)

    def after_step(reached: State) -> None:
        tell(work, reached, job)
        if reached.at % EVERY == 0 or work.steps[reached.at - 1].is_fine:
            save(reached, job.checkpoint, work.setup.arithmetic)
            job.stop_together()

    state = until_done(work, state, after_step)
    outcome = gone_through(work, state)
    return finish(work, state, outcome, given, canonical_name(inputs.symmetry), job)


def finish(work: AbInitio, state: State, outcome: Outcome, given: Particles, symmetry: str, job: JobRun) -> dict[str, Any]:
    """Write everything (rank 0), and say how it went."""
    if not job.team.is_first:
        return {}
    pairs = compared(outcome, work)
    warn(outcome, state.history[-1]["certainty"], [(pair.first, pair.second, pair.correlation) for pair in pairs], job.events)
    particles = posed(work, outcome, given, dict(job.provenance))
    with job.output.writing("particles.h5") as path:
        write_particles(path, particles)
    for k, volume in enumerate(outcome.maps):
        with job.output.writing(f"class_{k + 1}/volume.h5") as path:
            write_single_volume(path, volume, symmetry, job.provenance)
        with job.output.writing(f"class_{k + 1}/map.mrc") as path:
            write_volume(path, volume)
    write_report(work, state, outcome, particles, pairs, symmetry, job)
    counts = np.bincount(outcome.assigned, minlength=work.classes)
    return {
        "particles_in": len(given),
        "particles_out": len(given),
        "images": len(given),
        "symmetry": symmetry,
        "iterations": len(state.history),
        "classes": [
            {"class": k + 1, "images": int(counts[k]), "fraction": round(float(outcome.posterior[:, k].mean()), 4),
             "structure": round(float(outcome.structure[k]), 4)} for k in range(work.classes)
        ],
        "starts": scores_of_starts(state, work),
        "log_evidence": round(state.history[-1]["log_evidence"], 4),
        "resolution_A": None,
    }


def scores_of_starts(state: State, work: AbInitio) -> list[float]:
    """Log evidence at the end of each attempt."""
    last = {step.start: step.number for step in work.steps if step.is_last_of_start}
    return [round(state.history[number]["log_evidence"], 4) for number in last.values()]


def plan(inputs: Inputs, settings: AbInitioSettings, ranks: int, threads: int) -> Plan:
    """Memory of one rank; time by the number of steps, classes and images, at measured rates."""
    particles = read_particles(inputs.particles)
    require_possible(particles, settings)
    group = operators(inputs.symmetry, inputs.axes)
    needed, images = work_bytes(particles, settings, len(group), threads), image_bytes(particles, settings, ranks)
    box = particles.optics_groups[0].box
    return Plan(needed + images, settings.classes * 8 * box**3 + 600 * len(particles),
                seconds(particles, settings, len(group), ranks * threads),
                (f"{settings.classes} class(es) at once; {images / 1e9:.2f} GB of the memory are prepared images",), images,
                device_needs(particles, settings, len(group)).device_bytes)
