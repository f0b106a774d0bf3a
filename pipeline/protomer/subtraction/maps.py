"""What stays in the images and what is taken from them, each half-set from its own half map.

    rest = F[half map] (1 - mask) support                                                                                      (1)

F multiplies shell s by the half maps' FSC(s), the Wiener weight of a half map (signal over signal and noise: Rosenthal & Henderson 2003),
and by zero from where the FSC first falls below 0.143. What a half map holds outside the support is noise of its own images, and would be
taken from them too. Half-sets share the mask, the support and the weights, and no density.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from protomer.errors import InputError
from protomer.local.start import mask_in_box
from protomer.maps.finishing import require_mask_values
from protomer.maps.fsc_curves import FscSet
from protomer.maps.map_agreement import mean_of
from protomer.maps.mask_rule import support_by_rule
from protomer.maps.volumes import Halves, MapRecord, Volume
from protomer.refinement.start import resampled
from protomer.running.events import Events
from protomer_kernels.fourier import apply_shell_filter

LEAST_REST, SMALL_SHARE = 1e-3, 0.02  # of the density's power
THRESHOLD = 0.143


@dataclass(frozen=True)
class Density:
    """By half-set, in the images' box, (D, D, D) float32: `kept` and `rest` of the half map as it is, and `removed`, eq. (1). weight
    (D // 2 + 1,): F. resolution_A: of the half maps, that of Nyquist where it is not known."""

    kept: Halves[np.ndarray]
    rest: Halves[np.ndarray]
    removed: Halves[np.ndarray]
    mask: Volume
    support_name: str
    weight: np.ndarray
    resolution_A: float
    rest_share: float  # of the power of the density in the support

    @property
    def box(self) -> int:
        """Pixels."""
        return self.mask.box

    @property
    def pixel_A(self) -> float:
        """Å."""
        return self.mask.voxel_size_A


def split_density(record: MapRecord, mask: Volume, support: tuple[Volume, str] | None, box: int, events: Events) -> Density:
    """Eq. (1) in the mask's box, which is the images'. Raises InputError where there is nothing to take; warns of odd masks."""
    pixel_A = mask.voxel_size_A
    if record.map.box != box or abs(record.map.voxel_size_A / pixel_A - 1) > 1e-3:
        events.warn("resampled_volume", f"the half maps ({record.map.box} voxels of {record.map.voxel_size_A:.4g} Å) were resampled to "
                    f"{box} of {pixel_A:.4g} Å")
    given, name = support or _support_by_rule(record, events)
    inside = np.clip(resampled(given, box, pixel_A), 0.0, 1.0).astype(np.float32)
    outside = ((1.0 - np.clip(mask.data, 0.0, 1.0)) * inside).astype(np.float32)
    weight, resolution_A = _shell_weight(record.fsc, box, pixel_A, events)
    halves = record.half_maps.map(lambda half: np.asarray(resampled(half, box, pixel_A), np.float32))
    share = _rest_share(resampled(mean_of(record.half_maps), box, pixel_A), outside, inside, events)
    return Density(halves.map(lambda data: data * mask.data), halves.map(lambda data: data * outside),
                   halves.map(lambda data: apply_shell_filter(data, weight).astype(np.float32) * outside), mask, name, weight,
                   resolution_A, share)


def read_keep_mask(mask: Volume, name: str, box: int, pixel_A: float, events: Events) -> Volume:
    """The mask of what stays in the images' box. Raises InputError where it keeps nothing; warns where it reaches the faces of the box."""
    require_mask_values(mask, name)
    if float(mask.data.max()) < 0.5:
        raise InputError(f"the mask {name} is empty: nothing would stay", "a mask that is 1 around the part that stays",
                         "make one with `protomer mask`")
    if max(mask.data.take(face, axis).max() for axis in range(3) for face in (0, -1)) > 0.5:
        events.warn("mask_touches_box", "the mask reaches the faces of the box and is cut off there")
    return Volume(mask_in_box(mask, name, box, pixel_A, events).data, pixel_A)


def read_support(support: Volume, name: str) -> tuple[Volume, str]:
    """A given support and its name. Raises InputError for values outside 0..1, and where it is empty."""
    require_mask_values(support, name)
    if float(support.data.max()) < 0.5:
        raise InputError(f"the support {name} is empty: nothing would be taken", "a mask that is 1 where there is density",
                         "make one with `protomer mask`, or leave --support out: it is then made by rule")
    return support, name


def _support_by_rule(record: MapRecord, events: Events) -> tuple[Volume, str]:
    made = support_by_rule(record.half_maps)
    if not made.found_density:
        events.warn("no_density", "the rule for the support found no density above the noise: what is taken comes from a sphere and is "
                    "mostly noise; give --support")
    return made.mask, made.name


def _shell_weight(fsc: FscSet | None, box: int, pixel_A: float, events: Events) -> tuple[np.ndarray, float]:
    """F of eq. (1), and the resolution. Raises InputError where the half maps agree nowhere."""
    if fsc is None:
        events.warn("no_fsc", "the volume says no FSC: its half maps are taken to be free of noise up to the pixel size")
        return np.ones(box // 2 + 1), 2 * pixel_A
    resolution_A = fsc.resolution_A_at("corrected", THRESHOLD)
    if not np.isfinite(resolution_A):
        raise InputError("the half maps agree in no shell", "half maps with a resolution", "look at the report of the job that made them")
    per_A, theirs = np.arange(box // 2 + 1) / (box * pixel_A), fsc.shell / (fsc.box * fsc.voxel_size_A)
    weight = np.clip(np.interp(per_A, theirs, fsc.corrected, right=0.0), 0.0, 1.0)
    return np.where(per_A < 1.0 / resolution_A + 1e-9, weight, 0.0), resolution_A


def _rest_share(mean: np.ndarray, outside: np.ndarray, inside: np.ndarray, events: Events) -> float:
    """The share of the density's power that is taken. Raises InputError where it is nothing."""
    total = float(np.square(mean * inside, dtype=np.float64).sum())
    rest = float(np.square(mean * outside, dtype=np.float64).sum()) / max(total, 1e-30)
    if rest < LEAST_REST:
        raise InputError(f"the mask keeps all of the density: {100 * rest:.2g} % of its power lies outside", "a mask around one part",
                         "use the particles as they are, or make a smaller mask")
    if rest < SMALL_SHARE:
        events.warn("mask_keeps_most", f"only {100 * rest:.1f} % of the density's power lies outside the mask: subtraction hardly matters")
    if 1 - rest < SMALL_SHARE:
        events.warn("mask_keeps_little", f"the mask keeps {100 * (1 - rest):.1f} % of the density's power: is it in the frame of the map?")
    return rest
