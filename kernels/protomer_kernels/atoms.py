"""Fourier transforms of point atoms: images of any number of rigid bodies, and volumes; independent of any sampled map.

(1) F3(k) = e(k) sum_j w_j exp(-2 pi i k.r_j / N),  e(k) = exp(-B |k|^2 / (4 N^2)) for |k| < N/2 and 0 beyond
(2) F2(k) = F3(R (kx, ky, 0)) exp(-2 pi i k.t / N)

r and t in pixels from the centre N//2 of a box of N pixels, k in cycles per box, B in squared pixels. F3 is the plain (unnormalised)
discrete Fourier transform of a volume about its centre, F2 that of its sum along z when it is seen with rotation R and displaced by t;
the unitary image transform is F2/N. Sums (1) and (2) are type-1 non-uniform FFTs (nufft.py): atoms are spread by the window on a grid of
2N, the grid is transformed, and the window is divided out. Relative error about 1e-6.

Each image is spread by one thread in the order of its atoms, so its bits depend on nothing else.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import scipy.fft

from protomer_kernels.nufft import HALF_WIDTH, OVERSAMPLING, TABLE_STEPS, WIDTH, half_plane_frequencies, window_table, window_transform


@numba.njit(cache=True, inline="always")
def window_weights(table: np.ndarray, position: float, out: np.ndarray) -> int:
    """Weights (WIDTH,) float32 of the grid points around `position` (in grid steps); returns the lowest of them."""
    lowest = math.ceil(position - HALF_WIDTH)
    step = (lowest - (position - HALF_WIDTH)) * TABLE_STEPS
    row = min(int(step), TABLE_STEPS - 1)
    above = np.float32(step - row)
    for j in range(WIDTH):
        out[j] = table[row, j] + above * (table[row + 1, j] - table[row, j])
    return lowest


@numba.njit(cache=True, inline="always")
def add_atom(grid: np.ndarray, left: int, low: int, along_x: np.ndarray, along_y: np.ndarray, atom: np.float32) -> None:
    """Add one atom to a periodic grid (2N, 2N) float32: its weight times the window's along both axes, from `left` and `low` on."""
    size = grid.shape[1]
    if left >= 0 and left + WIDTH <= size:
        for j in range(WIDTH):
            row, weight = grid[(low + j) % size], atom * along_y[j]
            for i in range(WIDTH):
                row[left + i] += weight * along_x[i]
    else:
        for j in range(WIDTH):
            for i in range(WIDTH):
                grid[(low + j) % size, (left + i) % size] += atom * along_y[j] * along_x[i]


@numba.njit(parallel=True, cache=True)
def spread_images(positions: np.ndarray, weights: np.ndarray, rotations: np.ndarray, offsets: np.ndarray, table: np.ndarray,
                  out: np.ndarray) -> None:
    """Add the projections of one rigid body to `out` (n, 2N, 2N) float32.

    positions (a, 3) float64 [x, y, z] in pixels from the centre; weights (a,) float32; rotations (n, 3, 3) float64, image to map axes;
    offsets (n, 2) float64 [x, y] in pixels, the displacement in the image; table from `window_table`.
    """
    size = out.shape[1]
    for image in numba.prange(out.shape[0]):
        m, grid = rotations[image], out[image]
        along_x, along_y = np.empty(WIDTH, np.float32), np.empty(WIDTH, np.float32)
        for a in range(positions.shape[0]):
            px, py, pz = positions[a, 0], positions[a, 1], positions[a, 2]
            x = (m[0, 0] * px + m[1, 0] * py + m[2, 0] * pz + offsets[image, 0]) * OVERSAMPLING + size // 2
            y = (m[0, 1] * px + m[1, 1] * py + m[2, 1] * pz + offsets[image, 1]) * OVERSAMPLING + size // 2
            left, low = window_weights(table, x, along_x), window_weights(table, y, along_y)
            add_atom(grid, left, low, along_x, along_y, weights[a])


@numba.njit(cache=True)
def spread_volume(positions: np.ndarray, weights: np.ndarray, table: np.ndarray, out: np.ndarray) -> None:
    """Add atoms to `out` (2N, 2N, 2N) float32 [z, y, x]; arguments as in `spread_images`."""
    size = out.shape[0]
    along = np.empty((3, WIDTH), np.float32)
    lowest = np.empty(3, np.int64)
    for a in range(positions.shape[0]):
        for axis in range(3):
            lowest[axis] = window_weights(table, positions[a, axis] * OVERSAMPLING + size // 2, along[axis])
        for k in range(WIDTH):
            for j in range(WIDTH):
                weight = weights[a] * along[2, k] * along[1, j]
                for i in range(WIDTH):
                    out[(lowest[2] + k) % size, (lowest[1] + j) % size, (lowest[0] + i) % size] += weight * along[0, i]


def envelope(squared_frequency: np.ndarray, box: int, bfactor_px2: float) -> np.ndarray:
    """e(k) of eq. (1), float64, from |k|^2 in (cycles per box)^2."""
    return np.where(squared_frequency < 0.25 * box * box, np.exp(-0.25 * bfactor_px2 * squared_frequency / box**2), 0.0)


def deconvolution(frequencies: np.ndarray, box: int) -> np.ndarray:
    """Factor per axis that divides the window out and moves the origin from grid index `box` to 0; float64."""
    return np.where(frequencies % 2 == 0, 1.0, -1.0) / window_transform(frequencies, box)


def image_grid_ft(grid: np.ndarray, bfactor_px2: float) -> np.ndarray:
    """F2 of eq. (2), (n, N, N // 2 + 1) complex64 in the order of a real FFT, from a grid (n, 2N, 2N) filled by `spread_images`."""
    box = grid.shape[1] // OVERSAMPLING
    ky, kx = half_plane_frequencies(box)
    factor = deconvolution(ky, box)[:, None] * deconvolution(kx, box) * envelope(ky[:, None] ** 2 + kx**2, box, bfactor_px2)
    along_x = scipy.fft.rfft(grid, axis=2)[:, :, : len(kx)]
    return scipy.fft.fft(along_x, axis=1)[:, ky] * factor.astype(np.float32)


def image_fts_of_atoms(positions: np.ndarray, weights: np.ndarray, rotations: np.ndarray, offsets: np.ndarray, box: int,
                       bfactor_px2: float) -> np.ndarray:
    """F2 of eq. (2) for one rigid body, (n, box, box // 2 + 1) complex64 in the order of a real FFT; arguments as in `spread_images`."""
    grid = np.zeros((len(rotations), OVERSAMPLING * box, OVERSAMPLING * box), np.float32)
    spread_images(positions, weights, rotations, offsets, window_table(), grid)
    return image_grid_ft(grid, bfactor_px2)


def volume_ft_of_atoms(positions: np.ndarray, weights: np.ndarray, box: int, bfactor_px2: float) -> np.ndarray:
    """F3 of eq. (1), (box, box, box // 2 + 1) complex64 [z, y, x] in the order of a real FFT; arguments as in `spread_images`."""
    grid = np.zeros((OVERSAMPLING * box,) * 3, np.float32)
    spread_volume(positions, weights, window_table(), grid)
    k, kx = half_plane_frequencies(box)
    # one axis at a time, cropped at once: the doubled grid is the largest array
    transform = scipy.fft.rfft(grid, axis=2)[:, :, : len(kx)] * deconvolution(kx, box).astype(np.float32)
    del grid
    for axis in (1, 0):
        transform = np.take(scipy.fft.fft(transform, axis=axis), k, axis=axis)
    outer = deconvolution(k, box)
    squared = k[:, None, None] ** 2 + k[None, :, None] ** 2 + kx**2
    return transform * (outer[:, None, None] * outer[None, :, None] * envelope(squared, box, bfactor_px2)).astype(np.float32)


def real_images(image_fts: np.ndarray, box: int) -> np.ndarray:
    """Images (n, box, box) float32 [y, x], centred on box // 2, from their plain transforms as `image_fts_of_atoms` gives them."""
    return scipy.fft.fftshift(scipy.fft.irfft2(image_fts, s=(box, box)), axes=(1, 2)).astype(np.float32, copy=False)


def real_volume(volume_ft: np.ndarray, box: int) -> np.ndarray:
    """Volume (box, box, box) float32 [z, y, x], centred on box // 2, from its plain transform as `volume_ft_of_atoms` gives it."""
    return scipy.fft.fftshift(scipy.fft.irfftn(volume_ft, s=(box,) * 3)).astype(np.float32, copy=False)
