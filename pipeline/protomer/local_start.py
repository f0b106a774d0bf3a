"""What a local refinement starts from: given poses, half maps in the mask, prior, extents and fulcrum; and whether they fit the images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from protomer.alignment import MODES
from protomer.declarations.local_refine import LocalRefineSettings
from protomer.errors import InputError, SettingsError
from protomer.events import Events
from protomer.expectation import PoseTable, residual_sums
from protomer.finishing import require_mask_values
from protomer.images import contrast_transfer, whiten
from protomer.local_alignment import Local
from protomer.particles import Particles
from protomer.refinement_setup import Setup, State
from protomer.refinement_start import resampled
from protomer.volumes import Halves, MapRecord, Volume
from protomer_kernels.fourier import low_pass
from protomer_kernels.rotations import matrices_from_quaternions, quaternions_from_matrices
from protomer_kernels.slices import transform_volume

EXTENT_SD, ROTATION_EXTENT_DEG, SHIFT_EXTENT_A = 3.0, 20.0, 10.0
SPREAD_DEG = 3.0  # of the first starts about the given pose, without a prior
LEAST_FIT_SIGMAS = 5.0  # of the first batches' agreement with the map


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
    return mask


def fulcrum_of(settings: LocalRefineSettings, mask: Volume) -> np.ndarray:
    """(3,) x, y, z in pixels from the box centre. Raises SettingsError where it is no point of the box."""
    box = mask.box
    if settings.fulcrum == "box":
        return np.zeros(3)
    if settings.fulcrum == "mask":
        axis = np.arange(box) - box // 2
        weight = mask.data.astype(np.float64)
        return np.array([np.tensordot(weight.sum(axis=others), axis, 1) for others in ((0, 1), (0, 2), (1, 2))]) / weight.sum()
    try:
        point = np.array([float(part) for part in settings.fulcrum.split(",")])
    except ValueError:
        point = np.zeros(0)
    if point.shape != (3,) or not np.all((point >= 0) & (point < box)):
        raise SettingsError(f"fulcrum {settings.fulcrum!r}", f"mask, box, or x,y,z in pixels from the corner of a box of {box}",
                            "write fulcrum=32,40,28")
    return np.asarray(point - box // 2)


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
        (settings.recentre_rotations, settings.recentre_shifts),
        float(np.deg2rad(min(spread, 0.5 * rotation_deg))),
    )


def _extent(given: float | None, prior: float | None, without: float) -> float:
    return given if given is not None else without if prior is None else EXTENT_SD * prior


def part_of(record: MapRecord, mask: Volume, initial_low_pass_A: float) -> Halves[np.ndarray]:
    """The first references: each half map, low-passed, in the mask."""
    box, pixel_A = mask.box, mask.voxel_size_A
    return record.half_maps.map(lambda half: low_pass(resampled(half, box, pixel_A), box * pixel_A / initial_low_pass_A, 2.0) * mask.data)


def rest_of(record: MapRecord, mask: Volume, radius: int, threads: int) -> tuple[np.ndarray, np.ndarray]:
    """By half, the transform of its own map outside the mask, low-passed where the half maps agree."""
    box, pixel_A = mask.box, mask.voxel_size_A
    finest_A = record.fsc.resolution_A_at("corrected") if record.fsc is not None else np.inf
    shells = box * pixel_A / finest_A if np.isfinite(finest_A) else radius
    outside = record.half_maps.map(lambda half: low_pass(resampled(half, box, pixel_A), min(shells, radius), 2.0) * (1.0 - mask.data))
    a, b = outside.map(lambda data: transform_volume(data.astype(np.float32), radius, workers=threads))
    return a, b


def given_poses(particles: Particles, pixel_A: float) -> PoseTable:
    """The particles' own poses as the first mode of each."""
    number = len(particles)
    table = PoseTable.empty(number, MODES)
    rotation, shift, weight = np.tile(particles.rotation[:, None], (1, MODES, 1)), table.shift_px.copy(), table.weight.copy()
    rotation = quaternions_from_matrices(matrices_from_quaternions(rotation).reshape(-1, 3, 3)).reshape(number, MODES, 4)
    shift[:], weight[:, 0] = particles.shift_A[:, None] / pixel_A, 1.0
    return replace(table, rotation=rotation, shift_px=shift, weight=weight, log_likelihood=np.zeros(number))


def start_fits(setup: Setup, state: State, record: MapRecord) -> float:
    """By how many standard deviations the first batch of each half agrees better with the whole map of its half at the given poses than at
    one another's. Raises InputError where it hardly does: the poses are not this map's."""
    plane, groups = setup.store.plane, state.model.noise.shape[0]
    whole = record.half_maps.map(lambda half: resampled(half, plane.box, setup.pixel_size_A))
    model = replace(state.model, maps={key: whole[key[0]] for key in setup.keys}, fulcrum_px=np.zeros(3))
    search, length = state.band.search(setup.shift_extent_px), plane.prefix(model.insertion_radius)
    firsts = [next(n for n, batch in enumerate(setup.batches) if batch.key[0] == half) for half in (0, 1)]
    own = []
    for number in (n for n in firsts if n in setup.numbers):
        rows = setup.batches[number].rows
        transfer = contrast_transfer(setup.particles, rows, plane, length, setup.pixel_size_A)
        batch = whiten(setup.store.load(number), transfer, model.root_weight(plane, length)[setup.particles.optics[rows]])
        reference = model.reference(setup.batches[number].key, plane, search, setup.threads)
        sums = [residual_sums(batch, state.poses.take(poses), reference, setup.particles.optics[rows], groups, model.noise.shape[1])
                for poses in (rows, np.roll(rows, len(rows) // 2))]
        given, others = (s[:, 1:, 1 : state.band.radius].sum(axis=(0, 2)) for s in sums)
        own.append([given[0] - others[0], given[1] + others[1]])
    better, variance = setup.team.gather_rows(np.array(own).reshape(-1, 2)).sum(axis=0)
    sigmas = float(better / np.sqrt(max(variance, 1e-30)))
    if sigmas < LEAST_FIT_SIGMAS:
        raise InputError(f"the images do not agree with the map at the given poses better than at one another's ({sigmas:.1f} standard "
                         "deviations)", "the map that these poses made, in the same frame",
                         "give the volume.h5 of the job that the particles come from")
    return sigmas
