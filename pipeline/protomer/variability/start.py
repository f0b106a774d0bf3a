"""What an analysis of variability is given, checked before any image is read."""

from __future__ import annotations

import numpy as np

from protomer.declarations.variability import VariabilitySettings
from protomer.engine.maximisation import solid_sphere
from protomer.errors import InputError, SettingsError
from protomer.formats.hdf5 import read_particles
from protomer.formats.mrc import read_volume
from protomer.imaging.images import common_frame
from protomer.local.start import mask_in_box
from protomer.refinement.setup import MASK_FRACTION
from protomer.running.events import Events
from protomer.running.job_run import Inputs
from protomer.tables.half_sets import require_two_halves, warn_of_small_halves
from protomer.tables.particles import Particles

IMAGES_PER_MODE = 10  # in the smaller half: fewer do not hold a mode apart from their noise
NUMBERS_PER_MODE = 8.0  # independent densities in the mask at the filter's resolution, of which a mode is one combination


def load_particles(inputs: Inputs, settings: VariabilitySettings, events: Events) -> Particles:
    """Particles with poses and half-sets, at the grey scales that are asked for. Raises InputError, SettingsError."""
    if settings.modes < 1:
        raise SettingsError(f"modes={settings.modes}", "at least 1", "for the mean map alone use `protomer reconstruct`")
    if settings.intermediates and settings.intermediate_mode > settings.modes:
        raise SettingsError(f"intermediate_mode={settings.intermediate_mode} of {settings.modes} modes", f"1 to {settings.modes}",
                            "choose one of the modes, or ask for more of them")
    if settings.clusters == 1:
        raise SettingsError("clusters=1", "at least 2, or 0 for none", "all particles together are the mean map, which is written anyway")
    particles = read_particles(inputs.particles)
    if not particles.has_poses:
        raise InputError(f"the particles of {inputs.particles} have no poses", "particles with rotations and shifts",
                         "refine them first: `protomer refine`")
    require_two_halves(particles.half)
    common_frame(particles)
    warn_of_small_halves(particles.half, events)
    require_enough(particles, settings)
    return at_asked_scale(particles, settings)


def at_asked_scale(particles: Particles, settings: VariabilitySettings) -> Particles:
    """The particles; their grey scales all one, unless they are those of the input."""
    return particles if settings.particle_scale == "input" else particles.with_columns(scale=np.ones(len(particles)))


def require_enough(particles: Particles, settings: VariabilitySettings) -> None:
    """Raise SettingsError where there are more modes than the images of a half-set can bear; copies of an image count once."""
    uid, half = particles.by_image("image_uid", "half")
    images = min(len(np.unique(uid[half == h])) for h in (0, 1))
    most = images // IMAGES_PER_MODE
    if settings.modes > most:
        raise SettingsError(f"modes={settings.modes} with {images} different images in the smaller half-set",
                            f"at least {IMAGES_PER_MODE} images for each mode: at most {most} modes" if most else
                            f"at least {IMAGES_PER_MODE} images in each half-set",
                            "ask for fewer modes" if most else "more particles are needed")


def require_room(mask: np.ndarray, pixel_A: float, settings: VariabilitySettings) -> None:
    """Raise SettingsError where the mask (D, D, D) holds fewer details of the filter's resolution than modes need."""
    details = float(mask.sum()) * pixel_A**3 * 4.0 / 3.0 * np.pi / settings.filter_resolution**3
    most = int(details / NUMBERS_PER_MODE)
    if settings.modes > most:
        raise SettingsError(f"modes={settings.modes} in a mask that holds {details:.0f} independent details of "
                            f"{settings.filter_resolution:g} Å", f"{NUMBERS_PER_MODE:g} of these for each mode: at most {most}",
                            "ask for fewer modes, for a finer filter_resolution, or take a larger mask")


def mask_of(inputs: Inputs, particles: Particles, events: Events) -> tuple[np.ndarray, np.ndarray]:
    """Where the mean map and where modes may have density, (D, D, D) each. Raises InputError where the mask is none."""
    box, pixel_A = common_frame(particles)
    sphere = solid_sphere(box, MASK_FRACTION)
    if inputs.mask is None:
        return sphere, sphere
    mask = mask_in_box(read_volume(inputs.mask), inputs.mask.name, box, pixel_A, events).data
    return np.maximum(sphere, mask), mask
