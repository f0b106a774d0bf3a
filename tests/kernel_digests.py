"""A program that runs the refinement's kernels on seeded data and prints a digest of each result, and whether it was compiled or loaded."""

from __future__ import annotations

import hashlib
import json
import sys

from protomer.environment import prepare_environment


def digests(threads: int) -> dict[str, object]:
    """SHA-256 of what each kernel gives, and how many compiled functions came from the cache and how many did not."""
    import numpy as np

    from kernel_oracles import PLANE, RADIUS, random_rotations, starts
    from protomer_kernels import atoms, field_sampling, grid_scores, insertion, newton, noise, nufft, slices, volume_sampling

    rng = np.random.default_rng(40)
    model = rng.standard_normal((*insertion.empty_accumulator(RADIUS).shape[:3], 2)).astype(np.float32)
    batch = (rng.standard_normal((6, 2, len(PLANE))).astype(np.float32), rng.uniform(-1, 1, (6, len(PLANE))).astype(np.float32))
    plane, image = PLANE.arrays(len(PLANE)), np.arange(6)
    _, _, turns, shifts = starts(6, 41)
    views = np.empty((900, 2, len(PLANE)), np.float32)
    slices.extract_slices(model, random_rotations(900, 42).astype(np.float32), PLANE.kx, PLANE.ky, views)
    sums = np.empty((6, 21))
    newton.climb_poses(model, (image, turns, shifts), (*batch, np.tile(np.eye(2), (6, 1, 1))), plane, 8, newton.UNBOUNDED, sums)
    assert not np.any(np.all(turns == starts(6, 41)[2], axis=(1, 2)))  # every pose has climbed: its bits come from several steps
    accumulator = insertion.empty_accumulator(RADIUS)
    insertion.insert_slices((image, turns, shifts, rng.random(6)), batch, plane, 2.0**40, threads, accumulator)
    power = np.empty((6, 3, RADIUS + 1))
    noise.residual_power(views[:6], shifts, batch, plane, PLANE.shell, power)
    ramps = grid_scores.shift_ramps(rng.uniform(-2, 2, (5, 2)), PLANE.kx, PLANE.ky, PLANE.box)
    points, grid = rng.uniform(-14, 14, (3000, 3)), volume_sampling.sampling_grid(rng.standard_normal((24,) * 3).astype(np.float32), 12)
    spread, table = np.zeros((6, 48, 48), np.float32), nufft.window_table()
    atoms.spread_images(rng.uniform(-9, 9, (200, 3)), rng.random(200).astype(np.float32), turns, np.zeros((6, 2)), table, spread)
    results = {
        "extract_slices": (views,),
        "climb_poses": (turns, shifts, sums),
        "insert_slices": (accumulator,),
        "residual_power": (power,),
        "grid_scores": grid_scores.grid_scores(*batch, views, ramps, threads),
        "gather_fields": (volume_sampling.sample_volume_ft(grid, 12, points),
                          field_sampling.sample_fields(field_sampling.interleave((grid, grid)), 2, 12, points)),
        "spread_images": (spread,),
    }
    compiled = [slices.extract_slices, newton.climb_poses, insertion.insert_slices, noise.residual_power, grid_scores._best_shift,
                field_sampling.gather_fields, atoms.spread_images]
    return {
        "bits": {name: hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest() for name, parts in results.items()},
        "loaded": sum(sum(kernel.stats.cache_hits.values()) for kernel in compiled),
        "compiled": sum(sum(kernel.stats.cache_misses.values()) for kernel in compiled),
    }


if __name__ == "__main__":
    prepare_environment(int(sys.argv[1]))
    print(json.dumps(digests(int(sys.argv[1]))))
