"""What an E-step computes on arrays, where the CPU does it. `cuda_arithmetic.CudaArithmetic` does the same on a device.

Batches, volumes, slices and accumulators live where they are computed on (`here` brings them, `on_host` fetches them); poses, sums and
scores that leave a method are NumPy arrays, in float64, on either.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_limits

from protomer.imaging.packed import Packed
from protomer_kernels import insertion, newton, noise, slices
from protomer_kernels.ctf import CtfParameters, ctf_values
from protomer_kernels.grid_posterior import GridPosterior, grid_posterior
from protomer_kernels.grid_scores import best_rotations, grid_scores
from protomer_kernels.half_plane import HalfPlane, transform_images
from protomer_kernels.libraries import HOST
from protomer_kernels.normal_equations import SUMS

if TYPE_CHECKING:
    from protomer.engine.filaments import GridPrior

Waves = tuple[np.ndarray, np.ndarray, int]  # kx, ky (K,) float32 and the box: HalfPlane.arrays
Images = tuple[Any, Any]  # whitened data (n, 2, K) and amplitude (n, K), float32, where they are computed on


class Arithmetic:
    """On the CPU, by kernels that share so many of its threads; one, unless more are given."""

    backend = "cpu"
    library = HOST  # that has its arrays
    at_once = 1  # how many batches go through each step together
    side_by_side = 1  # how many times so many are under way
    of_transforms = ""  # tells crops that it transforms from those of other arithmetics, in bits

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads

    # Threads stay, always the same ones: a device's libraries keep handles, plans and memory for each thread that they have seen, for good.

    @cached_property
    def bringer(self) -> Executor:
        """The thread that brings what comes next."""
        return ThreadPoolExecutor(1, "images")

    @cached_property
    def readers(self) -> Executor:
        """Threads that read and prepare images for it."""
        return ThreadPoolExecutor(max(1, self.threads), "batches")

    @cached_property
    def workers(self) -> Executor:
        """Threads for what goes on side by side."""
        return ThreadPoolExecutor(self.side_by_side, "side by side")

    def here(self, array: np.ndarray) -> Any:
        """The array where it is computed on."""
        return array

    def on_host(self, array: Any) -> np.ndarray:
        """The array as one of NumPy."""
        return np.asarray(array)

    def transform(self, images: np.ndarray, plane: HalfPlane) -> np.ndarray:
        """Fourier crops (n, K) complex64 of images (n, D, D), on the host."""
        return transform_images(images, plane, self.threads)

    def crops(self, packed: Sequence[Packed]) -> Any:
        """Crops (n, K) complex64 of batches that follow one another, where they are computed on."""
        return packed[0].unpacked() if len(packed) == 1 else np.concatenate([part.unpacked() for part in packed])

    def made_once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What make() gives, which is the same whenever it is asked for by this key."""
        return make()

    def finish(self) -> None:
        """Waits until all that was asked for is done, so that arrays that it used may go."""

    def empty(self, shape: tuple[int, ...]) -> Any:
        """A float32 array that holds anything."""
        return np.empty(shape, np.float32)

    def ctf(self, parameters: CtfParameters, waves: Waves, cycle_per_A: float, added: tuple[np.ndarray, np.ndarray] | None) -> Any:
        """CTFs (n, K) of n images: protomer_kernels.ctf.ctf_values."""
        out = np.empty((len(np.atleast_1d(parameters.defocus_u_A)), len(waves[0])), np.float32)
        ctf_values(parameters, waves[0], waves[1], cycle_per_A, out, added)
        return out

    def whiten(self, crops: Any, transfer: Any, root_weights: np.ndarray, group: np.ndarray) -> Images:
        """Crops (n, >= K) and transfer (n, K) times the root weights (groups, K) of each image's group (n,)."""
        weight, data = root_weights[group], np.empty((len(crops), 2, transfer.shape[1]), np.float32)
        scaled = crops[:, : transfer.shape[1]] * weight
        data[:, 0], data[:, 1] = scaled.real, scaled.imag
        return data, transfer * weight

    def slices(self, volume_ft: Any, rotations: np.ndarray, waves: Waves) -> Any:
        """Slices (S, 2, K) of a transform at rotations (S, 3, 3)."""
        out = np.empty((len(rotations), 2, len(waves[0])), np.float32)
        slices.extract_slices(volume_ft, rotations.astype(np.float32), waves[0], waves[1], out)
        return out

    def scores_of_grid(self, images: Images, views: Any, ramps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores (n, G) of G slices (G, 2, K) at each image's best shift, and which that is: grid_scores."""
        length = views.shape[2]
        return grid_scores(images[0][:, :, :length], images[1][:, :length], views, ramps, self.threads)

    def best_of_grid(self, images: Images, views: Any, ramps: np.ndarray, keep: int) -> tuple[np.ndarray, np.ndarray]:
        """The `keep` best of G slices (G, 2, K) for each image, and its best shift at each: columns (n, keep), shifts (n, keep); K as in
        the slices, shifts as in ramps (S, K)."""
        scores, shifts = self.scores_of_grid(images, views, ramps)
        best = best_rotations(scores, keep)
        return best, np.take_along_axis(shifts, best, axis=1)

    def best_of_windows(
        self, images: Images, views: Any, ramps: np.ndarray, prior: GridPrior, keep: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """As best_of_grid, with the log prior of each image, of rotations where that lets filaments lie."""
        scores = np.full((len(images[0]), len(views)), -np.inf, np.float32)
        shifts = np.zeros(scores.shape, np.int16)
        for part, rows in prior.windows:
            found, shift = self.scores_of_grid((images[0][rows], images[1][rows]), views[part], ramps)
            scores[rows, part] = found + prior.log(part, rows)
            shifts[rows, part] = shift
        best = best_rotations(scores, keep)
        return best, np.take_along_axis(shifts, best, axis=1)

    @property
    def grids_at_once(self) -> int:
        """How many batches `posteriors_of_grid` works on together."""
        return self.threads

    def posteriors_of_grid(
        self, batches: Sequence[Images], views: Any, ramps: np.ndarray, log_priors: tuple[np.ndarray, np.ndarray], shared: float
    ) -> Iterator[GridPosterior]:
        """Posteriors of batches over views (C, G, 2, L), and their sums: grid_posterior, which says what is given. Sums are where they are
        computed on, all else, the images' worth of each rotation too, is on the host."""
        with threadpool_limits(limits=1, user_api="blas"), ThreadPoolExecutor(self.threads) as pool:
            yield from pool.map(lambda own: grid_posterior(own[0], own[1], views, ramps, log_priors[0], log_priors[1], shared), batches)

    def scalar_products(self, data: Any, views: Any) -> tuple[np.ndarray, np.ndarray]:
        """Of images (n, 2, K) with J views of each (n, J, 2, K), both where they are computed on: (n, J) and, of views with one another,
        (n, J, J); on the host."""
        return np.einsum("ndk,njdk->nj", data, views), np.einsum("njdk,nldk->njl", views, views)

    def climb(self, volume_ft: Any, starts: tuple[np.ndarray, np.ndarray, np.ndarray], batch: tuple[Any, Any, np.ndarray], waves: Waves,
              steps: int, bounds: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Climb from S starts (rotations and shifts are changed in place), as newton.climb_poses; the 21 sums at their ends (S, 21)."""
        sums = np.empty((len(starts[0]), SUMS))
        newton.climb_poses(volume_ft, starts, batch, waves, steps, bounds, sums)
        return sums

    def empty_accumulator(self, radius: int) -> Any:
        """An accumulator of zeros (protomer_kernels.insertion)."""
        return insertion.empty_accumulator(radius)

    def insert(self, poses: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], images: Images, waves: Waves, scale: float,
               accumulator: Any, curvature: np.ndarray | None = None) -> None:
        """Insert slices of images: row of the image, rotation, shift (px) and weight of each, as insertion.insert_slices."""
        insertion.insert_slices(poses, images, waves, scale, self.threads, accumulator, curvature)

    def residual_power(self, views: Any, shifts_px: np.ndarray, images: Images, waves: Waves, shell: np.ndarray, shells: int) -> np.ndarray:
        """Residual, shared and model power of each image by shell (n, 3, shells), as noise.residual_power."""
        out = np.empty((len(views), 3, shells))
        noise.residual_power(views, shifts_px, images, waves, shell, out)
        return out


CPU = Arithmetic()
