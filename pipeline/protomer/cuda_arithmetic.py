"""What an E-step computes on arrays, on a CUDA device: the methods of arithmetic.Arithmetic by protomer_kernels.cuda and CuPy.

In Numba's simulator (NUMBA_ENABLE_CUDASIM=1) NumPy stands in for CuPy, so that all of it is tested without a device. What leaves the
device is 21 sums for each start, the rotations that a search keeps, powers by shell, and accumulators once for each half and fold.

Crops that stay the same from one iteration to the next stay on the device, as far as its memory goes; others come anew each time.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from protomer.arithmetic import Arithmetic, Images, Waves
from protomer.cuda_maps import served_library
from protomer.device_arrays import aside, finish, free_bytes, seen_by_kernels, takes_threads
from protomer.errors import InputError
from protomer.imaging.packed import Packed, as_complex
from protomer.running.batches import BATCH, WINDOWED
from protomer.running.footprint import PARTS_ON_DEVICE
from protomer_kernels.ctf import CtfParameters, ctf_coefficients
from protomer_kernels.cuda import ctf, filament_scores, grid_scores, insertion, newton, noise, slices, whitening
from protomer_kernels.grid_posterior import DEVICE_SCORES_AT_ONCE, GridPosterior, grid_posterior
from protomer_kernels.grid_scores import DEVICE_TILE_BYTES
from protomer_kernels.half_plane import HalfPlane
from protomer_kernels.insertion import accumulator_shape
from protomer_kernels.normal_equations import SUMS

if TYPE_CHECKING:
    from protomer.engine.filaments import GridPrior

MADE = 2  # arrays that are kept for the key that they were made for: one for each half
MOST = 0.9  # of the free memory that may be used: libraries take some of it
MOST_BATCHES = 32  # under way: enough for each launch to fill a device many times over


class CudaArithmetic(Arithmetic):
    """On the current CUDA device. needed_bytes: of its memory, for all but images; batch_bytes: for each batch that is there at once;
    threads: of what is left to the host.

    As many batches are under way as half of what is left has room for, in two parts, so that the host does its share of one while the
    device computes for the other; all are launched on one stream. Crops stay in the other half. Raises InputError where not even one batch
    has room.
    """

    backend = "cuda"
    of_transforms = " cuFFT"

    def __init__(self, needed_bytes: int = 0, batch_bytes: int = 0, threads: int = 1) -> None:
        super().__init__(threads)
        self.library, free = served_library(), free_bytes()
        self._xp = self.library.arrays
        left, needed = int(MOST * free) - needed_bytes, needed_bytes + batch_bytes
        if left < batch_bytes:
            raise InputError(f"the CUDA device has {free / 1e9:.2f} GB of memory free", f"{needed / MOST / 1e9:.2f} GB for this run",
                             "take a larger device, end what else runs on it, give `box` a smaller value, or give --backend cpu")
        batches = min(MOST_BATCHES, max(1, left // 2 // max(batch_bytes, 1)))
        self.side_by_side = min(PARTS_ON_DEVICE, batches) if takes_threads() else 1
        self.at_once = batches // self.side_by_side
        self._room = left - self.batches * batch_bytes
        self._kept: dict[tuple[int, int], Any] = {}  # by store and number
        self._made: dict[Hashable, Any] = {}
        self._waves: dict[tuple[int, int], tuple[Any, Any, int]] = {}
        self._members: dict[tuple[int, int], tuple[Any, Any]] = {}

    @property
    def batches(self) -> int:
        """How many batches are under way."""
        return self.at_once * self.side_by_side

    def here(self, array: np.ndarray) -> Any:
        """On the device, in the array's own type."""
        return self._xp.asarray(array)

    def on_host(self, array: Any) -> np.ndarray:
        """As an array of NumPy."""
        return np.asarray(array.get()) if isinstance(array, self._xp.ndarray) else array

    def made_once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Kept on the device, the last few."""
        if key not in self._made:
            self._made[key] = make()
            for oldest in list(self._made)[:-MADE]:
                del self._made[oldest]
        return self._made[key]

    def transform(self, images: np.ndarray, plane: HalfPlane) -> np.ndarray:
        """As Arithmetic.transform, by cuFFT."""
        xp, size = self._xp, images.shape[-1]
        with aside():
            spectrum = xp.fft.rfft2(xp.fft.ifftshift(self.here(images), axes=(1, 2)))
            rows, columns = self.here(plane.coordinates[:, 1] % size), self.here(plane.coordinates[:, 0])
            return self.on_host((spectrum[:, rows, columns] * np.float32(plane.box / size**2)).astype(np.complex64, copy=False))

    def crops(self, packed: Sequence[Packed]) -> Any:
        """As Arithmetic.crops; they stay on the device as far as it has room."""
        with aside():
            parts = [self._unpacked(part) for part in packed]
            return parts[0] if len(parts) == 1 else self._xp.concatenate(parts)

    def _unpacked(self, packed: Packed) -> Any:
        stored = self._kept.get((packed.store, packed.number))
        if stored is None:
            stored = self.here(packed.stored)
            if stored.nbytes > self._room:  # of a store that came before
                for name in [name for name in self._kept if name[0] != packed.store]:
                    self._room += self._kept.pop(name).nbytes
            if stored.nbytes <= self._room:
                self._room -= stored.nbytes
                self._kept[packed.store, packed.number] = stored
        crops = as_complex(stored)
        return crops if packed.shown is None else crops[self.here(packed.shown)]

    def finish(self) -> None:
        """As Arithmetic.finish."""
        finish()

    def empty(self, shape: tuple[int, ...]) -> Any:
        """A float32 array on the device that holds anything."""
        return self._xp.empty(shape, np.float32)

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
        kx, ky, _ = self._waves_here(waves)
        out = self.empty((len(rotations), 2, len(waves[0])))
        slices.extract_slices(*seen_by_kernels((volume_ft, self._floats(rotations), kx, ky, out)))
        return out

    def best_of_grid(self, images: Images, views: Any, ramps: np.ndarray, keep: int) -> tuple[np.ndarray, np.ndarray]:
        """As Arithmetic.best_of_grid: eq. (1) of protomer_kernels/grid_scores.py, its products by cuBLAS in TF32.

        Products always have the same shape, whatever number of images there is, so that a library has no reason to add up otherwise.
        """
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
        keep, number, angles = min(keep, len(views)), len(images[0]), self._floats(prior.angles)
        powers = _powers(views)
        columns, best_shifts = np.zeros((number, keep), np.int64), np.zeros((number, keep), np.int16)
        for first in range(0, number, WINDOWED):
            some = slice(first, first + WINDOWED)
            own, (data, amplitude) = prior.take(some), (images[0][some], images[1][some])
            scores = self._xp.full((len(data), len(views)), -np.inf, np.float32)
            shifts, given = self._xp.zeros(scores.shape, np.int16), self._floats(own.given)
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
        turned, moved, sums = self._floats(rotations), self._floats(shifts_px), self.empty((len(image), SUMS))
        climbable = (batch[0], batch[1], self._floats(batch[2]))
        limits = self._floats(bounds[0]), self._floats(bounds[1])
        at = self.here(np.ascontiguousarray(image, np.int64)), turned, moved
        newton.climb_poses(*seen_by_kernels((volume_ft, at, climbable, self._waves_here(waves), steps, limits, sums)))
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
            at = self.here(np.ascontiguousarray(image, np.int64)), *map(self._floats, (rotations, shifts_px, weights))
            forms = None if curvature is None else self._floats(curvature)
            insertion.insert_slices(*seen_by_kernels((at, images, self._waves_here(waves), scale, accumulator, forms)))

    def residual_power(self, views: Any, shifts_px: np.ndarray, images: Images, waves: Waves, shell: np.ndarray, shells: int) -> np.ndarray:
        """As Arithmetic.residual_power."""
        key = len(shell), shells
        if key not in self._members:
            order, first = noise.members_of_shells(shell, shells)
            self._members[key] = self.here(order), self.here(first)
        out = self.empty((len(views), 3, shells))
        given = views, self._floats(shifts_px), images, self._waves_here(waves), self._members[key], out
        noise.residual_power(*seen_by_kernels(given))
        return self.on_host(out).astype(np.float64)

    def _floats(self, array: np.ndarray) -> Any:
        """A float32 copy on the device."""
        return self._xp.array(array, np.float32)

    def _waves_here(self, waves: Waves) -> tuple[Any, Any, int]:
        """kx and ky on the device; rings of one box come in one order, so that their number tells them."""
        key = waves[2], len(waves[0])
        if key not in self._waves:
            self._waves[key] = self.here(waves[0]), self.here(waves[1]), waves[2]
        return self._waves[key]


def _powers(views: Any) -> Any:
    """|S|^2 (G, K) of slices (G, 2, K)."""
    return views[:, 0] ** 2 + views[:, 1] ** 2
