"""What an E-step computes on arrays, on a CUDA device: the methods of arithmetic.Arithmetic by protomer_kernels.cuda and CuPy.

In Numba's simulator (NUMBA_ENABLE_CUDASIM=1) NumPy stands in for CuPy, so that all of it is tested without a device. What leaves the
device is 21 sums for each start, the rotations that a search keeps, powers by shell, and accumulators once for each half and fold.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from protomer.computing.arithmetic import Images, Waves
from protomer.computing.cuda_grids import CudaGrids
from protomer.computing.device_arrays import seen_by_kernels
from protomer_kernels.ctf import CtfParameters, ctf_coefficients
from protomer_kernels.cuda import ctf, insertion, newton, noise, slices, whitening
from protomer_kernels.insertion import accumulator_shape
from protomer_kernels.normal_equations import SUMS


class CudaArithmetic(CudaGrids):
    """On the current CUDA device; its arguments and memory as in CudaMemory, grid searches as in CudaGrids."""

    def __init__(self, needed_bytes: int = 0, batch_bytes: int = 0, threads: int = 1) -> None:
        super().__init__(needed_bytes, batch_bytes, threads)
        self._members: dict[tuple[int, int], tuple[Any, Any]] = {}  # of shells: rows in their order

    def ctf(self, parameters: CtfParameters, waves: Waves, cycle_per_A: float, added: tuple[np.ndarray, np.ndarray] | None) -> Any:
        """As Arithmetic.ctf."""
        quadratic, smooth = ctf_coefficients(parameters, cycle_per_A)
        turns, row = (np.zeros((1, len(waves[0])), np.float32), np.zeros(len(quadratic), np.int64)) if added is None else added
        kx, ky = (self.here(np.rint(k).astype(np.int64)) for k in waves[:2])
        out = self.empty((len(quadratic), len(waves[0])))
        added_here = self.here(turns), self.here(row.astype(np.int64))
        ctf.ctf_values(*seen_by_kernels(((self.here(quadratic), self.here(smooth)), kx, ky, added_here, out)))
        return out

    def whiten(self, crops: Any, transfer: Any, root_weights: np.ndarray, group: np.ndarray) -> Images:
        """As Arithmetic.whiten."""
        data, amplitude = self.empty((len(crops), 2, transfer.shape[1])), self.empty(transfer.shape)
        weights = self.here(root_weights), self.here(group.astype(np.int64))
        whitening.whiten(*seen_by_kernels((crops, transfer, weights, data, amplitude)))
        return data, amplitude

    def slices(self, volume_ft: Any, rotations: np.ndarray, waves: Waves) -> Any:
        """As Arithmetic.slices."""
        kx, ky, _ = self.waves_here(waves)
        out = self.empty((len(rotations), 2, len(waves[0])))
        slices.extract_slices(*seen_by_kernels((volume_ft, self.floats(rotations), kx, ky, out)))
        return out

    def scalar_products(self, data: Any, views: Any) -> tuple[np.ndarray, np.ndarray]:
        """As Arithmetic.scalar_products; by sums and not by products of matrices, which would be in TF32, and whose bits might depend on
        how many images there are."""
        number = views.shape[1]
        own = np.stack([(data * views[:, j]).sum(axis=(1, 2), dtype=np.float64) for j in range(number)], axis=1)
        pairs = {(j, m): (views[:, j] * views[:, m]).sum(axis=(1, 2), dtype=np.float64) for j in range(number) for m in range(j + 1)}
        both = np.stack([pairs[max(j, m), min(j, m)] for j in range(number) for m in range(number)], axis=1)
        return self.on_host(own), self.on_host(both).reshape(-1, number, number)

    def climb(self, volume_ft: Any, starts: tuple[np.ndarray, np.ndarray, np.ndarray], batch: tuple[Any, Any, np.ndarray], waves: Waves,
              steps: int, bounds: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """As Arithmetic.climb."""
        image, rotations, shifts_px = starts
        if len(image) == 0:
            return np.empty((0, SUMS))
        turned, moved, sums = self.floats(rotations), self.floats(shifts_px), self.empty((len(image), SUMS))
        climbable = (batch[0], batch[1], self.floats(batch[2]))
        limits = self.floats(bounds[0]), self.floats(bounds[1])
        at = self.here(np.ascontiguousarray(image, np.int64)), turned, moved
        newton.climb_poses(*seen_by_kernels((volume_ft, at, climbable, self.waves_here(waves), steps, limits, sums)))
        rotations[...], shifts_px[...] = self.on_host(turned), self.on_host(moved)
        return self.on_host(sums).astype(np.float64)

    def empty_accumulator(self, radius: int) -> Any:
        """As Arithmetic.empty_accumulator."""
        return self._xp.zeros(accumulator_shape(radius), np.int64)

    def insert(self, poses: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], images: Images, waves: Waves, scale: float,
               accumulator: Any, curvature: np.ndarray | None = None) -> None:
        """As Arithmetic.insert."""
        image, rotations, shifts_px, weights = poses
        if len(image):
            at = self.here(np.ascontiguousarray(image, np.int64)), *map(self.floats, (rotations, shifts_px, weights))
            forms = None if curvature is None else self.floats(curvature)
            insertion.insert_slices(*seen_by_kernels((at, images, self.waves_here(waves), scale, accumulator, forms)))

    def residual_power(self, views: Any, shifts_px: np.ndarray, images: Images, waves: Waves, shell: np.ndarray, shells: int) -> np.ndarray:
        """As Arithmetic.residual_power."""
        out = self.empty((len(views), 3, shells))
        given = views, self.floats(shifts_px), images, self.waves_here(waves), self.members(shell, shells), out
        noise.residual_power(*seen_by_kernels(given))
        return self.on_host(out).astype(np.float64)

    def members(self, shell: np.ndarray, shells: int) -> tuple[Any, Any]:
        """Which coefficients each shell has (noise.members_of_shells), on the device; rings of one box come in one order, so that their
        number tells them."""
        key = len(shell), shells
        if key not in self._members:
            order, first = noise.members_of_shells(shell, shells)
            self._members[key] = self.here(order), self.here(first)
        return self._members[key]
