"""Fourier transforms of point atoms off the plane of their images: what an image on the Ewald sphere is made of (ewald.py, eq. 2).

(1) F(k, e) = sum_j w_j exp(-2 pi i (k.r_j + e z_j) / N) = sum_q exp(-2 pi i e z_q / N) G_q(k)
(2) G_q(k) = sum_j w_j l_q(z_j) exp(-2 pi i k.r_j / N),   l_q the Lagrange polynomials of the Chebyshev nodes z_q on [-Z, Z]

r = R^T position + offset and z are in pixels, k and e in cycles per box, |z_j| <= Z. (1) interpolates exp(-2 pi i e z / N) as a function of
z, whose error falls faster than any power once there are more nodes than beta = 2 pi |e| Z / N: `layers_needed` takes enough for 1e-6.
G_q is a two-dimensional transform of atoms (atoms.py) whose weights are those of eq. (2).
Sources: barycentric formula with the weights (-1)^q sin((2 q + 1) pi / (2 Q)): Berrut & Trefethen 2004 (SIAM Review 46, 501), eq. 5.3.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from protomer_kernels.atoms import add_atom, image_grid_ft, window_weights
from protomer_kernels.nufft import OVERSAMPLING, WIDTH, window_table


def layers_needed(highest: float, depth: float, box: int) -> int:
    """How many nodes eq. (1) needs for |e| <= highest (cycles per box) and |z| <= depth (pixels)."""
    beta = 2.0 * math.pi * highest * depth / box
    return math.ceil(beta + 4.0 * max(beta, 1.0) ** (1.0 / 3.0) + 4.0)


def chebyshev_nodes(number: int, depth: float) -> np.ndarray:
    """z_q (number,) float64."""
    return depth * np.cos((2.0 * np.arange(number) + 1.0) * math.pi / (2.0 * number))


@numba.njit(cache=True)
def layer_weights(z: float, nodes: np.ndarray, out: np.ndarray) -> None:
    """l_q(z) into `out` (Q,) float64."""
    number, total = len(nodes), 0.0
    for q in range(number):
        if z == nodes[q]:
            out[:] = 0.0
            out[q] = 1.0
            return
        sign = 1.0 if q % 2 == 0 else -1.0
        out[q] = sign * math.sin((2 * q + 1) * math.pi / (2 * number)) / (z - nodes[q])
        total += out[q]
    for q in range(number):
        out[q] /= total


@numba.njit(parallel=True, cache=True)
def spread_layers(positions: np.ndarray, weights: np.ndarray, rotations: np.ndarray, offsets: np.ndarray, table: np.ndarray,
                  nodes: np.ndarray, out: np.ndarray) -> None:
    """Add the layers of one rigid body to `out` (n, Q, 2N, 2N) float32; nodes (Q,) in pixels, the rest as in atoms.spread_images."""
    size = out.shape[2]
    for image in numba.prange(out.shape[0]):
        m = rotations[image]
        along_x, along_y = np.empty(WIDTH, np.float32), np.empty(WIDTH, np.float32)
        share = np.empty(len(nodes))
        for a in range(positions.shape[0]):
            px, py, pz = positions[a, 0], positions[a, 1], positions[a, 2]
            x = (m[0, 0] * px + m[1, 0] * py + m[2, 0] * pz + offsets[image, 0]) * OVERSAMPLING + size // 2
            y = (m[0, 1] * px + m[1, 1] * py + m[2, 1] * pz + offsets[image, 1]) * OVERSAMPLING + size // 2
            left, low = window_weights(table, x, along_x), window_weights(table, y, along_y)
            layer_weights(m[0, 2] * px + m[1, 2] * py + m[2, 2] * pz, nodes, share)
            for q in range(len(nodes)):
                add_atom(out[image, q], left, low, along_x, along_y, np.float32(weights[a] * share[q]))


def layer_fts(positions: np.ndarray, weights: np.ndarray, rotations: np.ndarray, offsets: np.ndarray, nodes: np.ndarray, box: int,
              bfactor_px2: float) -> np.ndarray:
    """G_q of eq. (2) under the envelope of atoms.py, eq. (1), (n, Q, box, box // 2 + 1) complex64; arguments as in `spread_layers`."""
    grid = np.zeros((len(rotations), len(nodes), OVERSAMPLING * box, OVERSAMPLING * box), np.float32)
    spread_layers(positions, weights, rotations, offsets, window_table(), nodes, grid)
    flat = image_grid_ft(grid.reshape(-1, *grid.shape[2:]), bfactor_px2)
    return flat.reshape(len(rotations), len(nodes), *flat.shape[1:])


def off_plane(layers: np.ndarray, nodes: np.ndarray, height: np.ndarray) -> np.ndarray:
    """F(k, e) of eq. (1), (n, box, box // 2 + 1) complex64; height (box, box // 2 + 1) is e in cycles per box."""
    box = layers.shape[2]
    phases = np.exp(-2j * math.pi / box * nodes[:, None, None] * height).astype(np.complex64)
    return np.asarray(np.einsum("nqyx,qyx->nyx", layers, phases))
