"""What a mask starts from: a threshold, a shape, the surroundings of a model, another mask, or the rule."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from protomer.config.job_inputs import Inputs
from protomer.config.setting_values import read_numbers
from protomer.declarations.mask import MaskSettings
from protomer.errors import InputError, SettingsError
from protomer.maps.mask_rule import find_support, rule_low_pass_A
from protomer.maps.volumes import Volume
from protomer.simulation.atom_files import Atoms, placed, read_atoms, require_inside
from protomer_kernels import masks
from protomer_kernels.fourier import low_pass

LEAST_AT_ATOMS = 0.5  # mean density at a model's atoms over that of the box, in standard deviations of the low-passed map


@dataclass(frozen=True)
class Start:
    """voxels (D, D, D) bool; the masks that are still to be combined; in words what was done; the low-pass used, growth still to come."""

    voxels: np.ndarray
    others: list[Volume]
    text: str
    low_pass_A: float | None
    dilate_A: float


def starting_voxels(volume: Volume | None, others: list[Volume], inputs: Inputs, settings: MaskSettings) -> Start:
    """Threshold, shape, model, first mask or rule; then the largest part and the holes. Raises InputError, SettingsError."""
    frame = volume if volume is not None else others[0]
    shape, shape_text = shape_voxels(frame, inputs, settings)
    has_threshold = settings.threshold is not None or settings.threshold_fraction is not None
    by_rule = volume is not None and shape is None and not has_threshold
    low_pass_A, dilate_A = settings.low_pass, settings.dilate or 0.0
    if by_rule and volume is not None:
        support = find_support(volume)
        voxels, low_pass_A = support.voxels, support.low_pass_A
        text = f"by rule: low-pass {low_pass_A:.1f} Å, threshold {support.level:.3g}"
        dilate_A = settings.dilate if settings.dilate is not None else low_pass_A / 3
    elif has_threshold:
        voxels, text = threshold_voxels(volume, settings)
        if shape is not None:
            voxels, text = voxels & shape, f"{text}, inside {shape_text}"
    elif shape is not None:
        voxels, text = shape, shape_text
    else:
        voxels, text, others = others[0].data > 0.5, "the first mask", others[1:]
    if by_rule if settings.largest is None else settings.largest:
        voxels, text = masks.largest_component(voxels), f"{text}, largest part"
    if by_rule if settings.fill_holes is None else settings.fill_holes:
        voxels, text = masks.fill_holes(voxels), f"{text}, holes filled"
    if others:
        text = f"{text}, {settings.combine} {len(others)} more mask{'s' * (len(others) > 1)}"
    return Start(voxels, others, text, low_pass_A, dilate_A)


def shape_voxels(frame: Volume, inputs: Inputs, settings: MaskSettings) -> tuple[np.ndarray | None, str]:
    """The voxels of the sphere, cylinder or model asked for, or None. Raises SettingsError, InputError."""
    asked = [name for name, value in (("sphere", settings.sphere), ("cylinder", settings.cylinder), ("--model", inputs.model)) if value]
    if len(asked) > 1:
        raise SettingsError(f"both {' and '.join(asked)} are set", "one shape at a time", "make two masks and combine them with --mask")
    centre = None
    if settings.centre is not None:
        x, y, z = read_numbers("centre", settings.centre, (3,), "px")
        centre = (z, y, x)
    if settings.sphere is not None:
        return masks.sphere_mask(frame.box, settings.sphere / 2 / frame.voxel_size_A, 0, centre) > 0, f"a sphere of {settings.sphere:g} Å"
    if settings.cylinder is not None:
        diameter_A, height_A = read_numbers("cylinder", settings.cylinder, (2,), "A")
        radius_px, height_px = diameter_A / 2 / frame.voxel_size_A, height_A / frame.voxel_size_A
        return masks.cylinder_mask(frame.box, radius_px, height_px, 0, centre) > 0, f"a cylinder of {diameter_A:g} by {height_A:g} Å"
    if inputs.model is None:
        return None, ""
    atoms = model_atoms(frame, inputs, settings)
    points_px = atoms.positions_A[:, ::-1] / frame.voxel_size_A + frame.box // 2
    chains = "all chains" if settings.model_chains is None else f"chains {settings.model_chains}"
    text = f"{settings.model_radius:g} Å around {len(points_px)} atoms of {inputs.model.name} ({chains}, placed by {settings.model_origin})"
    return masks.near_points(frame.box, points_px, settings.model_radius / frame.voxel_size_A), text


def model_atoms(frame: Volume, inputs: Inputs, settings: MaskSettings) -> Atoms:
    """The model's atoms where they lie in the box. Raises InputError where some lie outside, SettingsError for unknown chains."""
    origin_file = inputs.volume or next((path for path in inputs.mask or () if path is not None), None)
    atoms = placed(read_atoms(inputs.model), settings.model_origin, frame.box, frame.voxel_size_A, origin_file)
    chosen = atoms.of_chains(settings.model_chains)
    require_inside(chosen, settings.model_origin, frame.box, frame.voxel_size_A, inputs.model.name)
    return chosen


def density_at_atoms(volume: Volume, atoms: Atoms) -> float:
    """Mean of the low-passed map at the atoms over that of the box, in standard deviations of the box."""
    shells = volume.box * volume.voxel_size_A / rule_low_pass_A(volume.box, volume.voxel_size_A)
    smooth = low_pass(volume.data, shells, 2)
    z, y, x = np.rint(atoms.positions_A[:, ::-1].T / volume.voxel_size_A).astype(int) + volume.box // 2
    return float((smooth[z, y, x].mean() - smooth.mean()) / max(float(smooth.std()), 1e-30))


def threshold_voxels(volume: Volume | None, settings: MaskSettings) -> tuple[np.ndarray, str]:
    """Density at or above the threshold after the low-pass. Raises InputError, SettingsError."""
    if volume is None:
        raise InputError("a threshold was set but no --volume given", "a volume to threshold", "add --volume, or use only --mask")
    if settings.threshold is not None and settings.threshold_fraction is not None:
        raise SettingsError("both threshold and threshold_fraction are set", "one of them", "unset one")
    data, text = volume.data, ""
    if settings.low_pass is not None:
        data = low_pass(data, volume.box * volume.voxel_size_A / settings.low_pass, 2)
        text = f"low-pass {settings.low_pass:g} Å, "
    level = settings.threshold if settings.threshold is not None else (settings.threshold_fraction or 0.0) * float(data.max())
    return masks.threshold_mask(data, level), f"{text}threshold {level:.4g}"


def combine(voxels: np.ndarray, others: list[Volume], how: str) -> np.ndarray:
    """The voxels and, or, and not those above 0.5 in each of the other masks."""
    for other in others:
        theirs = other.data > 0.5
        voxels = voxels & theirs if how == "and" else voxels | theirs if how == "or" else voxels & ~theirs
    return voxels
