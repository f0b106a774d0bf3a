"""The start of a classification: one map for each class, all in the grey scale of the images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from protomer.classes.classification import Classes, Mixture
from protomer.classes.decoys import decoy_map, matched_grey
from protomer.declarations.classify import ClassifySettings
from protomer.engine.grey_scale import calibrate
from protomer.engine.maximisation import solid_sphere
from protomer.engine.model import Model
from protomer.engine.pose_table import PoseTable
from protomer.engine.schedule import Band
from protomer.errors import InputError
from protomer.formats.hdf5 import read_particles
from protomer.imaging.images import common_frame
from protomer.refinement.asked import read_start
from protomer.refinement.setup import MASK_FRACTION, Setup, State
from protomer.refinement.start import resampled
from protomer.running.batches import Key
from protomer.running.events import Events
from protomer.running.job_run import Inputs
from protomer.tables.half_sets import warn_of_small_halves
from protomer.tables.particles import Particles
from protomer_kernels.fourier import low_pass


def load_particles(inputs: Inputs, events: Events) -> Particles:
    """The particles. Raises InputError for expanded ones, for half-sets that cannot be used, and for a single volume."""
    require_classes(inputs)
    particles = read_particles(inputs.particles)
    if particles.is_expanded:
        raise InputError("these particles are symmetry-expanded", "one row for each image",
                         "classify the parent; a global search would let copies fall onto one another")
    sizes = [int(np.sum(particles.half == half)) for half in (0, 1)]
    if min(sizes) == 0:
        raise InputError(f"the half-sets have {sizes[0]} and {sizes[1]} particles", "particles in both half-sets 0 and 1",
                         "import the particles again, with redraw_halves where the file's own halves are all equal")
    warn_of_small_halves(particles.half, events)
    return particles


def require_classes(inputs: Inputs) -> None:
    """Raise InputError where there is nothing to tell apart."""
    if len(inputs.volume) < 2 or any(volume is None for volume in inputs.volume):
        raise InputError(f"{sum(volume is not None for volume in inputs.volume)} --volume", "at least two, one for each class",
                         "for one structure use `protomer refine`; give the same volume twice to find what is different in the images, or "
                         "add a decoy such as --volume sphere:120")


def require_starts(inputs: Inputs, particles: Particles, seed: int) -> None:
    """Raise InputError for a start that is no map and a decoy that cannot be made, before any image is read."""
    box, pixel_A = common_frame(particles)
    for given in inputs.volume:
        if isinstance(given, str):
            decoy_map(given, box, pixel_A, seed)
        else:
            read_start(given)


def in_box(particles: Particles, box: int) -> Particles:
    """The particles as if their images had been Fourier-cropped to a box (px) in place of their own; as they are where that is larger."""
    own, _ = common_frame(particles)
    if box >= own:
        return particles
    groups = tuple(replace(g, box=box, pixel_size_A=g.pixel_size_A * own / box) for g in particles.optics_groups)
    return replace(particles, optics_groups=groups)


def load_starts(inputs: Inputs, settings: ClassifySettings, setup: Setup, events: Events) -> list[np.ndarray]:
    """The start map of each class in the images' frame, low-passed, in a sphere, each in its own grey scale. Raises InputError."""
    box, pixel_A = setup.store.plane.box, setup.pixel_size_A
    sphere, radius = solid_sphere(box, MASK_FRACTION), box * pixel_A / settings.initial_low_pass
    starts = []
    for n, given in enumerate(inputs.volume):
        is_decoy = isinstance(given, str)
        data = decoy_map(given, box, pixel_A, setup.seed + n) if is_decoy else start_volume(given, n + 1, box, pixel_A, events)
        starts.append((low_pass(data, radius, 2.0) * sphere).astype(np.float32))
    return starts


def start_volume(path: Path, number: int, box: int, pixel_A: float, events: Events) -> np.ndarray:
    """The volume of a class (`number`, from 1) in the images' box and pixel size, (box, box, box); a warning where it was resampled for
    that. Raises InputError where it is no map."""
    volume = read_start(path)
    if volume.box != box or abs(volume.voxel_size_A / pixel_A - 1) >= 1e-3:
        events.warn("resampled_start", f"the volume of class {number} ({volume.box} voxels of {volume.voxel_size_A:.4g} Å) was resampled "
                    f"to {box} voxels of {pixel_A:.4g} Å, as the images are")
    return resampled(volume, box, pixel_A)


def alike(starts: list[np.ndarray]) -> np.ndarray:
    """(K,) for each start the first that is the same."""
    return np.array([next(j for j, other in enumerate(starts) if np.array_equal(other, start)) for start in starts])


def begin(
    classes: Classes, starts: list[np.ndarray], is_decoy: list[bool], noise: np.ndarray, max_alignment_A: float | None
) -> Mixture:
    """The first state of every class. Volumes are brought to the grey scale of the images, decoys to that of the volumes."""
    setup, plane, number = classes.setup, classes.setup.store.plane, len(classes.setup.particles)
    limit = plane.radius - 1 if max_alignment_A is None else int(plane.box * setup.pixel_size_A / max_alignment_A)
    band, nothing = Band.at(plane.box, limit), PoseTable.empty(number)
    if classes.random_until:
        band = replace(band, radius=min(band.radius, max(classes.start_radius, 8)))

    def state(maps: dict[Key, np.ndarray]) -> State:
        model = Model(maps, noise, setup.operators, band.insertion_radius)
        return State(band, model, nothing, np.zeros(number, np.int64), setup.particles.scale)

    maps: dict[int, dict[Key, np.ndarray]] = {}
    fitted = [k for k in range(classes.number) if classes.alike[k] == k and (not is_decoy[k] or all(is_decoy))]
    for k in fitted:
        scaled = calibrate(setup, state(dict.fromkeys(setup.keys, starts[k]))).maps
        maps[k] = {key: next(scaled[other] for other in setup.keys if other[0] == key[0]) for key in setup.keys}  # one array per half
    good = [volume for k in fitted for volume in maps[k].values()]
    for k in set(classes.alike.tolist()) - set(fitted):
        maps[k] = dict.fromkeys(setup.keys, matched_grey(starts[k], good))
    states = tuple(state(maps[int(classes.alike[k])]) for k in range(classes.number))
    decoys = {k: maps[int(classes.alike[k])][setup.keys[0]] for k in range(classes.number) if is_decoy[k]}
    even = 1.0 / classes.number, 1.0 / (classes.number + 1)
    return Mixture(states, np.full((number, classes.number), even[0]), np.full(classes.number + 1, even[1]), decoys)
