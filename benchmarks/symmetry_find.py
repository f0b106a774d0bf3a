"""How near symmetry-find comes to the axes of a map that was turned and moved at random, over many draws, and what it costs.

python benchmarks/symmetry_find.py [--map MAP.mrc --group C2] [--draws 50] [--shift 6] [--seed 0]

Without --map, a C2 dimer is made from the atomic model that comes with Protomer. The map must lie on its axes to begin with.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from protomer.formats.mrc import read_volume
from protomer.jobs.simulate import DEFAULT_MODEL
from protomer.maps.rigid_motion import RigidMotion, move_volume
from protomer.maps.volumes import Volume
from protomer.simulation.scatterers import read_atom_model, with_symmetry
from protomer.symmetry.axis_fit import default_finest_A, kept_directions
from protomer.symmetry.point_groups import operators
from protomer.symmetry.search import find_axes, highest_axis, same_axes
from protomer.symmetry.self_correlation import map_spectrum
from protomer_kernels.atoms import real_volume

BOX, VOXEL_A, BFACTOR_A2, RADIUS_A = 100, 4.0, 200.0, 60.0
BOUND_DEG, BOUND_VOXELS = 0.3, 0.2


def dimer(group: str) -> Volume:
    """Copies of the shipped model under a group, 60 Å from its axis."""
    model = with_symmetry(read_atom_model(DEFAULT_MODEL, BFACTOR_A2), operators(group), RADIUS_A)
    return Volume(real_volume(model.volume_ft(BOX, VOXEL_A), BOX).astype(np.float32), VOXEL_A)


def missed(motion: RigidMotion, group: np.ndarray) -> tuple[float, float]:
    """Angle (degrees) and distance (angstrom) of a motion from one that leaves the group's axes in place."""
    kept = kept_directions(group)
    distance_A = float(np.linalg.norm((np.eye(3) - kept) @ motion.shift_A))
    if kept.any():
        axis = highest_axis(group)[0]
        return float(np.rad2deg(np.arccos(min(1.0, abs(axis @ motion.rotation @ axis))))), distance_A
    return min(float(np.rad2deg(Rotation.from_matrix(h @ motion.rotation).magnitude())) for h in same_axes(group)), distance_A


def main() -> None:
    """Print one line per draw and a summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--map", type=Path)
    parser.add_argument("--group", default="C2")
    parser.add_argument("--draws", type=int, default=50)
    parser.add_argument("--shift", type=float, default=6.0, help="largest shift along each axis, angstrom")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    volume = dimer(chosen.group) if chosen.map is None else read_volume(chosen.map)
    group, random, rows = operators(chosen.group), np.random.default_rng(chosen.seed), []
    for draw in range(chosen.draws):
        moved_by = RigidMotion(Rotation.random(rng=random).as_matrix(), random.uniform(-chosen.shift, chosen.shift, 3))
        moved = move_volume(volume, moved_by)
        start = time.process_time()
        fit = find_axes(map_spectrum(moved, default_finest_A(moved)), group)
        seconds = time.process_time() - start
        angle_deg, distance_A = missed(fit.motion.after(moved_by), group)
        rows.append((angle_deg, distance_A / volume.voxel_size_A, seconds, fit.score))
        print(f"{draw:3d} {angle_deg:8.4f} degrees {rows[-1][1]:8.4f} voxels {seconds:6.2f} CPU s  correlation {fit.score:.4f}", flush=True)
    angle, voxels, seconds, _ = np.array(rows).T
    within = int(((angle <= BOUND_DEG) & (voxels <= BOUND_VOXELS)).sum())
    print(f"{chosen.group}, box {volume.box} of {volume.voxel_size_A:.3g} A: {within} of {len(rows)} within {BOUND_DEG} degrees and "
          f"{BOUND_VOXELS} voxel; angle median {np.median(angle):.4f} max {angle.max():.4f} degrees; offset median {np.median(voxels):.4f} "
          f"max {voxels.max():.4f} voxels; CPU median {np.median(seconds):.2f} max {seconds.max():.2f} s (the first compiles)")


if __name__ == "__main__":
    main()
