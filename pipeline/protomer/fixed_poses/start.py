"""What a classification at known poses is given: particles, masks, start volumes, all in the images' frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from protomer.classes.start import start_volume
from protomer.declarations.classify_fixed import ClassifyFixedSettings
from protomer.engine.maximisation import solid_sphere, working_box
from protomer.errors import InputError, SettingsError
from protomer.fixed_poses.subspace import in_box
from protomer.formats.hdf5 import read_particles
from protomer.formats.mrc import read_volume
from protomer.imaging.images import common_frame
from protomer.local.start import mask_in_box
from protomer.maps.volumes import Halves
from protomer.refinement.setup import MASK_FRACTION
from protomer.running.events import Events
from protomer.running.job_run import Inputs
from protomer.tables.half_sets import require_two_halves, warn_of_small_halves
from protomer.tables.particles import Particles
from protomer_kernels.fourier import low_pass
from protomer_kernels.half_plane import largest_radius

LEAST_SHARED = 0.05  # of the focus mask, that lies in the solvent mask
LEAST_ALIKE, LEAST_RMS = 0.1, 0.05  # correlation of half maps in the focus mask; density there, as a share of that of the particle


def load_particles(inputs: Inputs, settings: ClassifyFixedSettings, events: Events) -> Particles:
    """Particles with poses and half-sets. Raises InputError, SettingsError."""
    number_of_classes(inputs, settings)
    particles = read_particles(inputs.particles)
    if not particles.has_poses:
        raise InputError(f"the particles of {inputs.particles} have no poses", "particles with rotations and shifts",
                         "refine them first, or find poses and classes together with `protomer classify`")
    require_two_halves(particles.half)
    common_frame(particles)
    warn_of_small_halves(particles.half, events)
    return particles


def number_of_classes(inputs: Inputs, settings: ClassifyFixedSettings) -> int:
    """K. Raises SettingsError where there is nothing to tell apart, InputError where volumes and settings disagree."""
    given = [path for path in inputs.volume if path is not None]
    if kind_of_start(inputs, settings) == "volumes":
        if len(given) < 2:
            raise InputError(f"start=volumes with {len(given)} --volume", "one --volume for each class, at least two",
                             "add --volume, or set start=pca, which needs none")
        if settings.classes not in (2, len(given)):
            raise InputError(f"classes={settings.classes} with {len(given)} --volume", "one --volume for each class",
                             "leave classes out: there are as many as volumes")
        return len(given)
    if given:
        raise InputError(f"start={settings.start} with --volume", "volumes for start=volumes alone",
                         "leave --volume or start out")
    if settings.classes < 2:
        raise SettingsError(f"classes={settings.classes}", "at least 2",
                            "for one map from known poses use `protomer reconstruct`")
    return settings.classes


def kind_of_start(inputs: Inputs, settings: ClassifyFixedSettings) -> str:
    """random, pca or volumes."""
    return settings.start or ("volumes" if inputs.volume else "pca")


def masks(inputs: Inputs, particles: Particles, events: Events) -> tuple[np.ndarray, np.ndarray]:
    """Solvent and focus mask (D, D, D) in the images' frame. Raises InputError where they share nothing."""
    box, pixel_A = common_frame(particles)
    solvent = solid_sphere(box, MASK_FRACTION) if inputs.mask is None else _mask(inputs.mask, box, pixel_A, events)
    if inputs.focus_mask is None:
        return solvent, solvent
    focus = _mask(inputs.focus_mask, box, pixel_A, events)
    shared = float((solvent * focus).sum()) / max(float(focus.sum()), 1e-9)
    if shared < LEAST_SHARED:
        raise InputError(f"{100 * shared:.0f} % of the focus mask {inputs.focus_mask.name} lies in the particle's mask",
                         "a focus mask over a part of the particle", "are both in the frame of the particles' map? Look at them together")
    return np.maximum(solvent, focus), focus


def _mask(path: Path, box: int, pixel_A: float, events: Events) -> np.ndarray:
    return mask_in_box(read_volume(path), path.name, box, pixel_A, events).data


def require_density(halves: Halves[np.ndarray], solvent: np.ndarray, focus: np.ndarray, name: str) -> None:
    """Raise InputError where the maps (d, d, d) of all images of either half have nothing in common in the focus mask, or next to nothing
    at all there."""
    a, b = ((half - float((half * focus).sum() / focus.sum())) * focus for half in halves)
    alike = float((a * b).sum() / max(np.sqrt(float((a * a).sum()) * float((b * b).sum())), 1e-30))
    power = [float((np.square(halves.a) * mask).sum() / mask.sum()) for mask in (focus, solvent)]
    if alike < LEAST_ALIKE or power[0] < LEAST_RMS**2 * power[1]:
        raise InputError(f"the map of all images has no density in the focus mask {name}", "a mask around the part that differs",
                         "is it in the frame of the particles' map? Reconstruct the particles and look at both")


def radius_of(name: str, finest_A: float, particles: Particles, what: str, least: int, events: Events) -> int:
    """The finest shell that is compared, at least `least`, from a setting and its name; said where the pixel size is the limit. what: goes
    that far, in words."""
    box, pixel_A = common_frame(particles)
    wanted, limit = int(box * pixel_A / finest_A), largest_radius(box)
    if wanted > limit:
        events.warn("target_beyond_nyquist", f"{name}={finest_A:g} Å is finer than images of {pixel_A:.4g} Å pixels can hold: {what} "
                    f"{box * pixel_A / limit:.2f} Å")
    return max(least, min(wanted, limit))


def differences(inputs: Inputs, settings: ClassifyFixedSettings, particles: Particles, mean: np.ndarray, focus: np.ndarray,
                radius: int, events: Events) -> list[np.ndarray]:
    """By how much each start volume differs from the mean of all of them, in the focus mask, low-passed, in the grey scale of the common
    map `mean` (d, d, d): a list of (d, d, d). Raises InputError where volumes are no maps or all the same."""
    box, pixel_A = common_frame(particles)
    small = working_box(box, radius)
    given = [start_volume(path, n + 1, box, pixel_A, events) for n, path in enumerate(inputs.volume)]
    volumes = [in_box(np.asarray(volume, np.float32), small) for volume in given]
    shell = box * pixel_A / settings.initial_low_pass
    volumes = [low_pass(volume, shell, 2.0) for volume in volumes]
    common = sum(volumes[1:], volumes[0]) / len(volumes)
    smooth = low_pass(mean, shell, 2.0)
    grey = float((smooth * common).sum() / max(float((common * common).sum()), 1e-30))
    apart = [((volume - common) * focus * np.float32(grey)).astype(np.float32) for volume in volumes]
    if grey <= 0:
        raise InputError("the start volumes do not look like the map of the particles", "volumes in the frame of the particles' poses",
                         "bring them there with `protomer align-maps`")
    if not any(float(np.abs(volume).max()) > 1e-6 * float(np.abs(smooth).max()) for volume in apart):
        raise InputError("the start volumes are all the same in the focus mask", "volumes that differ", "leave them out: start=pca")
    return apart


def blocks_of(keys: Sequence[tuple[int, int]], images: Sequence[int], per_block: int, number: int) -> tuple[tuple[int, ...], ...]:
    """Parts of an epoch as numbers of batches, each with batches of every half and fold: keys and images of all batches; per_block: images
    for each class and half."""
    of_key: dict[tuple[int, int], list[int]] = {}
    for n, key in enumerate(keys):
        of_key.setdefault(key, []).append(n)
    smallest = min(sum(images[n] for n in numbers) for numbers in _by_half(of_key))
    parts = max(1, min(smallest // max(per_block * number, 1), min(len(numbers) for numbers in of_key.values())))
    return tuple(tuple(n for numbers in of_key.values() for at, n in enumerate(numbers) if at % parts == part) for part in range(parts))


def _by_half(of_key: dict[tuple[int, int], list[int]]) -> list[list[int]]:
    return [[n for key, numbers in of_key.items() if key[0] == half for n in numbers] for half in (0, 1)]
