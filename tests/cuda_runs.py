"""A program that runs the CUDA drivers, on a device or in Numba's simulator, on arrays from one .npz file and writes another."""

from __future__ import annotations

import sys

import numpy as np

from protomer_kernels.cuda import insertion, newton, normal_equations, slices

if __name__ == "__main__":
    source, result = sys.argv[1:]
    with np.load(source) as file:
        given = dict(file)
    rotations, shifts = given["rotations"].astype(np.float32), given["shifts"].astype(np.float32)
    batch, plane = (given["data"], given["amplitude"]), (given["kx"], given["ky"], int(given["box"]))
    views = np.full((len(rotations), 2, len(plane[0])), np.nan, np.float32)
    slices.extract_slices(given["volume"], rotations, *plane[:2], views)
    climbable = (*batch, given["magnification"].astype(np.float32))
    sums = np.full((len(rotations), 21), np.nan, np.float32)
    normal_equations.normal_equations(given["volume"], (given["image"], rotations, shifts), climbable, plane, sums)
    results = {}
    for name in ("free", "bounded"):
        turned, moved, reached = rotations.copy(), shifts.copy(), np.full((len(rotations), 21), np.nan, np.float32)
        bounds = (given[f"{name}_priors"].astype(np.float32), given[f"{name}_extent"].astype(np.float32))
        newton.climb_poses(given["volume"], (given["image"], turned, moved), climbable, plane, int(given["steps"]), bounds, reached)
        results |= {f"{name}_rotations": turned, f"{name}_shifts": moved, f"{name}_sums": reached}
    accumulator = given["accumulator"]
    poses = (given["image"], rotations, shifts, given["weights"].astype(np.float32))
    insertion.insert_slices(poses, batch, plane, float(given["scale"]), accumulator)
    np.savez(result, views=views, sums=sums, accumulator=accumulator, **results)
