"""What can be done to a volume, one operation after the other.

(1) resample: where box x old / new is a whole number, Fourier cropping or padding; else the trigonometric interpolant (fourier.py, eq. 3)
    on the largest even box that is no wider than the old one
(2) low- and high-pass: cosine edges of EDGE_SHELLS centred on the resolution
(3) noise: sigma = add_noise x standard deviation of the main map; half maps get draws of their own, maps made of both halves the mean of
    these, as if the noise had been in the half maps from the start
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from protomer.declarations.volume import VolumeSettings
from protomer.errors import SettingsError
from protomer.maps.rigid_motion import RigidMotion, mirror_volume, move_mask, move_volume
from protomer.maps.volumes import MapRecord, Volume
from protomer.randomness import generator
from protomer_kernels import fourier

EDGE_SHELLS = 2.0
SAME_SIZE = 1e-6  # relative
SMALLEST_BOX = 4
KEYS = {"half_a": 0, "half_b": 1, "map": 2, "sharpened": 3}  # of random draws


@dataclass(frozen=True)
class Operation:
    """One thing that is done. on_map(volume, which map, standard deviation of the main map before); on_mask is None where masks stay.

    keeps_fsc: whether the half maps' correlation in each shell stays what it was. finest_A: no detail finer than this is left.
    """

    name: str
    text: str
    on_map: Callable[[Volume, str, float], Volume]
    on_mask: Callable[[Volume], Volume] | None = None
    keeps_fsc: bool = False
    is_filter: bool = False
    finest_A: float = 0.0


def operations_of(settings: VolumeSettings, box: int, voxel_size_A: float, motion: RigidMotion) -> tuple[list[Operation], list[str]]:
    """The operations that settings ask for, in order, for a map of that box; and what of them has no effect, in words.

    motion: what centre_on_mask, rotate and shift come to. Raises SettingsError for what is impossible.
    """
    found: list[Operation] = []
    idle: list[str] = []
    if settings.resample is not None:
        operation, box, voxel_size_A = _resampling(settings.resample, box, voxel_size_A)
        found.append(operation)
    for name, wanted in (("crop", settings.crop), ("pad", settings.pad)):
        if wanted is not None:
            found.append(_resizing(name, wanted, box))
            box = wanted
    found += _filters(settings, box, voxel_size_A, idle)
    if settings.flip_hand:
        found.append(Operation("flip_hand", "mirrored, z -> -z", lambda volume, *_: mirror_volume(volume), mirror_volume, keeps_fsc=True))
    if motion.angle_deg > 0 or motion.distance_A > 0:
        turned = [f"turned by {motion.angle_deg:.2f}°"] * (motion.angle_deg > 0)
        shifted = [f"moved by {', '.join(f'{s:.2f}' for s in motion.shift_A)} Å"] * (motion.distance_A > 0)
        text = ", then ".join(turned + shifted)
        found.append(Operation("move", text, lambda volume, *_: move_volume(volume, motion), lambda mask: move_mask(mask, motion),
                               keeps_fsc=True))
    found += _grey(settings, box, voxel_size_A, idle)
    return found, idle


def apply_to_map(operations: Sequence[Operation], volume: Volume) -> Volume:
    """All operations on a single map."""
    for operation in operations:
        volume = operation.on_map(volume, "half_a", float(volume.data.std()))
    return volume


def apply_to_mask(operations: Sequence[Operation], mask: Volume) -> Volume:
    """All operations on a mask; those that leave masks alone do nothing."""
    for operation in operations:
        mask = mask if operation.on_mask is None else operation.on_mask(mask)
    return mask


def apply_to_record(operations: Sequence[Operation], record: MapRecord) -> MapRecord:
    """All operations on every volume of a record; its FSC is left as it was."""
    for operation in operations:
        record = _applied(operation, record)
    return record


def _applied(operation: Operation, record: MapRecord) -> MapRecord:
    spread = float(record.map.data.std())
    return record.changed(lambda volume, name: operation.on_map(volume, name, spread), operation.on_mask or (lambda mask: mask))


def _resampling(new_A: float, box: int, old_A: float) -> tuple[Operation, int, float]:
    """Eq. (1), and the box and voxel size that come of it."""
    exact = box * old_A / new_A
    is_whole = abs(exact - round(exact)) < SAME_SIZE * exact
    new_box = round(exact) if is_whole else 2 * int(exact / 2)
    if new_box < SMALLEST_BOX:
        raise SettingsError(f"resample {new_A:g} Å leaves {new_box} voxels of a box of {box * old_A:.4g} Å",
                            f"at least {SMALLEST_BOX} voxels", "choose a smaller voxel size")
    new_A = box * old_A / new_box if is_whole else new_A

    def on_map(volume: Volume, *_: object) -> Volume:
        if not is_whole:
            return Volume(fourier.resample_volume(volume.data, old_A, new_box, new_A).astype(np.float32), new_A)
        change = fourier.crop_volume if new_box <= box else fourier.pad_volume
        return Volume(change(volume.data, new_box).astype(np.float32), new_A)

    def on_mask(mask: Volume) -> Volume:
        step, shape = new_A / old_A, (new_box,) * 3
        data = ndimage.affine_transform(mask.data, np.full(3, step), box // 2 - step * (new_box // 2), shape, order=1, mode="nearest")
        return Volume(np.clip(data, 0, 1).astype(np.float32), new_A)

    text = f"resampled from {box} voxels of {old_A:.4g} Å to {new_box} of {new_A:.4g} Å"
    text += ", which adds no detail" if new_A < old_A * (1 - SAME_SIZE) else ""
    return Operation("resample", text, on_map, on_mask, finest_A=2 * max(old_A, new_A)), new_box, new_A


def _resizing(name: str, wanted: int, box: int) -> Operation:
    """crop or pad."""
    if name == "crop" and wanted > box:
        raise SettingsError(f"crop {wanted} px of a box of {box}", f"at most {box} px", f"use pad={wanted} to make the box larger")
    if name == "pad" and wanted < box:
        raise SettingsError(f"pad {wanted} px of a box of {box}", f"at least {box} px", f"use crop={wanted} to make the box smaller")

    def on_map(volume: Volume, *_: object) -> Volume:
        faces = np.concatenate([volume.data.take(face, axis).ravel() for axis in range(3) for face in (0, -1)])
        return Volume(fourier.resize_field(volume.data, wanted, 3, float(np.median(faces))), volume.voxel_size_A)

    def on_mask(mask: Volume) -> Volume:
        return Volume(fourier.resize_field(mask.data, wanted, 3), mask.voxel_size_A)

    return Operation(name, f"{'cut' if name == 'crop' else 'extended'} from {box} to {wanted} voxels", on_map, on_mask)


def _filters(settings: VolumeSettings, box: int, voxel_size_A: float, idle: list[str]) -> list[Operation]:
    """low_pass, high_pass and b_factor."""
    width_A, nyquist_A, found = box * voxel_size_A, 2 * voxel_size_A, []
    low_A, high_A, b_factor_A2 = settings.low_pass, settings.high_pass, settings.b_factor
    if low_A is not None and low_A < nyquist_A:
        idle.append(f"low_pass {low_A:g} Å is finer than these voxels can show ({nyquist_A:.4g} Å): it changes nothing")
        low_A = None
    for name, value_A in (("low_pass", low_A), ("high_pass", high_A)):
        if value_A is not None and value_A > width_A:
            raise SettingsError(f"{name} {value_A:g} Å in a box of {width_A:.4g} Å", f"at most {width_A:.4g} Å",
                                "choose a finer resolution")
    if high_A is not None and high_A <= max(nyquist_A, low_A or 0.0):
        raise SettingsError(f"high_pass {high_A:g} Å leaves nothing",
                            f"a resolution coarser than {max(nyquist_A, low_A or 0.0):.4g} Å", "high_pass removes what is coarser, "
                            "low_pass what is finer: check that they are not exchanged")
    if low_A is not None:
        shells = width_A / low_A
        found.append(Operation("low_pass", f"low-pass {low_A:g} Å", _on_data(lambda data: fourier.low_pass(data, shells, EDGE_SHELLS)),
                               is_filter=True, finest_A=low_A))
    if high_A is not None:
        from_shell = width_A / high_A
        found.append(Operation("high_pass", f"high-pass {high_A:g} Å",
                               _on_data(lambda data: fourier.high_pass(data, from_shell, EDGE_SHELLS)), is_filter=True))
    if b_factor_A2 is not None:
        found.append(Operation("b_factor", f"B-factor {b_factor_A2:g} Å²",
                               _on_data(lambda data: fourier.apply_b_factor(data, b_factor_A2, voxel_size_A)), is_filter=True))
    return found


def _grey(settings: VolumeSettings, box: int, voxel_size_A: float, idle: list[str]) -> list[Operation]:
    """add_noise, phase_randomise and scale."""
    found: list[Operation] = []
    noise, random_A, factor, seed = settings.add_noise, settings.phase_randomise, settings.scale, settings.seed
    if noise is not None and noise > 0:
        def with_noise(volume: Volume, name: str, spread: float) -> Volume:
            return Volume(volume.data + np.float32(noise * spread) * _noise(name, volume.box, seed), volume.voxel_size_A)

        found.append(Operation("add_noise", f"white noise of {noise:g} times the map's standard deviation", with_noise))
    if random_A is not None and random_A < 2 * voxel_size_A:
        idle.append(f"phase_randomise {random_A:g} Å is finer than these voxels can show ({2 * voxel_size_A:.4g} Å): it changes nothing")
        random_A = None
    if random_A is not None:
        shell = max(1, round(box * voxel_size_A / random_A))

        def with_random_phases(volume: Volume, name: str, _: float) -> Volume:
            draw = generator(seed, KEYS[name], "volume/phases")
            return Volume(fourier.phase_randomise(volume.data, shell, draw), volume.voxel_size_A)

        found.append(Operation("phase_randomise", f"phases random from {random_A:g} Å on", with_random_phases))
    if factor is not None:
        if factor == 0:
            raise SettingsError("scale 0", "a factor other than 0", "leave scale unset to keep grey values")
        found.append(Operation("scale", f"grey values times {factor:g}", _on_data(lambda data: data * np.float32(factor)), keeps_fsc=True))
    return found


def _on_data(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Volume, str, float], Volume]:
    """An operation of arrays as one of maps."""
    return lambda volume, *_: Volume(np.asarray(change(volume.data), np.float32), volume.voxel_size_A)


def _noise(name: str, box: int, seed: int) -> np.ndarray:
    """Eq. (3): standard normal noise of a half map, or the mean of both (box, box, box)."""
    names = (name,) if name in ("half_a", "half_b") else ("half_a", "half_b")
    draws = [generator(seed, KEYS[each], "volume/noise").standard_normal((box,) * 3, dtype=np.float32) for each in names]
    return np.asarray(sum(draws) / np.float32(len(draws)), np.float32)
