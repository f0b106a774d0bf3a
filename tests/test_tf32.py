"""What TF32, in which a device scores grids, does to a search: the poses that climb from what is kept are as good as with float32."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from kernel_oracles import degrees_between
from protomer.computing.arithmetic import CPU, Arithmetic, Images
from protomer.engine.alignment import IDENTITY, Reference, search_globally
from protomer.engine.schedule import GRID_RADII, Band
from protomer.simulation.pose_trial import SHIFT_EXTENT, known_images
from protomer_kernels.grid_scores import best_rotations
from protomer_kernels.half_plane import HalfPlane
from simulated import chain_dataset

BOX, RADIUS, NUMBER = 40, 18, 96


def in_tf32(values: np.ndarray) -> np.ndarray:
    """Rounded to the ten bits of fraction that TF32 keeps, halves away from zero."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


class Tf32(Arithmetic):
    """Grids scored as a device scores them: factors rounded to TF32, products added up in float32."""

    def best_of_grid(self, images: Images, views: Any, ramps: np.ndarray, keep: int) -> tuple[np.ndarray, np.ndarray]:
        """As Arithmetic.best_of_grid."""
        (grid, _, length), (data, amplitude) = views.shape, images
        data, amplitude = data[:, :, :length], amplitude[:, :length]
        moved = ((amplitude * (data[:, 0] + 1j * data[:, 1]))[:, None] * ramps[None]).astype(np.complex64)
        left = in_tf32(np.concatenate([moved.real, moved.imag], axis=2).reshape(-1, 2 * length))
        cross = (left @ in_tf32(views.reshape(grid, 2 * length)).T).reshape(len(data), len(ramps), grid)
        power = in_tf32(np.float32(0.5) * amplitude**2) @ in_tf32(views[:, 0] ** 2 + views[:, 1] ** 2).T
        best = best_rotations(cross.max(axis=1) - power, keep)
        return best, np.take_along_axis(cross.argmax(axis=1), best, axis=1)


def test_rounding_keeps_ten_bits_of_fraction() -> None:
    assert in_tf32(np.array([1.0, 1 + 2**-10, 1 + 2**-12, -3.0], np.float32)).tolist() == [1.0, 1 + 2**-10, 1.0, -3.0]
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    assert 2**-13 < np.abs(in_tf32(values) / values - 1).max() <= 2**-11


def test_searches_with_grids_in_tf32_end_at_poses_as_good_as_in_float32() -> None:
    data, plane = chain_dataset(NUMBER, BOX, 4.0, 0.1, max_shift_A=6.0), HalfPlane(BOX, RADIUS)
    search = replace(Band.at(BOX, RADIUS), radius=RADIUS, iteration=len(GRID_RADII)).search(SHIFT_EXTENT * BOX)
    batch, found, kept = known_images(data, plane, RADIUS, slice(0, NUMBER)), [], []
    for arithmetic in (CPU, Tf32()):
        reference = Reference.prepare(data.volume.data, plane, RADIUS, IDENTITY, search, arithmetic=arithmetic)
        found.append(search_globally(batch, reference, search))
        kept.append(best_of(arithmetic, batch, reference, search.stages[0].keep))
    error = [degrees_between(poses.rotation[:, 0], data.truth.rotation_matrix) for poses in found]
    assert not np.array_equal(*kept)  # the rounding is there
    assert np.median(error[0]) < 4.0 and abs(np.median(error[1]) / np.median(error[0]) - 1.0) < 0.02
    assert (error[1] > 15.0).sum() <= (error[0] > 15.0).sum() + 1
    assert np.mean(degrees_between(found[0].rotation[:, 0], found[1].rotation[:, 0]) < 0.01) > 0.95


def best_of(arithmetic: Arithmetic, batch: Any, reference: Reference, keep: int) -> np.ndarray:
    """Rotations that a grid would keep of each image without shifts."""
    none = np.ones((1, reference.slices.shape[2]), np.complex64)
    return arithmetic.best_of_grid(batch.arrays, reference.slices, none, 8 * keep)[0]
