"""What a refinement is asked, looked at before any image is read: by the run and by --dry-run alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from protomer.declarations.refine import RefineSettings
from protomer.errors import InputError, SettingsError
from protomer.formats.hdf5 import read_any_volume
from protomer.imaging.images import common_frame
from protomer.maps.finishing import require_mask_values
from protomer.maps.volumes import Volume
from protomer.running.job_run import Inputs
from protomer.symmetry.point_groups import operators
from protomer.tables.particles import Particles


def require_possible(particles: Particles, inputs: Inputs, settings: RefineSettings) -> None:
    """Raise InputError for what can be known to fail from the table and the maps alone."""
    in_box(particles, settings.box)
    if inputs.volume is not None:
        read_start(inputs.volume)
    given_mask(inputs, settings)


def asked_group(inputs: Inputs, settings: RefineSettings) -> np.ndarray:
    """The operators of the group. Raises SettingsError for one that does not exist, and for a relaxation without a group."""
    group = operators(inputs.symmetry, inputs.axes)
    if settings.relaxation != "none" and len(group) == 1:
        raise SettingsError(f"relaxation is {settings.relaxation} and the symmetry {inputs.symmetry}", "a group to relax",
                            "give --symmetry, such as C2, or leave relaxation none")
    return group


def in_box(particles: Particles, box: int | None) -> Particles:
    """The particles, Fourier-cropped to a box. Raises InputError where it is larger than theirs."""
    own, _ = common_frame(particles)
    if box is None or box == own:
        return particles
    if box > own:
        raise InputError(f"box is set to {box} px, the images have {own}", f"at most {own}", "leave box unset")
    groups = tuple(replace(g, box=box, pixel_size_A=g.pixel_size_A * own / box) for g in particles.optics_groups)
    return replace(particles, optics_groups=groups)


def read_start(path: Path) -> Volume:
    """The start volume as its file has it. Raises InputError where it shows nothing."""
    volume = read_any_volume(path)
    if not np.isfinite(volume.data).all() or float(volume.data.std()) == 0.0:
        raise InputError(f"the start volume {path} is constant or holds NaN", "a map with density", "give another --volume")
    return volume


def given_mask(inputs: Inputs, settings: RefineSettings) -> Volume | None:
    """The mask for mask_mode static. Raises InputError where mask and mode do not go together, and for what is no mask."""
    if settings.mask_mode == "static" and inputs.mask is None:
        raise InputError("mask_mode is static and no mask was given", "a mask", "give --mask mask.mrc, or leave mask_mode as it is")
    if inputs.mask is None:
        return None
    if settings.mask_mode != "static":
        raise InputError(f"a --mask was given, and mask_mode is {settings.mask_mode}", "a mask with mask_mode static only",
                         "add --set mask_mode=static, or leave --mask out")
    mask = read_any_volume(inputs.mask)
    require_mask_values(mask, inputs.mask.name)
    return mask
