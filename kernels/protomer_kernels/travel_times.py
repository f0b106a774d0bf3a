"""How long it takes to reach every voxel from a point, where each voxel has a slowness of its own.

(1) |grad T| = slowness, T = 0 at the source: the eikonal equation, by upwind differences and sweeps in the eight diagonal directions
    until nothing changes (fast sweeping: Zhao 2005, Math. Comp. 74, 603)
"""

from __future__ import annotations

import numba
import numpy as np

MOST_ROUNDS = 60
TOLERANCE = 1e-3  # of the mean slowness: no voxel changes by more in the last round
NEAR_PX = 2.0  # about the source the slowness is taken as that of the source's voxel


def travel_times(slowness: np.ndarray, source_px: tuple[float, float, float]) -> np.ndarray:
    """Eq. (1): slowness (nz, ny, nx), positive, time per voxel; source (z, y, x), any point of the box. (nz, ny, nx) float64.

    Raises ValueError where a slowness is not positive or the source is outside the box.
    """
    at = np.asarray(source_px, np.float64)
    if not (slowness > 0).all() or not np.isfinite(slowness).all():
        raise ValueError("a slowness is positive and finite")
    if not ((at >= 0) & (at <= np.array(slowness.shape) - 1)).all():
        raise ValueError(f"the source {source_px} is outside a box of {slowness.shape}")
    slow = np.ascontiguousarray(slowness, np.float64)
    out = np.full(slow.shape, np.inf)
    offsets = [np.arange(n) - c for n, c in zip(slow.shape, at, strict=True)]
    distance = np.sqrt(offsets[0][:, None, None] ** 2 + offsets[1][:, None] ** 2 + offsets[2] ** 2)
    near = distance <= NEAR_PX
    own = slow[tuple(np.rint(at).astype(int))]
    out[near] = distance[near] * own
    tolerance = TOLERANCE * float(slow.mean())
    for _ in range(MOST_ROUNDS):
        if _sweep_all_ways(slow, near, out) <= tolerance:
            break
    return out


@numba.njit(cache=True, nogil=True)
def _sweep_all_ways(slow: np.ndarray, fixed: np.ndarray, out: np.ndarray) -> float:
    """One round of eight sweeps; the largest change of any voxel that was reached before."""
    nz, ny, nx = slow.shape
    largest = 0.0
    for way in range(8):
        for a in range(nz):
            z = a if way & 1 == 0 else nz - 1 - a
            for b in range(ny):
                y = b if way & 2 == 0 else ny - 1 - b
                for c in range(nx):
                    x = c if way & 4 == 0 else nx - 1 - c
                    if fixed[z, y, x]:
                        continue
                    new = _upwind(_lower(out[max(z - 1, 0), y, x], out[min(z + 1, nz - 1), y, x]),
                                  _lower(out[z, max(y - 1, 0), x], out[z, min(y + 1, ny - 1), x]),
                                  _lower(out[z, y, max(x - 1, 0)], out[z, y, min(x + 1, nx - 1)]), slow[z, y, x])
                    if new < out[z, y, x]:
                        change = out[z, y, x] - new
                        if change > largest:
                            largest = change
                        out[z, y, x] = new
    return largest


@numba.njit(cache=True, inline="always")
def _lower(a: float, b: float) -> float:
    return a if a < b else b


@numba.njit(cache=True)
def _upwind(a: float, b: float, c: float, slow: float) -> float:
    """The time of a voxel from the earlier of its two neighbours on each axis: the largest root of sum max(T - t_i, 0)^2 = slow^2."""
    if a > b:
        a, b = b, a
    if b > c:
        b, c = c, b
    if a > b:
        a, b = b, a
    if not np.isfinite(a):
        return np.inf
    time = a + slow
    if time <= b:
        return time
    time = 0.5 * (a + b + np.sqrt(max(2.0 * slow * slow - (a - b) ** 2, 0.0)))
    if time <= c:
        return time
    total = a + b + c
    return (total + np.sqrt(max(total * total - 3.0 * (a * a + b * b + c * c - slow * slow), 0.0))) / 3.0
