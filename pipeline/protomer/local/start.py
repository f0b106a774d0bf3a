"""What a local refinement is given: mask, fulcrum, prior and extents; the part and the rest of the half maps; new half-sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from protomer.declarations.local_refine import LocalRefineSettings
from protomer.engine.local_alignment import Local
from protomer.errors import InputError, SettingsError
from protomer.formats.hdf5 import read_map_record
from protomer.maps.finishing import require_mask_values
from protomer.maps.fsc_curves import FscSet
from protomer.maps.resolution import measure_fsc
from protomer.maps.volumes import Halves, MapRecord, Volume
from protomer.refinement.start import resampled
from protomer.running.events import Events
from protomer.subtraction.table import is_subtracted
from protomer.tables.half_sets import draw_halves
from protomer.tables.particles import Particles
from protomer_kernels.fourier import low_pass

EXTENT_SD, ROTATION_EXTENT_DEG, SHIFT_EXTENT_A = 3.0, 20.0, 10.0
SPREAD_DEG = 3.0  # of the first starts about the given pose, without a prior


def mask_in_box(mask: Volume, name: str, box: int, pixel_A: float, events: Events) -> Volume:
    """The mask in the images' box. Raises InputError where it is empty; warns where it was resampled or has no soft edge."""
    require_mask_values(mask, name)
    if float(mask.data.max()) < 0.5:
        raise InputError(f"the mask {name} is empty", "a mask that is 1 around the part to refine", "make one with protomer mask")
    if mask.box != box or abs(mask.voxel_size_A / pixel_A - 1) > 1e-3:
        frames = f"{mask.box} voxels of {mask.voxel_size_A:.4g} Å) was resampled to {box} of {pixel_A:.4g} Å"
        events.warn("resampled_mask", f"the mask ({frames}")
        mask = Volume(np.clip(resampled(mask, box, pixel_A), 0.0, 1.0).astype(np.float32), pixel_A)
    soft = float(np.mean((mask.data > 0.01) & (mask.data < 0.99))) / max(float(np.mean(mask.data >= 0.99)), 1e-9)
    if soft < 0.02:
        events.warn("hard_mask", "the mask has no soft edge: it correlates the half maps by itself; make one with protomer mask, soft_edge")
    return Volume(mask.data, pixel_A)  # headers round the voxel size


def fulcrum_of(settings: LocalRefineSettings, mask: Volume) -> np.ndarray:
    """(3,) x, y, z in pixels from the box centre. Raises SettingsError where it is no point of the box."""
    box = mask.box
    if settings.fulcrum == "box":
        return np.zeros(3)
    if settings.fulcrum == "mask":
        return centre_of_mass_px(mask.data)
    try:
        point = np.array([float(part) for part in settings.fulcrum.split(",")])
    except ValueError:
        point = np.zeros(0)
    if point.shape != (3,) or not np.all((point >= 0) & (point < box)):
        raise SettingsError(f"fulcrum {settings.fulcrum!r}", f"mask, box, or x,y,z in pixels from the corner of a box of {box}",
                            "write fulcrum=32,40,28")
    return np.asarray(point - box // 2)


def centre_of_mass_px(weight: np.ndarray) -> np.ndarray:
    """(3,) x, y, z from the box centre of a map (D, D, D) of no negative values; the box centre where all are 0."""
    axis, total = np.arange(len(weight)) - len(weight) // 2, float(weight.sum(dtype=np.float64))
    moments = [np.tensordot(weight.sum(axis=others, dtype=np.float64), axis, 1) for others in ((0, 1), (0, 2), (1, 2))]
    return np.array(moments) / (total or 1.0)


def local_of(particles: Particles, settings: LocalRefineSettings, mask: Volume) -> Local:
    """Prior, extents and fulcrum in radians and pixels. Raises SettingsError where they contradict."""
    for name in ("rotation", "shift"):
        prior, extent = getattr(settings, f"{name}_prior"), getattr(settings, f"{name}_extent")
        if prior is not None and prior <= 0:
            raise SettingsError(f"{name}_prior {prior:g}", "a standard deviation above 0", f"leave {name}_prior unset for no prior")
        if extent is not None and (extent <= 0 or (prior is not None and extent < prior)):
            raise SettingsError(f"{name}_extent {extent:g}", "an extent above 0 and no smaller than the prior's standard deviation",
                                f"leave {name}_extent unset: 3 standard deviations")
    pixel_A = mask.voxel_size_A
    rotation_deg = _extent(settings.rotation_extent, settings.rotation_prior, ROTATION_EXTENT_DEG)
    shift_A = _extent(settings.shift_extent, settings.shift_prior, SHIFT_EXTENT_A)
    spread = SPREAD_DEG if settings.rotation_prior is None else settings.rotation_prior
    return Local(
        particles.rotation,
        particles.shift_A / pixel_A,
        np.inf if settings.rotation_prior is None else float(np.deg2rad(settings.rotation_prior)),
        np.inf if settings.shift_prior is None else settings.shift_prior / pixel_A,
        np.array([np.deg2rad(rotation_deg), shift_A / pixel_A]),
        fulcrum_of(settings, mask),
        centre_of_mass_px(mask.data),
        (settings.recentre_rotations, settings.recentre_shifts),
        float(np.deg2rad(min(spread, 0.5 * rotation_deg))),
        takes_rest=settings.subtract_on_the_fly,
    )


def _extent(given: float | None, prior: float | None, without: float) -> float:
    return given if given is not None else without if prior is None else EXTENT_SD * prior


def halves_in_frame(record: MapRecord, mask: Volume) -> Halves[Volume]:
    """The given half maps in the mask's box and voxel size."""
    return record.half_maps.map(lambda half: Volume(resampled(half, mask.box, mask.voxel_size_A), mask.voxel_size_A))


def others(paths: Sequence[Path | None]) -> dict[str, MapRecord]:
    """Volumes of other jobs by the names of their folders, or by their whole paths where these are the same."""
    given = [path for path in paths if path is not None]
    names = [path.parent.name for path in given]
    return {name if names.count(name) == 1 else str(path): read_map_record(path) for name, path in zip(names, given, strict=True)}


def in_mask(record: MapRecord, mask: Volume, name: str, seed: int) -> FscSet:
    """FSC of the half maps of another job in the mask."""
    return measure_fsc(halves_in_frame(record, mask), mask, name, seed)


def part_of(record: MapRecord, mask: Volume, initial_low_pass_A: float) -> Halves[np.ndarray]:
    """The first references: each half map, low-passed, in the mask."""
    box, pixel_A = mask.box, mask.voxel_size_A
    return halves_in_frame(record, mask).map(lambda half: low_pass(half.data, box * pixel_A / initial_low_pass_A, 2.0) * mask.data)


def split_anew(particles: Particles, seed: int, events: Events) -> Particles:
    """The particles with half-sets drawn anew, by image; says that this is no longer gold standard.

    Raises InputError for subtracted images, each of which lacks what the map of its old half holds.
    """
    if is_subtracted(particles):
        raise InputError("resplit is on and the images are subtracted", "images from which nothing was taken by half-set",
                         "take what was subtracted back first (protomer subtract --set revert=on), or leave resplit off")
    half = draw_halves(particles, "image", seed, "split anew")
    events.warn("split_anew", f"the half-sets were drawn anew ({int(np.sum(half != particles.half))} of {len(half)} rows changed sides): "
                "the given poses come from the old ones, so this FSC is not gold standard; compare it with that of the old halves")
    return particles.with_columns(half=half)
