"""variability against truth: how well coordinates follow a known motion, what noise alone yields, and how long it takes.

python benchmarks/variability.py [--cases 10000:1:6,5000:1:0] [--box 64] [--filter 10] [--threads 2]

A homodimer each of whose protomers has a domain that swings about a hinge by an amplitude of its own, at its true poses, every image once
for each protomer. A case is number of images, signal over noise, standard deviation of the swing in degrees. Known mode: correlation of
the true amplitudes with coordinates on the true mode about the true mean, which no method exceeds but by what is not linear; found: with
coordinates on mode 1. CPU seconds, and seconds by the clock, are those of the whole job, control, mean map and
report included.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from accuracy import protomer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from protomer.formats.hdf5 import read_particles, write_particles
from protomer.formats.mrc import write_volume
from protomer.symmetry.expansion import expanded
from protomer.symmetry.operator_sets import OperatorSet
from reconstructions import as_particles
from two_domains import known_mode, moving

WIDTH_A = 170.0  # of the box
ITERATIONS = 20


def measure(folder: Path, case: tuple[int, float, float], box: int, filter_A: float, threads: int) -> str:
    """A row of the table."""
    number, snr, swing_deg = case
    made = moving(number, box, WIDTH_A / box, snr, swing_deg)
    particles = expanded(as_particles(made.data, folder), OperatorSet.of_group("C2"))
    write_particles(folder / "particles.h5", replace(particles, has_poses=True))
    write_volume(folder / "mask.mrc", made.mask)
    words = ["variability", "--particles", folder / "particles.h5", "--mask", folder / "mask.mrc", "--set",
             f"filter_resolution={filter_A}A", "--set", f"iterations={ITERATIONS}", "--threads", threads]
    cost = protomer(*words, "--output", folder / "out")
    said = json.loads((folder / "out/summary.json").read_text())
    found = read_particles(folder / "out/particles.h5")
    amplitude = made.amplitude[particles.stack_index, particles.copy]
    correlation = abs(float(np.corrcoef(found.extra["components_mode_0/value"], amplitude)[0, 1])) if swing_deg else np.nan
    limit = known_mode(made, int(WIDTH_A / filter_A)) if swing_deg else np.nan
    first = said["modes"][0]
    return (f"| {number} | {snr:g} | {swing_deg:g} | {cost.cpu_s:.0f} | {said['seconds']:.0f} | {limit:.3f} | {correlation:.3f} | "
            f"{said['real_modes']} | {first['excess']:.2f} | {first['control_excess']:.2f} | {first['halves_agree']:.2f} |")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", default="10000:1:6,5000:0.1:6,5000:1:0", help="number:snr:swing, with commas between")
    parser.add_argument("--box", type=int, default=64, help="[64]")
    parser.add_argument("--filter", type=float, default=10.0, help="resolution of the modes, Å [10]")
    parser.add_argument("--threads", type=int, default=2, help="[2]")
    chosen = parser.parse_args()
    print("| images | SNR | swing, deg | CPU s | s | known mode | found | real modes | excess | control | halves agree |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for case in chosen.cases.split(","):
        number, snr, swing = case.split(":")
        with tempfile.TemporaryDirectory() as folder:
            print(measure(Path(folder), (int(number), float(snr), float(swing)), chosen.box, chosen.filter, chosen.threads), flush=True)


if __name__ == "__main__":
    main()
