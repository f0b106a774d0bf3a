"""Errors of one dimer's pose in workflow/examples/protomer.yaml: in the whole particle, and after each of its local refinements.

python benchmarks/one_protomer.py [--folder FOLDER] [--threads 1]

The chain is carried out first, where the folder does not hold it. A pose counts by its nearer symmetry mate (those of the whole lie in one
asymmetric unit, the truth anywhere), and each local refinement by the dimer that its mask holds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from protomer.formats.hdf5 import read_particles
from protomer.simulation.files import read_truth
from protomer.symmetry.point_groups import operators
from protomer_kernels.rotations import matrices_from_quaternions

CHAIN = Path(__file__).resolve().parent.parent / "workflow/examples/protomer.yaml"
STEPS = ("copies", "rigid", "flexible", "on_the_fly", "of_subtracted")


def median_error_deg(folder: Path, step: str) -> float:
    """Of the dimer that is known better, over all copies."""
    particles, images = read_particles(folder / step / "particles.h5"), read_particles(folder / "copies/particles.h5")
    image = dict(zip(images.image_uid.tolist(), images.stack_index.tolist(), strict=True))  # subtracted images lie elsewhere
    truth = read_truth(folder / "simulated/truth.h5").take(np.array([image[uid] for uid in particles.image_uid.tolist()]))
    mate, is_first = operators("C2")[1], (particles.copy == 0)[:, None, None]
    found = matrices_from_quaternions(particles.rotation)
    bodies = [matrices_from_quaternions(truth.body_rotation[:, body]) for body in (0, 1)]
    medians = []
    for one, other in (bodies, bodies[::-1]):
        true = np.where(is_first, one, mate @ other), np.where(is_first, mate @ other, one)
        medians.append(float(np.median(np.minimum(*(angles_deg(found, each) for each in true)))))
    return min(medians)


def angles_deg(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Between rotations (n, 3, 3)."""
    return np.asarray(np.rad2deg(np.arccos(np.clip((np.einsum("nij,nij->n", a, b) - 1) / 2, -1, 1))))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (chosen.folder or Path(temporary)).resolve()
        if not (folder / "provenance.json").exists():
            words = [sys.executable, "-m", "protomer", "run", CHAIN, "--folder", folder, "--cores", str(chosen.threads)]
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        print("| step | median error, deg | s |\n|---|---|---|")
        for step in STEPS:
            seconds = json.loads((folder / step / "summary.json").read_text(encoding="utf-8"))["seconds"]
            print(f"| {step} | {median_error_deg(folder, step):.2f} | {seconds:.0f} |")


if __name__ == "__main__":
    main()
