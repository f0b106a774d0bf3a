"""From a map and a reference to a placement, in numbers and words: which detail is compared, in which masks, and what to be told of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from protomer.errors import InputError
from protomer.maps.map_fit import MapPair
from protomer.maps.map_search import Alignment, Limits, align, align_from
from protomer.maps.mask_rule import find_support
from protomer.maps.placement import Placement, place_mask
from protomer.maps.rigid_motion import Frame, RigidMotion, mirror_volume, move_mask
from protomer.maps.volumes import Volume
from protomer.running.events import Events
from protomer.symmetry.self_correlation import MapSpectrum, map_spectrum
from protomer_kernels.fourier import crop_volume

FINEST_VOXELS, FINEST_SHELLS = 3.0, 48.0  # detail compared where none is set: whichever is coarser
SAMPLES = 3.0  # voxels per finest wave at which maps are compared
FEWEST_SHELLS = 3
SMALL_MARGIN, MARGIN_SDS = 0.05, 3.0  # of the score; below either a choice is called undecided
LEAST_LEFT = 1e-4  # of a map's variance, in its mask
SMALL_SCORE = 0.3
LARGEST_LOSS = 0.02  # of the density, to the faces of the box


@dataclass(frozen=True)
class Side:
    """A map to be compared: its name in messages, the map, and the mask to compare it in (None: by rule)."""

    name: str
    map: Volume
    mask: Volume | None


@dataclass(frozen=True)
class Aligned:
    """How one map lies on the reference. alignment is None where it is the reference itself, left as it is."""

    placement: Placement
    alignment: Alignment | None
    finest_A: float  # detail that was offered for comparison


def find_placement(reference: Side, volume: Side, low_pass_A: float | None, limits: Limits,
                   check_stop: Callable[[], None] = lambda: None) -> Aligned:
    """The placement of a map in the reference's frame. Raises InputError where they cannot be compared, or nothing is within the limits."""
    frame, finest_A = Frame.of(reference.map), low_pass_A or default_finest_A(reference.map, volume.map)
    if frame.holds(volume.map) and np.array_equal(volume.map.data, reference.map.data):
        require_density(volume, finest_A)
        return Aligned(Placement(RigidMotion.none(), False, frame), None, finest_A)
    in_one = (reference.mask is None) != (volume.mask is None)  # then whole maps are compared first: a domain alone may fit elsewhere too
    fixed, moving = (spectrum_of(replace(side, mask=None) if in_one else side, finest_A) for side in (reference, volume))
    shells = MapPair(fixed, moving).limit
    if shells < FEWEST_SHELLS:
        raise InputError(f"{volume.name} and the reference share {shells:.1f} shells down to {finest_A:.1f} Å, of the reference's box",
                         f"at least {FEWEST_SHELLS}", "give maps of one particle whose resolutions overlap, or a finer low_pass")
    try:
        found = align(fixed, moving, limits, check_stop)
    except ValueError as error:
        raise InputError(f"{volume.name} has no place on the reference within {limits.angle_deg:g}° and {limits.shift_A:g} Å",
                         "its place within max_angle and max_shift", "raise max_angle or max_shift") from error
    if in_one:
        found = in_one_mask(reference, volume, found, finest_A, limits)
    return Aligned(Placement(found.fit.motion, found.is_mirrored, frame), found, finest_A)


def default_finest_A(reference: Volume, volume: Volume) -> float:
    """The finest detail that is compared where none is set."""
    return max(max(FINEST_VOXELS * each.voxel_size_A, each.box * each.voxel_size_A / FINEST_SHELLS) for each in (reference, volume))


def spectrum_of(side: Side, finest_A: float) -> MapSpectrum:
    """The spectrum of a map in its mask, made from no finer voxels than it needs. Raises InputError."""
    volume, mask = side.map, side.mask
    if mask is not None:
        require_left(side.name, volume, mask)
    wanted = int(np.ceil(SAMPLES * volume.box * volume.voxel_size_A / finest_A))
    box = wanted + (wanted - volume.box) % 2  # odd stays odd, so that the centre stays on a voxel
    if box < volume.box:
        step_A = volume.voxel_size_A * volume.box / box
        volume = Volume(crop_volume(volume.data, box).astype(np.float32), step_A)
        mask = None if mask is None else Volume(np.clip(crop_volume(mask.data, box), 0.0, 1.0).astype(np.float32), step_A)
    try:
        return map_spectrum(volume, finest_A, mask)
    except ValueError as error:
        raise InputError(f"{side.name} cannot be compared: {error}", "a map with density in its mask, and a low_pass within its box",
                         "look at the map and the mask; set low_pass to a finer value for a small box") from error


def require_left(name: str, volume: Volume, mask: Volume) -> None:
    """Raise InputError where a mask leaves nothing of a map."""
    density = volume.data - np.median(volume.data)
    share = float(((density * mask.data) ** 2).sum(dtype=np.float64)) / max(float((density**2).sum(dtype=np.float64)), 1e-30)
    if share < LEAST_LEFT:
        raise InputError(f"{name} cannot be compared: its mask leaves {100 * share:.2g}% of its density", "a mask around density",
                         "give a mask that was made for this map")


def require_density(side: Side, finest_A: float) -> None:
    """Raise InputError for a map that is constant or too small."""
    spectrum_of(side, finest_A)


def in_one_mask(reference: Side, volume: Side, found: Alignment, finest_A: float, limits: Limits) -> Alignment:
    """The alignment fitted again, where one side has a mask and the other none: in that mask, moved to the other by the first fit."""
    motion = found.fit.motion
    if reference.mask is None and volume.mask is not None:
        moved = place_mask(volume.mask, Placement(motion, found.is_mirrored, Frame.of(reference.map)))
        reference = replace(reference, mask=moved)
    elif reference.mask is not None:
        back = move_mask(reference.mask, motion.inverse, Frame.of(volume.map))
        volume = replace(volume, mask=mirror_volume(back) if found.is_mirrored else back)
    return align_from(spectrum_of(reference, finest_A), spectrum_of(volume, finest_A), found, limits)


def warn_of_doubt(name: str, aligned: Aligned, events: Events) -> None:
    """Warn of a map that agrees with the reference hardly, or nearly as well elsewhere or mirrored."""
    found = aligned.alignment
    if found is None:
        return
    if found.fit.score < SMALL_SCORE:
        events.warn("maps_do_not_agree", f"{name} agrees with the reference by {found.fit.score:.2f} only, down to "
                                         f"{found.fit.resolution_A:.1f} Å: its place may be chance; compare coarser detail (low_pass), "
                                         "or what both maps have in common (apply_masks)")
    if found.hand_margin is not None and is_small(found.hand_margin, found):
        events.warn("hand_undecided", f"{name} agrees with the reference by {found.fit.score:.3f}, and in the other hand by "
                                      f"{found.other_hand:.3f}: these maps do not tell its hand; compare finer detail, or set "
                                      "both_hands=false where the hand is known")
    if found.start_margin is not None and is_small(found.start_margin, found):
        events.warn("place_undecided", f"{name} fits the reference nearly as well in another place ({found.fit.score:.3f} and "
                                       f"{found.runner_up:.3f}), which is not its own symmetry: look at it, or "
                                       "bound max_angle")


def is_small(margin: float, found: Alignment) -> bool:
    """Whether a margin decides nothing."""
    return margin < max(SMALL_MARGIN, MARGIN_SDS * found.score_sd / max(found.fit.score, 1e-6))


def warn_of_loss(name: str, volume: Volume, aligned: Aligned, resolution_A: float | None, events: Events) -> None:
    """Warn of a map that leaves the reference's box, or has detail that the reference's voxels cannot hold."""
    placement = aligned.placement
    support = Volume(find_support(volume).voxels.astype(np.float32), volume.voxel_size_A)
    kept = float(place_mask(support, placement).data.sum()) * placement.frame.voxel_size_A**3
    lost = 1.0 - kept / max(float(support.data.sum()) * volume.voxel_size_A**3, 1e-6)
    if lost > LARGEST_LOSS:
        events.warn("map_leaves_box", f"{100 * lost:.0f}% of the density of {name} leaves the reference's box: use one in a larger box")
    if resolution_A is not None and resolution_A < 2 * placement.frame.voxel_size_A:
        events.warn("reference_is_coarse", f"{name} has detail to {resolution_A:.2f} Å, which the reference's voxels of "
                                           f"{placement.frame.voxel_size_A:.3g} Å cannot hold: use a reference of finer voxels")


def verdict(name: str, aligned: Aligned) -> str:
    """The decision in words."""
    found, motion = aligned.alignment, aligned.placement.motion
    if found is None:
        return f"{name} is the reference itself; it was left as it is."
    words = (f"{name} was {'mirrored (z to -z), then ' if found.is_mirrored else ''}turned by {motion.angle_deg:.2f}° and shifted by "
             f"{motion.distance_A:.2f} Å. It agrees with the reference by {found.fit.score:.3f} down to {found.fit.resolution_A:.1f} Å.")
    if found.equals:
        words += (f" {found.equals} other place{'s are' if found.equals > 1 else ' is'} as good: the map has that symmetry of its own. The "
                  "place that turns it least was taken.")
    words += (" The other hand was not tried." if found.other_hand is None else
              f" In the other hand it would agree by {found.other_hand:.3f}.")
    words += (" No other place came near." if found.runner_up is None else
              f" The next best place in this hand reaches {found.runner_up:.3f}.")
    return words


def as_mapping(name: str, folder: str, aligned: Aligned) -> dict[str, Any]:
    """For transformations.yaml: x' = rotation M x + shift_A, M = diag(1, 1, -1) where the hand was flipped, Å from the box centres."""
    found = aligned.alignment
    numbers: dict[str, Any] = {"volume": name, "folder": folder, **aligned.placement.to_mapping()}
    if found is None:
        return numbers | {"is_reference": True}
    margins = {"hand_margin": found.hand_margin, "start_margin": found.start_margin}
    return numbers | {"angle_sd_deg": round(found.fit.angle_sd_deg, 6), "shift_sd_A": round(found.fit.shift_sd_A, 6),
                      "score": round(found.fit.score, 5), "compared_to_A": round(found.fit.resolution_A, 3),
                      "score_of_other_hand": _rounded(found.other_hand), "score_of_next_place": _rounded(found.runner_up),
                      **{key: _rounded(value) for key, value in margins.items()}, "equal_places": found.equals}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 5)


def view_matrix(old: Frame, placement: Placement) -> str:
    """The 12 numbers of ChimeraX's `view matrix models` that put the volume as it was onto the reference (box corners at 0, 0, 0)."""
    old_A, new_A = old.box // 2 * old.voxel_size_A, placement.frame.box // 2 * placement.frame.voxel_size_A
    shift_A = placement.motion.shift_A + new_A - placement.matrix @ np.full(3, old_A)
    return ",".join(f"{value:.7g}" for row, last in zip(placement.matrix, shift_A, strict=True) for value in (*row, last))
