"""A program that runs the CUDA drivers on a device or in the simulator: given.npz in a folder holds arrays, found.npz what they give."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from protomer_kernels.cuda import ctf, grid_scores, insertion, newton, noise, normal_equations, slices

Arrays = dict[str, np.ndarray]


def poses_found(given: Arrays) -> Arrays:
    """What the drivers give that visit a volume, and the power of residuals."""
    rotations, shifts = given["rotations"].astype(np.float32), given["shifts"].astype(np.float32)
    batch, plane = (given["data"], given["amplitude"]), (given["kx"], given["ky"], int(given["box"]))
    views = np.full((len(rotations), 2, len(plane[0])), np.nan, np.float32)
    slices.extract_slices(given["volume"], rotations, *plane[:2], views)
    climbable = (*batch, given["magnification"].astype(np.float32))
    sums = np.full((len(rotations), 21), np.nan, np.float32)
    normal_equations.normal_equations(given["volume"], (given["image"], rotations, shifts), climbable, plane, sums)
    results = {"views": views, "sums": sums, "accumulator": given["accumulator"]}
    for name in ("free", "bounded"):
        turned, moved, reached = rotations.copy(), shifts.copy(), np.full_like(sums, np.nan)
        bounds = (given[f"{name}_priors"].astype(np.float32), given[f"{name}_extent"].astype(np.float32))
        newton.climb_poses(given["volume"], (given["image"], turned, moved), climbable, plane, int(given["steps"]), bounds, reached)
        results |= {f"{name}_rotations": turned, f"{name}_shifts": moved, f"{name}_sums": reached}
    poses = (given["image"], rotations, shifts, given["weights"].astype(np.float32))
    results["curved"] = results["accumulator"].copy()
    insertion.insert_slices(poses, batch, plane, float(given["scale"]), results["accumulator"])
    insertion.insert_slices(poses, batch, plane, float(given["scale"]), results["curved"], given["curvature"])
    shells = int(given["shell"].max()) + 1
    results["residual_power"] = np.full((len(batch[0]), 3, shells), np.nan, np.float32)
    members = noise.members_of_shells(given["shell"], shells)
    noise.residual_power(views[: len(batch[0])], shifts[: len(batch[0])], batch, plane, members, results["residual_power"])
    return results


def transfer_found(given: Arrays) -> Arrays:
    """Contrast transfer."""
    out = np.full((len(given["ctf_smooth"]), len(given["kx"])), np.nan, np.float32)
    kx, ky = (given[name].astype(np.int64) for name in ("kx", "ky"))
    ctf.ctf_values((given["ctf_quadratic"], given["ctf_smooth"]), kx, ky, (given["added_turns"], given["added_row"]), out)
    return {"ctf": out}


def scores_found(given: Arrays) -> Arrays:
    """Scores of a grid in tiles, and the best rotations."""
    number, rotations = given["power"].shape
    scores, shifts = np.full((number, rotations), np.nan, np.float32), np.full((number, rotations), -1, np.int16)
    per_image = len(given["cross"]) // number
    for first in range(0, rotations, int(given["tile"])):
        part = slice(first, first + int(given["tile"]))
        cross, power = np.ascontiguousarray(given["cross"][:, part]), np.ascontiguousarray(given["power"][:, part])
        grid_scores.best_shift(cross, power, per_image, first, scores, shifts)
    columns, best_shifts = np.full((number, int(given["keep"])), -2, np.int64), np.full((number, int(given["keep"])), -1, np.int16)
    grid_scores.best_rotations(scores, shifts, columns, best_shifts)
    return {"scores": scores, "grid_shifts": shifts, "columns": columns, "best_shifts": best_shifts}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with np.load(folder / "given.npz") as file:
        arrays = dict(file)
    np.savez(folder / "found.npz", **poses_found(arrays), **transfer_found(arrays), **scores_found(arrays))
