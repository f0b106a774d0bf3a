"""classify-fixed against truth: how many images are in the right class, and how surely each is said to be.

python benchmarks/classify_fixed.py [--cases 1200:0.3:0.4,1200:0.3:0] [--threads 1]

Two states of RNA polymerase II, with and without what lies within 30 Å of one end of it, at their true poses. A case is number of images,
signal over noise, share of the second state. Limit: Bayes' rule with the true maps. Stated: mean posterior of the likeliest class.
CPU seconds are those of classify-fixed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from accuracy import protomer

from protomer.engine.hypotheses import class_posterior
from protomer.formats.hdf5 import read_particles
from protomer.jobs.simulate import DEFAULT_BFACTOR_A2, DEFAULT_MODEL
from protomer.simulation.dataset import SimulatedData, Simulator, noise_variance
from protomer.simulation.draws import SimulationDesign
from protomer.simulation.files import star_tables, write_blocks, write_star
from protomer.simulation.pose_trial import known_images
from protomer.simulation.scatterers import AtomModel, read_atom_model
from protomer_kernels.half_plane import HalfPlane, largest_radius
from protomer_kernels.slices import transform_volume

BOX, PIXEL_A, CUT_A = 44, 4.6, 30.0


def states() -> tuple[AtomModel, AtomModel]:
    """The whole, and the whole without one end."""
    model = read_atom_model(DEFAULT_MODEL, DEFAULT_BFACTOR_A2)
    end = model.positions_A[np.argmax(np.linalg.norm(model.positions_A, axis=1))] * 0.75
    kept = np.linalg.norm(model.positions_A - end, axis=1) > CUT_A
    return model, AtomModel(model.positions_A[kept], model.weights[kept], model.bfactor_A2)


def limit(simulator: Simulator, images: np.ndarray, share: float) -> float:
    """How many images Bayes' rule with the true maps, poses and noise gets right."""
    design, truth = simulator.design, simulator.truth
    data = SimulatedData(images, truth, simulator.volume(1), noise_variance(design), design)
    plane, log_odds = HalfPlane(BOX, largest_radius(BOX)), np.zeros((len(images), 2))
    views = [transform_volume(simulator.volume(k).data, plane.radius) for k in (1, 2)]
    for first in range(0, len(images), 64):
        rows = slice(first, first + 64)
        batch, part = known_images(data, plane, plane.radius, rows), truth.take(rows)
        for k, view in enumerate(views):
            image = batch.of_map(view, part.rotation_matrix, part.shift_A / PIXEL_A, plane)
            log_odds[rows, k] = (image * (batch.data - np.float32(0.5) * image)).sum(axis=(1, 2), dtype=np.float64)
    prior = np.log(np.clip([1 - share, share], 1e-9, 1.0))
    posterior = class_posterior(log_odds - log_odds.max(axis=1, keepdims=True), prior, -np.inf)
    return float(np.mean(posterior.argmax(axis=1) + 1 == truth.class_number))


def measure(folder: Path, number: int, snr: float, share: float, threads: int) -> str:
    """A row of the table."""
    home = folder / "simulated"
    home.mkdir(parents=True)
    design = SimulationDesign(number, BOX, PIXEL_A, snr, seed=1, second_fraction=share)
    simulator = Simulator(states(), design)
    images = np.concatenate([block for _, block in simulator.blocks()])
    write_blocks(home / "particles.mrcs", ((0, images),), images.shape, PIXEL_A, lambda done: None)
    truth = simulator.truth
    write_star(home / "particles.star", star_tables(truth, design, (truth.rotation, truth.shift_A), False))
    protomer("import", "--star", home / "particles.star", "--output", folder / "imported")
    cost = protomer("classify-fixed", "--particles", folder / "imported", "--output", folder / "out", "--set", "target_resolution=9.5A",
                    "--threads", threads)
    found, said = read_particles(folder / "out/particles.h5"), json.loads((folder / "out/summary.json").read_text())
    true = truth.class_number[found.stack_index]
    right = float(np.mean(found.class_number == true))
    rehearsed = said["reliability"] or {"right": np.nan, "mean_posterior": np.nan}
    return (f"| {number} | {snr:g} | {100 * share:.0f} | {cost.cpu_s:.0f} | {100 * limit(simulator, images, share):.1f} | "
            f"{100 * max(right, 1 - right):.1f} | {100 * said['mean_posterior']:.1f} | {100 * rehearsed['right']:.1f} | "
            f"{100 * said['chance']:.1f} |")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", default="1200:0.3:0.4,1200:0.3:0,2400:0.1:0.4,400:0.005:0.5",
                        help="number:snr:share, with commas between")
    parser.add_argument("--threads", type=int, default=1, help="[1]")
    chosen = parser.parse_args()
    print("| images | SNR | second, % | CPU s | limit, % | right, % | stated, % | right in rehearsal, % | by sizes alone, % |")
    print("|---|---|---|---|---|---|---|---|---|")
    for case in chosen.cases.split(","):
        number, snr, share = case.split(":")
        with tempfile.TemporaryDirectory() as folder:
            print(measure(Path(folder), int(number), float(snr), float(share), chosen.threads), flush=True)


if __name__ == "__main__":
    main()
