"""How near to the Cramér-Rao bound the engine's search comes when it is given the true map, noise and CTF, over boxes and noise.

python benchmarks/pose_bound.py [--number 500] [--seed 0]

Images whose posterior has one mode (weight above 0.99) and that are within 10 degrees count; `z2` is the mean of (error / predicted
standard deviation)^2, which is 1 where the engine's covariance is right.
"""

from __future__ import annotations

import argparse

import numpy as np

from protomer.jobs.simulate import DEFAULT_BFACTOR_A2, DEFAULT_MODEL
from protomer.simulation.dataset import simulate_dataset
from protomer.simulation.draws import SimulationDesign
from protomer.simulation.pose_trial import LOST_DEG, try_poses
from protomer.simulation.scatterers import read_atom_model

CASES = ((48, 4.7, 0.1), (48, 4.7, 0.4), (48, 6.0, 0.1), (48, 6.0, 0.4), (64, 3.5, 0.1), (64, 4.5, 0.1), (64, 4.5, 0.4))  # box, Å, snr


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    model = read_atom_model(DEFAULT_MODEL, DEFAULT_BFACTOR_A2)
    print(f"{'box':>4}{'pixel':>7}{'snr':>6}{'one mode':>10}{'lost':>7}{'missed':>8}{'median deg':>12}{'over bound':>12}{'median A':>10}"
          f"{'over bound':>12}{'z2 rotation':>13}{'z2 shift':>10}")
    for box, pixel_A, snr in CASES:
        trial = try_poses(simulate_dataset(model, SimulationDesign(chosen.number, box, pixel_A, snr, chosen.seed)), model)
        one = trial.with_one_mode()
        rotation, shift = one.over_bound()
        squares = one.squares()
        print(f"{box:4d}{pixel_A:7.1f}{snr:6.2f}{len(one.error) / chosen.number:10.1%}{np.mean(trial.angle_deg > LOST_DEG):7.1%}"
              f"{np.mean(trial.shortfall > 0.1):8.1%}{np.median(one.angle_deg):12.3f}{rotation:12.3f}{np.median(one.shift_A):10.3f}"
              f"{shift:12.3f}{squares[:3].mean():13.3f}{squares[3:].mean():10.3f}", flush=True)


if __name__ == "__main__":
    main()
