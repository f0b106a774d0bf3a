"""Fourier crop and pad, resampling, radial filters and phase randomisation of real images and volumes.

The centre of a box of N pixels is index N // 2 and stays at the centre of the new box, odd or even. Grey values are preserved: a
transform that is not normalised is multiplied by (new box / old box)^dimensions. Where a box is even its highest frequency stands for
both +N/2 and -N/2: padding splits it evenly, cropping adds the two, so that cropping what was padded gives back the same array.

(1) B-factor: F -> F exp(-B s^2 / 4), s in 1/angstrom.
(2) Phase randomisation: |F| kept, the phase replaced by a uniform one: Chen et al. (2013), Ultramicroscopy 135, 24.
(3) Band-limited interpolation by the Dirichlet kernel, separable in the axes: the periodic trigonometric interpolant of the samples.
"""

from __future__ import annotations

import numpy as np
from scipy import fft

from protomer_kernels.libraries import library_of
from protomer_kernels.shells import half_radius, spread_over_half_grid


def crop_images(images: np.ndarray, box: int) -> np.ndarray:
    """Fourier-crop images (..., D, D) to (..., box, box), box <= D: the same field of view in fewer, larger pixels."""
    _require(box <= images.shape[-1], f"cannot crop a box of {images.shape[-1]} to {box}")
    return _resized(images, box, 2)


def pad_images(images: np.ndarray, box: int) -> np.ndarray:
    """Fourier-pad images (..., D, D) to (..., box, box), box >= D: the same field of view in more, smaller pixels."""
    _require(box >= images.shape[-1], f"cannot pad a box of {images.shape[-1]} to {box}")
    return _resized(images, box, 2)


def crop_volume(volume: np.ndarray, box: int) -> np.ndarray:
    """Fourier-crop a volume (D, D, D) to (box, box, box), box <= D: the same extent in fewer, larger voxels."""
    _require(box <= volume.shape[-1], f"cannot crop a box of {volume.shape[-1]} to {box}")
    return _resized(volume, box, 3)


def pad_volume(volume: np.ndarray, box: int) -> np.ndarray:
    """Fourier-pad a volume (D, D, D) to (box, box, box), box >= D: the same extent in more, smaller voxels."""
    _require(box >= volume.shape[-1], f"cannot pad a box of {volume.shape[-1]} to {box}")
    return _resized(volume, box, 3)


def resize_field(array: np.ndarray, box: int, ndim: int, fill: float = 0.0) -> np.ndarray:
    """Cut or extend the last `ndim` axes about their centres to `box` pixels of the same size; what is new gets `fill`."""
    old = array.shape[-1]
    start = old // 2 - box // 2  # where the new box begins in the old one; negative where it is larger
    source = slice(max(start, 0), min(start + box, old))
    target = slice(max(-start, 0), max(-start, 0) + source.stop - source.start)
    out = np.full(array.shape[: array.ndim - ndim] + (box,) * ndim, fill, array.dtype)
    every = (slice(None),) * (array.ndim - ndim)
    out[every + (target,) * ndim] = array[every + (source,) * ndim]
    return out


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _resized(array: np.ndarray, box: int, ndim: int) -> np.ndarray:
    """Crop or pad the last `ndim` axes in Fourier space."""
    old = array.shape[-1]
    if box == old:
        return array.copy()
    axes = tuple(range(array.ndim - ndim, array.ndim))
    fft = library_of(array).fft
    spectrum = fft.rfftn(fft.ifftshift(array, axes), axes=axes)
    for axis in axes[:-1]:
        spectrum = _resized_axis(spectrum, old, box, axis)
    spectrum = _resized_last(spectrum, old, box)
    spectrum *= np.array((box / old) ** ndim, spectrum.real.dtype)
    return fft.fftshift(fft.irfftn(spectrum, (box,) * ndim, axes=axes), axes)


def _resized_axis(spectrum: np.ndarray, old: int, new: int, axis: int) -> np.ndarray:
    """One full axis of a transform (zero frequency first) resized from `old` to `new` frequencies."""
    source = np.moveaxis(spectrum, axis, 0)
    out = library_of(source).arrays.zeros((new, *source.shape[1:]), source.dtype)
    small = min(old, new)
    positive = (small + 1) // 2  # frequencies 0 .. positive - 1; as many negative ones less one; the highest of an even box is left
    out[:positive] = source[:positive]
    if positive > 1:
        out[1 - positive:] = source[1 - positive:]
    if small % 2 == 0:
        half = small // 2
        if new < old:
            out[half] = source[half] + source[old - half]
        else:
            out[half] = out[new - half] = 0.5 * source[half]
    return np.moveaxis(out, 0, axis)


def _resized_last(spectrum: np.ndarray, old: int, new: int) -> np.ndarray:
    """The half axis of a real transform resized from boxes of `old` to `new` pixels."""
    small = min(old, new)
    out = library_of(spectrum).arrays.zeros((*spectrum.shape[:-1], new // 2 + 1), spectrum.dtype)
    out[..., : small // 2 + 1] = spectrum[..., : small // 2 + 1]
    if small % 2 == 0:
        out[..., small // 2] *= 2.0 if new < old else 0.5
    return out


def low_pass(volume: np.ndarray, radius_shells: float, edge_shells: float) -> np.ndarray:
    """Keep frequencies of an image or volume (D, ...) below `radius_shells` (cycles per box); a cosine edge is centred on it."""
    radius = half_radius(volume.shape[-1], volume.ndim, library_of(volume))
    return filter_half_grid(volume, _cosine_step(radius, radius_shells, edge_shells))


def high_pass(volume: np.ndarray, radius_shells: float, edge_shells: float) -> np.ndarray:
    """Keep frequencies above `radius_shells`: 1 minus the filter of `low_pass`."""
    radius = half_radius(volume.shape[-1], volume.ndim, library_of(volume))
    return filter_half_grid(volume, 1 - _cosine_step(radius, radius_shells, edge_shells))


def apply_shell_filter(volume: np.ndarray, per_shell: np.ndarray) -> np.ndarray:
    """Multiply the transform of an image or volume (D, ...) by per-shell values (D // 2 + 1,), linear between shells, 0 in the corners."""
    return filter_half_grid(volume, spread_over_half_grid(per_shell, volume.shape[-1], volume.ndim, library_of(volume)))


def shift_volume(volume: np.ndarray, shift_px: np.ndarray) -> np.ndarray:
    """A volume (D, D, D) [z, y, x] moved by (x, y, z) voxels, round the edges of its box, by its transform's phases; the dtype is kept."""
    library, box = library_of(volume), volume.shape[-1]
    spectrum, frequencies = library.fft.rfftn(volume), (fft.fftfreq(box), fft.fftfreq(box), fft.rfftfreq(box))
    for axis, (frequency, by) in enumerate(zip(frequencies, shift_px[::-1], strict=True)):
        phase = np.exp(-2j * np.pi * frequency * by).astype(spectrum.dtype)
        spectrum *= library.arrays.asarray(phase).reshape([-1 if i == axis else 1 for i in range(3)])
    moved: np.ndarray = library.fft.irfftn(spectrum, volume.shape, overwrite_x=True)
    return moved


def apply_b_factor(volume: np.ndarray, b_factor_A2: float, voxel_size_A: float) -> np.ndarray:
    """Equation (1): a positive B-factor (angstrom^2) blurs, a negative one sharpens."""
    box = volume.shape[-1]
    s = half_radius(box, volume.ndim).astype(np.float64) / (box * voxel_size_A)
    return filter_half_grid(volume, np.exp(-b_factor_A2 / 4 * s * s).astype(np.float32))


def filter_half_grid(volume: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Multiply the half transform of a real image or volume (D, ...) by real weights (D, ..., D // 2 + 1); the dtype is kept."""
    fft = library_of(volume).fft
    spectrum = fft.rfftn(volume)
    spectrum *= weight.astype(spectrum.real.dtype, copy=False)
    return fft.irfftn(spectrum, volume.shape, overwrite_x=True)


def _cosine_step(radius: np.ndarray, middle: float, width: float) -> np.ndarray:
    """1 below, 0 above, half a cosine `width` wide centred on `middle`; a width of 0 is a hard step that keeps `middle` itself."""
    if width <= 0:
        return (radius <= middle).astype(np.float32)
    phase = np.clip((radius - (middle - width / 2)) / width, 0, 1)
    return (0.5 + 0.5 * np.cos(np.pi * phase)).astype(np.float32)


def phase_randomise(volume: np.ndarray, from_shell: int, generator: np.random.Generator) -> np.ndarray:
    """Equation (2) for all coefficients of a real volume (D, D, D) with |k| >= from_shell - 0.5, the corners too; the dtype is kept.

    The phases are those of white noise: uniform, and Hermitian by construction, so that every amplitude is kept exactly.
    """
    noise = library_of(volume).arrays.asarray(generator.standard_normal(volume.shape, dtype=np.float32))
    return with_phases(volume, from_shell, phases_of(noise))


def phases_of(noise: np.ndarray) -> np.ndarray:
    """The phases of a real volume (D, D, D): its half transform, complex64, with amplitudes of one."""
    noise_ft: np.ndarray = library_of(noise).fft.rfftn(noise)
    return noise_ft / np.maximum(np.abs(noise_ft), np.float32(1e-30))


def with_phases(volume: np.ndarray, from_shell: int, phases: np.ndarray) -> np.ndarray:
    """Equation (2) with these phases, (D, D, D // 2 + 1) complex64 of amplitude one."""
    library = library_of(volume)
    spectrum = library.fft.rfftn(volume)
    kept = half_radius(volume.shape[-1], volume.ndim, library) < from_shell - 0.5
    spectrum = np.where(kept, spectrum, np.abs(spectrum) * phases)
    changed: np.ndarray = library.fft.irfftn(spectrum, volume.shape)
    return changed.astype(volume.dtype, copy=False)


def resample_volume(volume: np.ndarray, voxel_size_A: float, box: int, new_voxel_size_A: float) -> np.ndarray:
    """Equation (3): a cubic volume evaluated on another box and voxel size, centre on centre, any ratio, grey values kept.

    Frequencies beyond the coarser of the two Nyquist limits are left out. What lies outside the old box is zero. The dtype is kept.
    """
    kernel = _dirichlet_kernel(volume.shape[0], voxel_size_A, box, new_voxel_size_A).astype(volume.dtype)
    out = volume
    for _ in range(3):  # each product turns the axes by one, so that three bring them back
        out = np.tensordot(out, kernel, axes=(0, 1))
    return np.ascontiguousarray(out)


def _dirichlet_kernel(old_box: int, old_size: float, new_box: int, new_size: float) -> np.ndarray:
    """(new_box, old_box) float64 weights of equation (3) along one axis."""
    position = (np.arange(new_box) - new_box // 2) * (new_size / old_size)  # in old voxels from the centre
    distance = position[:, None] - (np.arange(old_box) - old_box // 2)[None, :]
    limit = old_box / 2 * min(1.0, old_size / new_size)  # cycles per old box
    frequency = np.arange(1, int(np.floor(limit + 1e-9)) + 1)
    weight = np.where(2 * frequency == old_box, 1.0, 2.0)  # the highest frequency of an even box has no separate mate
    kernel = np.ones_like(distance)
    for k, w in zip(frequency, weight, strict=True):
        kernel += w * np.cos(2 * np.pi * k / old_box * distance)
    inside = np.abs(position) <= old_box / 2
    return kernel * inside[:, None] / old_box
