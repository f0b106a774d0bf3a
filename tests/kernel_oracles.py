"""What the tests of kernels share: slow float64 NumPy that shares no code with the kernels, and a small map to try them on."""

from __future__ import annotations

import functools
import itertools

import numpy as np
from scipy.spatial.transform import Rotation

from protomer_kernels import insertion, slices
from protomer_kernels.half_plane import HalfPlane

BOX = 20
RADIUS = 8
PLANE = HalfPlane(BOX, RADIUS)
NORMAL_ROW = [(p, q) for p in range(5) for q in range(p + 1)]
BLOBS = ((2.0, -1.0, 1.5, 1.6, 1.0), (-3.0, 1.5, 0.5, 1.4, 0.8), (0.5, 3.0, -2.5, 1.8, 1.2), (1.0, -2.5, -3.0, 1.5, 0.6))


def blob_map(box: int = BOX, blobs: tuple = BLOBS) -> np.ndarray:
    """A handed density of Gaussians (x, y, z from the centre, sigma, height), [z, y, x]."""
    z, y, x = np.meshgrid(*[np.arange(box) - box // 2] * 3, indexing="ij")
    return sum(h * np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / (2 * s * s)) for a, b, c, s, h in blobs).astype(np.float32)


def blob_transform(points: np.ndarray, box: int, blobs: tuple) -> np.ndarray:
    """Unitary transform of the projection of blob_map, from the closed form, at points (..., 3) x, y, z in cycles per box."""
    total = np.zeros(points.shape[:-1], complex)
    for a, b, c, s, h in blobs:
        envelope = np.exp(-2 * np.pi**2 * s * s * (points**2).sum(-1) / box**2)
        total += h * (2 * np.pi) ** 1.5 * s**3 * envelope * np.exp(-2j * np.pi * points @ np.array([a, b, c]) / box)
    return total / box


def random_rotations(number: int, seed: int) -> np.ndarray:
    return Rotation.random(number, random_state=seed).as_matrix()


def oracle_corners(points: np.ndarray, centre: int) -> tuple[np.ndarray, list[tuple[tuple[np.ndarray, ...], np.ndarray]]]:
    """Signs (n,) of the mates taken, and the eight ([z, y, x], weight) of trilinear reading at points (n, 3) in padded voxels."""
    sign = np.where(points[:, 0] < 0, -1.0, 1.0)
    at = points * sign[:, None] + [0, centre, centre]
    low = np.floor(at).astype(int)
    corners = []
    for offset in itertools.product((0, 1), repeat=3):
        weight = np.prod(np.where(offset, at - low, 1 - (at - low)), axis=1)
        corners.append((tuple((low + offset).T[::-1]), weight))
    return sign, corners


def oracle_slice(volume: np.ndarray, rotation: np.ndarray, plane: HalfPlane = PLANE) -> np.ndarray:
    """Complex slice (K,) of a Fourier volume in float64."""
    sign, corners = oracle_corners(2.0 * plane.coordinates @ rotation[:, :2].T, (volume.shape[0] - 1) // 2)
    v = volume[..., 0].astype(float) + 1j * volume[..., 1]
    total = sum(weight * v[index] for index, weight in corners)
    return total.real + 1j * sign * total.imag


def as_pairs(values: np.ndarray) -> np.ndarray:
    """Complex (n, K) to float32 (n, 2, K)."""
    return np.ascontiguousarray(np.stack([values.real, values.imag], axis=1), np.float32)


def extract(volume: np.ndarray, turns: np.ndarray, plane: HalfPlane = PLANE) -> np.ndarray:
    out = np.empty((len(turns), 2, len(plane)), np.float32)
    slices.extract_slices(volume, turns.astype(np.float32), plane.kx, plane.ky, out)
    return out[:, 0] + 1j * out[:, 1].astype(np.float64)


def insert(  # type: ignore[no-untyped-def]
    turns, shifts, weights, data, amplitude, scale, slabs=1, image=None, curvature=None
) -> np.ndarray:
    out = insertion.empty_accumulator(RADIUS)
    image = np.arange(len(turns)) if image is None else image
    insertion.insert_slices((image, turns, shifts, weights), (data, amplitude), PLANE.arrays(len(PLANE)), scale, slabs, out, curvature)
    return out


def turned(step: np.ndarray, turn: np.ndarray) -> np.ndarray:
    return Rotation.from_rotvec(step).as_matrix() @ turn


def degrees_between(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.degrees(Rotation.from_matrix(second @ np.swapaxes(first, -1, -2)).magnitude())


def prediction(model: np.ndarray, amplitude: np.ndarray, turn: np.ndarray, shift: np.ndarray, plane: HalfPlane = PLANE) -> np.ndarray:
    """What the image should be: A V(R k) exp(+2 pi i k.shift / box), in float64."""
    return amplitude.astype(float) * oracle_slice(model, turn, plane) * np.exp(2j * np.pi * plane.coordinates @ shift / plane.box)


def starts(number: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """True rotations and shifts, and starts that are 5 degrees and 1 pixel away from them."""
    rng = np.random.default_rng(seed)
    true_turns, true_shifts = random_rotations(number, seed), rng.uniform(-2, 2, (number, 2))
    axes = rng.standard_normal((number, 3))
    axes *= np.radians(5) / np.linalg.norm(axes, axis=1, keepdims=True)
    angle = rng.uniform(0, 2 * np.pi, number)
    near = np.array([turned(a, t) for a, t in zip(axes, true_turns, strict=True)])
    return true_turns, true_shifts, near, true_shifts + np.stack([np.cos(angle), np.sin(angle)], axis=1)


def whitened(model: np.ndarray, turns: np.ndarray, shifts: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noiseless data (n, 2, K) and amplitudes (n, K) that change sign, as a CTF does."""
    phase = np.random.default_rng(seed).uniform(0, np.pi, (len(turns), 1))
    amplitude = (3.0 * np.sqrt(PLANE.multiplicity) * np.cos(phase + 0.3 * PLANE.shell)).astype(np.float32)
    images = [prediction(model, a, t, s) for a, t, s in zip(amplitude, turns, shifts, strict=True)]
    return as_pairs(np.array(images)), amplitude


@functools.cache
def blob_model() -> np.ndarray:
    """The padded transform of blob_map, for slices up to RADIUS."""
    return slices.transform_volume(blob_map(), RADIUS)
