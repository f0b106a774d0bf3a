"""The start of a refinement: a volume in the images' frame and grey scale, on the axes of its group."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from protomer.declarations.refine import RefineSettings
from protomer.engine.alignment import mode_count
from protomer.engine.grey_scale import calibrate
from protomer.engine.maximisation import solid_sphere
from protomer.engine.model import Model
from protomer.engine.pose_table import PoseTable
from protomer.engine.schedule import Band
from protomer.helical.lattice import Lattice
from protomer.maps.volumes import Volume
from protomer.refinement.asked import read_start
from protomer.refinement.setup import MASK_FRACTION, Setup, State
from protomer.running.events import Events
from protomer.running.job_run import Inputs, JobRun
from protomer.symmetry.point_groups import canonical_name, operators
from protomer.symmetry.start_axes import StartAxes, find_start_axes, on_axes
from protomer_kernels.fourier import low_pass, resample_volume

INVERTED = -0.5  # skewness below which a start volume is warned of: simulated and deposited maps, low-passed to 20 to 60 A, have 2 to 7


def load_start(inputs: Inputs, settings: RefineSettings, setup: Setup, job: JobRun) -> np.ndarray:
    """The start volume in the images' frame, low-passed, in a sphere."""
    volume, box = read_start(inputs.volume), setup.store.plane.box
    if volume.box != box or abs(volume.voxel_size_A / setup.pixel_size_A - 1) >= 1e-3:
        job.events.warn(
            "resampled_start",
            f"the start volume ({volume.box} voxels of {volume.voxel_size_A:.4g} Å) was resampled to {box} voxels of "
            f"{setup.pixel_size_A:.4g} Å",
        )
    if settings.align_to_symmetry and not is_asymmetric(inputs):
        volume = on_axes(volume, start_axes(inputs, settings), job.events)
    data = resampled(volume, box, setup.pixel_size_A)
    radius = box * setup.pixel_size_A / settings.initial_low_pass
    low = low_pass(data, radius, 2.0)
    warn_of_inverted(low, job.events)
    return low * solid_sphere(box, MASK_FRACTION)


def warn_of_inverted(data: np.ndarray, events: Events) -> None:
    """Warn where a low-passed map shows little dark among much bright: density is bright, and takes a small part of a box."""
    centred = data - data.mean(dtype=np.float64)  # scipy.stats would take 45 MB for this
    skewness = float((centred**3).mean() / (centred**2).mean() ** 1.5)
    if skewness < INVERTED:
        events.warn("start_inverted", f"the start volume is dark on bright (skewness {skewness:.1f}; maps of particles have 2 to 7): with "
                    "inverted contrast a refinement ends in a poor map. If it is inverted, give the map that "
                    "`protomer volume --scale -1` makes of it")


def begin(setup: Setup, start: np.ndarray, noise: np.ndarray, settings: RefineSettings, lattice: Lattice | None = None) -> State:
    """The first state: the start volume, with the lattice that it has, for every half and fold, in the images' grey scale."""
    plane = setup.store.plane
    finest = settings.max_alignment_resolution
    limit = plane.radius - 1 if finest is None else int(plane.box * setup.pixel_size_A / finest)
    band = Band.at(plane.box, limit)
    if setup.winding is not None and lattice is not None:
        seen = min(setup.winding.first_shell(lattice, setup.width_A), limit)
        band = replace(band, radius=max(band.radius, seen), first_radius=max(band.radius, seen), least_grid_radius=seen)
    model = Model(dict.fromkeys(setup.keys, start), noise, setup.operators, band.insertion_radius, setup.mates)
    number = len(setup.particles)
    state = State(band, model, PoseTable.empty(number, mode_count(setup.mates)), np.zeros(number, np.int64), setup.particles.scale,
                  lattice=lattice)
    return replace(state, model=calibrate(setup, state)) if settings.rescale_reference else state


def is_asymmetric(inputs: Inputs) -> bool:
    """Whether no group is imposed or relaxed."""
    return len(operators(inputs.symmetry, inputs.axes)) == 1


def start_axes(inputs: Inputs, settings: RefineSettings) -> StartAxes:
    """The group's axes in the start volume."""
    group = operators(inputs.symmetry, inputs.axes)
    return find_start_axes(inputs.volume, canonical_name(inputs.symmetry), group, settings.initial_low_pass)


def resampled(volume: Volume, box: int, pixel_A: float) -> np.ndarray:
    """A volume in the images' box and pixel size."""
    if volume.box == box and abs(volume.voxel_size_A / pixel_A - 1) < 1e-3:
        return volume.data
    return resample_volume(volume.data, volume.voxel_size_A, box, pixel_A)
