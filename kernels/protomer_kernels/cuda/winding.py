"""Maps made helical on a CUDA device: eq. (1) of protomer_kernels/winding.py, one thread for each voxel.

Which copies a plane takes, how much each counts and where along z it is read is worked out on the host in float64, once for all voxels of a
plane; what is left to the threads is to turn a point and to add up splines, always in the same order.
"""

from __future__ import annotations

import numpy as np
from numba import cuda
from numba.extending import register_jitable

from protomer_kernels.gather import ZERO
from protomer_kernels.trigonometry import floor
from protomer_kernels.winding import spline_weights, weight_of_copy

THREADS = 64


@register_jitable
def _row(coefficients, k, j, i, along_x):
    """Of four coefficients of a row, from i - 1 on."""
    near = along_x[0] * coefficients[k, j, i - 1] + along_x[1] * coefficients[k, j, i]
    return near + along_x[2] * coefficients[k, j, i + 1] + along_x[3] * coefficients[k, j, i + 2]


@register_jitable
def _plane(coefficients, k, j, i, along_y, along_x):
    """Of four such rows, from j - 1 on."""
    near = along_y[0] * _row(coefficients, k, j - 1, i, along_x) + along_y[1] * _row(coefficients, k, j, i, along_x)
    far = along_y[2] * _row(coefficients, k, j + 1, i, along_x) + along_y[3] * _row(coefficients, k, j + 2, i, along_x)
    return near + far


@cuda.jit
def winding_kernel(coefficients, copies, radius_px, out):
    """Block (z, y, c) makes the voxels x = c THREADS, c THREADS + 1, ... of one row."""
    first, base, share = copies
    z, y = cuda.blockIdx.x, cuda.blockIdx.y
    x = cuda.blockIdx.z * THREADS + cuda.threadIdx.x
    if x < out.shape[2]:
        centre = out.shape[2] // 2
        dx, dy, total = np.float32(x - centre), np.float32(y - centre), ZERO
        if dx * dx + dy * dy <= radius_px * radius_px:
            for at in range(first[z], first[z + 1]):
                cosine, sine = share[at, 2], share[at, 3]
                u, v = cosine * dx + sine * dy, cosine * dy - sine * dx
                left, lower = floor(u), floor(v)
                along_x, along_y, along_z = spline_weights(u - left), spline_weights(v - lower), spline_weights(share[at, 1])
                i, j, k = np.int32(left) + centre, np.int32(lower) + centre, base[at]
                near = along_z[0] * _plane(coefficients, k - 1, j, i, along_y, along_x)
                near += along_z[1] * _plane(coefficients, k, j, i, along_y, along_x)
                near += along_z[2] * _plane(coefficients, k + 1, j, i, along_y, along_x)
                near += along_z[3] * _plane(coefficients, k + 2, j, i, along_y, along_x)
                total += share[at, 0] * near
        out[z, y, x] = total


def copies_of_planes(
    box: int, lattice: tuple[float, float], window: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the planes of a box, on the host: where those of each begin (D + 1,) int32, the voxel below which each is read (P,) int32, and
    (P, 4) float32: how much it counts, how far above that voxel it is read, cosine and sine of its turn.

    lattice: twist (rad) and rise (px); window: half the central length, edge and radius (px), as in winding.py.
    """
    (twist_rad, rise_px), (half_px, edge_px, _), centre = lattice, window, box // 2
    first, base, share = [0], [], []
    for z in range(box):
        least, most = (np.ceil((z - centre - half_px - edge_px) / rise_px), np.floor((z - centre + half_px + edge_px) / rise_px))
        n = np.arange(int(least), int(most) + 1)
        there = z - centre - n * rise_px
        weight = np.array([weight_of_copy(place, half_px, edge_px) for place in there])
        n, there, weight = n[weight > 0], there[weight > 0], weight[weight > 0]
        below = np.floor(there)
        base.append(below.astype(np.int32) + np.int32(centre))
        share.append(np.stack([weight / weight.sum(), there - below, np.cos(n * twist_rad), np.sin(n * twist_rad)], axis=1))
        first.append(first[-1] + len(n))
    return np.array(first, np.int32), np.concatenate(base), np.concatenate(share).astype(np.float32)


def wind(coefficients, copies, radius_px: float, out) -> None:
    """Eq. (1) on device arrays: spline coefficients (D, D, D) float32 into out (D, D, D) float32; copies of copies_of_planes."""
    box = len(out)
    winding_kernel[(box, box, -(-box // THREADS)), THREADS](coefficients, copies, np.float32(radius_px), out)
