"""Volumes from nothing, seed by seed, against the truth: how often ab-initio finds the particle, how well, and what it costs.

python benchmarks/ab_initio.py [--model FILE --symmetry D2] [--number 5000] [--box 64] [--snr 0.05] [--seeds 10] [--threads 2]
    [--folder FOLDER]

One set of images (RNA polymerase II without --model), other seeds of the run: other random poses, batches and grids. Truth FSC: of class 1
with the true map, moved by what the poses in particles.h5 say, of the hand that agrees better. A model with symmetry has its axes where
Protomer has them. CPU seconds are those of ab-initio, its last pass and its report included.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from accuracy import Cost, protomer

from protomer.formats.hdf5 import read_any_volume, read_particles
from protomer.formats.mrc import read_volume
from protomer.maps.fsc_curves import first_crossing
from protomer.simulation.files import read_truth
from protomer.simulation.truth import PoseErrors, pose_errors, truth_fsc
from protomer.symmetry.point_groups import operators

WANTED_A = 20.0


def simulate(folder: Path, chosen: argparse.Namespace) -> None:
    """Images and truth in folder/simulated, imported into folder/imported; what is there already stays."""
    if (folder / "imported/summary.json").exists():
        return
    sets = {"number": chosen.number, "box": chosen.box, "snr": chosen.snr}
    model = () if chosen.model is None else ("--model", chosen.model)
    words = [word for name, value in sets.items() for word in ("--set", f"{name}={value}")]
    protomer("simulate", *model, *words, "--output", folder / "simulated")
    protomer("import", "--star", folder / "simulated/particles.star", "--output", folder / "imported")


def measured(folder: Path, result: Path, symmetry: str) -> tuple[PoseErrors, float, float]:
    """Pose errors, and where the truth FSC falls below 0.5 and 0.143, Å."""
    found, volume = read_particles(result / "particles.h5"), read_any_volume(result / "class_1/volume.h5")
    truth, true_map = read_truth(folder / "simulated/truth.h5").take(found.stack_index), read_volume(folder / "simulated/map.mrc")
    errors = pose_errors(found.rotation, found.shift_A, truth.rotation, truth.shift_A, operators(symmetry), both_hands=True)
    curve = truth_fsc(volume, true_map, errors.frame)
    width_A = true_map.box * true_map.voxel_size_A
    return errors, width_A / first_crossing(curve, 0.5), width_A / first_crossing(curve, 0.143)


def run(folder: Path, seed: int, chosen: argparse.Namespace) -> tuple[Cost, PoseErrors, float, float]:
    """One seed; its folder is kept, so that a run that was stopped goes on."""
    result = folder / f"seed_{seed}"
    cost = protomer("ab-initio", "--particles", folder / "imported", "--symmetry", chosen.symmetry, "--threads", chosen.threads, "--set",
                    f"seed={seed}", "--output", result, "--overwrite")
    return cost, *measured(folder, result, chosen.symmetry)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--symmetry", default="C1")
    for name, kind, default in (("number", int, 5000), ("box", int, 64), ("snr", float, 0.05), ("seeds", int, 10), ("threads", int, 2)):
        parser.add_argument(f"--{name}", type=kind, default=default, help=f"[{default:g}]")
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    print(f"{chosen.number} images of {chosen.box} px, signal over noise {chosen.snr:g}, {chosen.symmetry}, {chosen.threads} thread(s).\n")
    print("| seed | truth FSC 0.5, Å | 0.143, Å | median pose error, deg | lost, % | hand | CPU s | wall s |")
    print("|---|---|---|---|---|---|---|---|")
    resolutions = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = (chosen.folder or Path(temporary)).resolve()
        simulate(folder, chosen)
        for seed in range(chosen.seeds):
            cost, errors, half, seventh = run(folder, seed, chosen)
            resolutions.append(half)
            print(f"| {seed} | {half:.1f} | {seventh:.1f} | {np.median(errors.angle_deg):.1f} | {100 * errors.lost():.1f} | "
                  f"{'mirrored' if errors.frame.flipped else 'true'} | {cost.cpu_s:.0f} | {cost.wall_s:.0f} |", flush=True)
    print(f"\n{sum(r <= WANTED_A for r in resolutions)} of {len(resolutions)} seeds reach {WANTED_A:g} Å.")


if __name__ == "__main__":
    main()
