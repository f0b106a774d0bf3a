"""Several fields at once against each by itself."""

from __future__ import annotations

import numpy as np

from protomer_kernels.field_sampling import interleave, sample_fields
from protomer_kernels.volume_sampling import sample_volume_ft, sampling_grid


def test_fields_sampled_together_are_those_sampled_alone() -> None:
    random = np.random.default_rng(0)
    volumes = random.standard_normal((3, 20, 20, 20)).astype(np.float32)
    points = random.uniform(-9.5, 9.5, (5, 130, 3))  # some beyond the limit, more than one block
    grids = tuple(sampling_grid(volume, 9) for volume in volumes)
    together = sample_fields(interleave(grids), 3, 9, points)
    for c in range(3):
        alone = sample_volume_ft(grids[c], 9, points)
        np.testing.assert_allclose(together[..., c], alone, atol=2e-4 * np.abs(alone).max())
    assert (together[np.linalg.norm(points, axis=-1) > 9] == 0).all()


def test_a_field_is_the_sum_over_its_voxels() -> None:
    volume = np.random.default_rng(1).standard_normal((15, 15, 15)).astype(np.float32)
    points = np.array([[1.3, -2.2, 0.4], [-3.1, 0.2, 4.4]])
    found = sample_fields(interleave((sampling_grid(volume, 7),)), 1, 7, points)[:, 0]
    axis = np.arange(15) - 7
    for point, value in zip(points, found, strict=True):
        waves = [np.exp(-2j * np.pi * k * axis / 15) for k in point]
        exact = np.einsum("zyx,x,y,z->", volume, *waves)
        assert abs(value - exact) < 1e-4 * np.abs(volume).sum()
