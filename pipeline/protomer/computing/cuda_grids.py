"""Images scored at the rotations of a grid on a CUDA device: eq. (1) of protomer_kernels/grid_scores.py, its products by cuBLAS in TF32.

Products always have the same shape, whatever number of images there is, so that a library has no reason to add up otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from protomer.computing.arithmetic import Images
from protomer.computing.cuda_memory import CudaMemory
from protomer.computing.device_arrays import seen_by_kernels
from protomer.running.batches import BATCH, WINDOWED
from protomer_kernels.cuda import filament_scores, grid_scores
from protomer_kernels.grid_posterior import DEVICE_SCORES_AT_ONCE, GridPosterior, grid_posterior
from protomer_kernels.grid_scores import DEVICE_TILE_BYTES

if TYPE_CHECKING:
    from protomer.engine.filaments import GridPrior


class CudaGrids(CudaMemory):
    """Grid searches on the current device."""

    def best_of_grid(self, images: Images, views: Any, ramps: np.ndarray, keep: int) -> tuple[np.ndarray, np.ndarray]:
        """As Arithmetic.best_of_grid."""
        keep, number = min(keep, len(views)), len(images[0])
        grid = views, _powers(views)
        columns, best_shifts = np.zeros((number, keep), np.int64), np.zeros((number, keep), np.int16)
        for first in range(0, number, BATCH):
            part = slice(first, first + BATCH)
            found = self._scores_of_block((images[0][part], images[1][part]), grid, ramps)
            columns[part], best_shifts[part] = self._best_of_scores(*found, keep)
        return columns, best_shifts

    def best_of_windows(
        self, images: Images, views: Any, ramps: np.ndarray, prior: GridPrior, keep: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """As Arithmetic.best_of_windows; WINDOWED images at once, of which many share a part of the grid."""
        keep, number, angles = min(keep, len(views)), len(images[0]), self.floats(prior.angles)
        powers = _powers(views)
        columns, best_shifts = np.zeros((number, keep), np.int64), np.zeros((number, keep), np.int16)
        for first in range(0, number, WINDOWED):
            some = slice(first, first + WINDOWED)
            own, (data, amplitude) = prior.take(some), (images[0][some], images[1][some])
            scores = self._xp.full((len(data), len(views)), -np.inf, np.float32)
            shifts, given = self._xp.zeros(scores.shape, np.int16), self.floats(own.given)
            for part, rows in own.windows:
                for begin in range(0, len(rows), BATCH):
                    block = self.here(np.ascontiguousarray(rows[begin : begin + BATCH], np.int64))
                    found = self._scores_of_block((data[block], amplitude[block]), (views[part], powers[part]), ramps)
                    held = *found, (block, part.start), angles, given, own.precision, scores, shifts
                    filament_scores.hold_scores(*seen_by_kernels(held))
            columns[some], best_shifts[some] = self._best_of_scores(scores, shifts, keep)
        return columns, best_shifts

    def _best_of_scores(self, scores: Any, shifts: Any, keep: int) -> tuple[np.ndarray, np.ndarray]:
        """The columns (n, keep) of the best of scores (n, G), and their shifts, on the host."""
        columns, best_shifts = self._xp.zeros((len(scores), keep), np.int64), self._xp.zeros((len(scores), keep), np.int16)
        grid_scores.best_rotations(*seen_by_kernels((scores, shifts, columns, best_shifts)))
        return np.maximum(self.on_host(columns), 0), self.on_host(best_shifts)

    def _scores_of_block(self, images: Images, grid: tuple[Any, Any], ramps: np.ndarray) -> tuple[Any, Any]:
        """Scores (n, G) and best shifts (n, G) of BATCH images at most, to which images of zeros are added; grid: slices and powers."""
        views, powers = grid
        xp, (rotations, _, length), shift_number = self._xp, views.shape, len(ramps)
        number = len(images[0])
        data, amplitude = (xp.zeros((BATCH, *part.shape[1:-1], length), np.float32) for part in images)
        data[:number], amplitude[:number] = images[0][:, :, :length], images[1][:, :length]
        moved = (amplitude * (data[:, 0] + np.complex64(1j) * data[:, 1]))[:, None] * self.here(ramps)[None]
        left = xp.concatenate([moved.real, moved.imag], axis=2).reshape(BATCH * shift_number, 2 * length)
        half_square = np.float32(0.5) * amplitude * amplitude
        scores, shifts = self.empty((number, rotations)), xp.empty((number, rotations), np.int16)
        tile = max(grid_scores.THREADS, DEVICE_TILE_BYTES // (4 * len(left)) // grid_scores.THREADS * grid_scores.THREADS)
        for first in range(0, rotations, tile):
            part = views[first : first + tile]
            power = xp.ascontiguousarray(half_square @ powers[first : first + tile].T)
            cross = xp.ascontiguousarray(left @ part.reshape(len(part), 2 * length).T)
            of_tile = cross[: number * shift_number], power[:number], shift_number, first, scores, shifts
            grid_scores.best_shift(*seen_by_kernels(of_tile))
        return scores, shifts

    @property
    def grids_at_once(self) -> int:
        """One: a device has use for no more."""
        return 1

    def posteriors_of_grid(
        self, batches: Sequence[Images], views: Any, ramps: np.ndarray, log_priors: tuple[np.ndarray, np.ndarray], shared: float
    ) -> Iterator[GridPosterior]:
        """As Arithmetic.posteriors_of_grid, its products by cuBLAS in TF32."""
        moves, of_shifts, of_classes = self.here(ramps), self.here(log_priors[0]), self.here(log_priors[1])
        for data, amplitude in batches:
            found = grid_posterior(data, amplitude, views, moves, of_shifts, of_classes, shared, DEVICE_SCORES_AT_ONCE)
            kept = {name: self.on_host(getattr(found, name)) for name in ("log_evidence", "posterior", "highest", "mass")}
            yield replace(found, **kept)


def _powers(views: Any) -> Any:
    """|S|^2 (G, K) of slices (G, 2, K)."""
    return views[:, 0] ** 2 + views[:, 1] ** 2
