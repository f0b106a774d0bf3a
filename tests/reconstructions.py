"""Maps from simulated images at their true poses, without a job around it."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from protomer.computing.arithmetic import CPU
from protomer.formats.mrc import write_stack
from protomer.imaging.ewald import Ewald
from protomer.imaging.images import ImageStore, common_frame
from protomer.jobs.reconstruct import known_poses
from protomer.maps.volumes import Halves
from protomer.randomness import uniform
from protomer.refinement.preparing import surveyed
from protomer.refinement.reconstruction import reconstruct_halves
from protomer.refinement.setup import Setup
from protomer.running.batches import make_batches
from protomer.running.ranks import Team
from protomer.simulation.dataset import SimulatedData
from protomer.symmetry.operator_sets import OperatorSet
from protomer.tables.image_uids import image_uids
from protomer.tables.optics import OpticsGroup
from protomer.tables.particles import Particles, Stack, empty_columns
from protomer_kernels.half_plane import HalfPlane, largest_radius


def as_particles(data: SimulatedData, folder: Path) -> Particles:
    """Simulated images in folder/images.mrcs with their true poses and CTF; half-sets by image."""
    design, truth, number = data.design, data.truth, len(data.images)
    path = folder / "images.mrcs"
    write_stack(path, data.images, design.pixel_size_A)
    columns = empty_columns(number)
    for name in ("rotation", "shift_A", "defocus_u_A", "defocus_v_A", "defocus_angle_rad"):
        columns[name][:] = getattr(truth, name)
    columns["stack_index"][:] = np.arange(number)
    stacks = (Stack(str(path), number, design.box, path.stat().st_size, path.stat().st_mtime_ns, "0" * 64),)
    columns["image_uid"][:] = image_uids(stacks, columns["stack"], columns["stack_index"])
    columns["half"][:] = uniform(1, columns["image_uid"], "half-set") < 0.5
    group = OpticsGroup("simulated", design.voltage_V, design.spherical_aberration_A, design.amplitude_contrast, design.pixel_size_A,
                        design.box)
    return Particles(columns, (group,), stacks, True)


def store_of(particles: Particles, **how: Any) -> ImageStore:
    """The images of all batches."""
    box, _ = common_frame(particles)
    batches = make_batches(particles, 1, 0)
    return ImageStore(particles, HalfPlane(box, largest_radius(box)), [b.rows for b in batches], blocks=[b.block for b in batches], **how)


def rebuilt(
    particles: Particles, operators: OperatorSet | None = None, ewald: Ewald | None = None
) -> tuple[Halves[np.ndarray], np.ndarray]:
    """Half maps and the map of both, from the particles' own poses under the operators; flat, or on the Ewald sphere."""
    group, poses = operators or OperatorSet.identity(), known_poses(particles, common_frame(particles)[1])
    setup, noise = surveyed(setup_of(particles, group))
    return reconstruct_halves(setup, noise, poses, group.rotations, group.translations_A, ewald)


def setup_of(particles: Particles, operators: OperatorSet) -> Setup:
    """What a reconstruction works with, on one rank and one thread."""
    batches, (_, pixel_A) = make_batches(particles, 1, 0), common_frame(particles)
    line = SimpleNamespace(advance=lambda number: None)
    return Setup(particles, store_of(particles), batches, range(len(batches)), Team(), pixel_A, 0, CPU,
                 lambda label, total: nullcontext(line), operators=operators.rotations)
