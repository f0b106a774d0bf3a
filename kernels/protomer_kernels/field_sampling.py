"""Several Fourier-space fields of one volume at any frequency, together: eq. (1) of volume_sampling.py for each of C sampling grids.

The grids lie interleaved, so that a row of the window is one run of WIDTH x C complex numbers. Runs are summed with their weights along z
and y first and folded along x once at the end: the inner loop is a multiply-add over contiguous floats.
"""

from __future__ import annotations

import numba
import numpy as np

from protomer_kernels.atoms import window_weights
from protomer_kernels.nufft import HALF_WIDTH, OVERSAMPLING, WIDTH, window_table

POINTS_AT_ONCE = 256


def interleave(grids: tuple[np.ndarray, ...]) -> np.ndarray:
    """C grids of `sampling_grid` -> (nz, ny, 2 C nx) float32: re and im of each field, then the next kx."""
    together = grids[0] if len(grids) == 1 else np.stack(grids, axis=-1)
    return np.ascontiguousarray(together).view(np.float32).reshape(*together.shape[:2], -1)


@numba.njit(parallel=True, cache=True)
def gather_fields(rows, limit, points, table, out):
    """Fields (C of them) at `points` (K, 3) float64 [x, y, z] in cycles per box, 0 beyond `limit`; rows of `interleave`, out (K, 2 C)."""
    centre, lanes = rows.shape[0] // 2, out.shape[1]
    run = WIDTH * lanes
    for block in numba.prange((points.shape[0] + POINTS_AT_ONCE - 1) // POINTS_AT_ONCE):
        total = np.empty(run, np.float32)
        weight_x, weight_y, weight_z = np.empty(WIDTH, np.float32), np.empty(WIDTH, np.float32), np.empty(WIDTH, np.float32)
        for n in range(block * POINTS_AT_ONCE, min((block + 1) * POINTS_AT_ONCE, points.shape[0])):
            x, y, z = points[n, 0], points[n, 1], points[n, 2]
            out[n, :] = np.float32(0.0)
            if x * x + y * y + z * z > limit * limit:
                continue
            mate = x < 0.0  # real volumes: F(-k) is the conjugate of F(k)
            if mate:
                x, y, z = -x, -y, -z
            left = window_weights(table, x * OVERSAMPLING + HALF_WIDTH, weight_x)
            low = window_weights(table, y * OVERSAMPLING + centre, weight_y)
            back = window_weights(table, z * OVERSAMPLING + centre, weight_z)
            total[:] = np.float32(0.0)
            for k in range(WIDTH):
                for j in range(WIDTH):
                    row = rows[back + k, low + j, left * lanes:left * lanes + run]
                    weight = weight_z[k] * weight_y[j]
                    for m in range(run):
                        total[m] += weight * row[m]
            for i in range(WIDTH):
                for c in range(lanes):
                    out[n, c] += weight_x[i] * total[i * lanes + c]
            if mate:
                for c in range(1, lanes, 2):
                    out[n, c] = -out[n, c]


def sample_fields(rows: np.ndarray, fields: int, limit: int, points: np.ndarray) -> np.ndarray:
    """`fields` transforms at `points` (..., 3) [x, y, z] in cycles per box: (..., fields) complex64; rows of `interleave`."""
    flat = np.ascontiguousarray(points, np.float64).reshape(-1, 3)
    out = np.empty((len(flat), 2 * fields), np.float32)
    gather_fields(rows, limit, flat, window_table(), out)
    return out.view(np.complex64).reshape(*points.shape[:-1], fields)
