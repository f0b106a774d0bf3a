"""Are poses as likely right, and as near the truth, as a refinement says? By bins of the stated probability.

python benchmarks/calibration.py [--share 1.0] [--threads 1] [--only NAME,...]

`clear`: 1,000 images at signal over noise 0.1 in the particle's disc; `dim` and `realistic`: the cases of hard_cases.py. First with the
true map, where numbers fitted to one set of images are applied to another; then as whole refinements write them into particles.h5. There
the covariance of the rotation alone counts: the truth's frame is known only up to a shift. Right: within 10 degrees. A refined map's
posterior is fitted to images made from that map (rehearsal.py): the truth is not used.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
from accuracy import protomer
from hard_cases import CASES, Case, errors_of, make_set, refinement_words
from scipy.stats import chi2

from protomer.engine.confidence import WITHIN_ONE_COVARIANCE, Confidence, TriedPoses, calibration_table, full_covariance
from protomer.formats.hdf5 import read_particles
from protomer.jobs.simulate import DEFAULT_BFACTOR_A2, DEFAULT_MODEL
from protomer.simulation.dataset import simulate_dataset
from protomer.simulation.draws import SimulationDesign
from protomer.simulation.files import read_truth
from protomer.simulation.pose_trial import try_poses
from protomer.simulation.scatterers import read_atom_model
from protomer_kernels.rotations import matrices_from_quaternions, rotation_errors

EDGES = (0.0, 0.5, 0.8, 0.95, 0.99, 1.01)
CLEAR = Case("clear", 1000, 64, 3.5, 0.1, 40.0, False)
WITHIN_ONE_ROTATION = float(chi2.cdf(3, 3))


def with_true_map(case: Case, share: float) -> list[tuple[float, ...]]:
    """The table where everything but the poses is known."""
    model, number = read_atom_model(DEFAULT_MODEL, DEFAULT_BFACTOR_A2), round(1000 * share)
    first, second = (try_poses(simulate_dataset(model, SimulationDesign(number, case.box, case.pixel_A, case.snr, seed=seed)), model)
                     for seed in (11, 12))
    fitted, poses = (TriedPoses(t.error, t.covariance, t.top_weight) for t in (first, second))
    confidence = Confidence.fit(fitted)
    return calibration_table(poses, confidence.posterior(poses.weight), confidence.covariance_factor(poses.weight), EDGES)


def with_refined_map(case: Case, share: float, threads: int, folder: Path) -> list[tuple[float, ...]]:
    """The table of a whole refinement, from its particles.h5."""
    make_set(case, share, folder)
    protomer(*refinement_words(case, folder, threads), "--output", folder / "refined")
    particles = read_particles(folder / "refined/particles.h5")
    truth = read_truth(folder / "simulated/truth.h5").take(particles.stack_index)
    motion = errors_of(particles.rotation, particles.shift_A, folder, particles.stack_index).frame
    real = truth.junk == 0
    turn = rotation_errors(motion.rotation @ truth.rotation_matrix[real], matrices_from_quaternions(particles.rotation[real]),
                           np.eye(3)[None])
    precision = np.linalg.inv(full_covariance(particles.pose_covariance[real], 1.0)[:, :3, :3])
    right = np.linalg.norm(turn, axis=1) < np.deg2rad(10.0)
    within = right & (np.einsum("ni,nij,nj->n", turn, precision, turn) <= 3)
    stated, rows = particles.pose_posterior[real], []
    for low, high in pairwise(EDGES):
        bin_ = (stated >= low) & (stated < high)
        if bin_.any():
            claim = float(stated[bin_].mean())
            rows.append((low, float(bin_.sum()), claim, float(right[bin_].mean()), WITHIN_ONE_ROTATION * claim, float(within[bin_].mean())))
    return rows


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="clear,dim,realistic")
    chosen = parser.parse_args()
    print(f"One covariance: {100 * WITHIN_ONE_COVARIANCE:.0f} % of five parameters, {100 * WITHIN_ONE_ROTATION:.0f} % of a rotation.\n")
    print("| case | map | stated from | images | right, % stated | observed | within one covariance, % stated | observed |")
    print("|---|---|---|---|---|---|---|---|")
    for case in (CLEAR, *CASES):
        if case.name not in chosen.only.split(","):
            continue
        tables = {} if case.realistic else {"true": with_true_map(case, chosen.share)}
        with tempfile.TemporaryDirectory() as name:
            tables["refined"] = with_refined_map(case, chosen.share, chosen.threads, Path(name))
        for of, rows in tables.items():
            for low, images, *shares in rows:
                print(f"| {case.name} | {of} | {low:g} | {images:.0f} | {' | '.join(f'{100 * s:.1f}' for s in shares)} |", flush=True)


if __name__ == "__main__":
    main()
