"""How fast and how accurate a whole refinement is: simulated images with known truth, from import to FSC, in one table.

python benchmarks/accuracy.py [--number 1000] [--box 64] [--pixel-size 3.5] [--snr 0.1] [--seed 0] [--threads 2]

CPU time and memory are the operating system's account of each process (wait4), so that other work on the machine disturbs them little. The
first run, with an empty compile cache, is made on few images and reported apart.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from protomer.formats.hdf5 import read_map_record, read_particles
from protomer.formats.mrc import read_volume
from protomer.jobs.simulate import DEFAULT_BFACTOR_A2, DEFAULT_MODEL
from protomer.maps.fsc_curves import first_crossing
from protomer.maps.volumes import Volume
from protomer.simulation.cramer_rao import ImageModel, PoseBound, pose_bound
from protomer.simulation.dataset import Simulator
from protomer.simulation.draws import SimulationDesign, true_ctf
from protomer.simulation.files import read_truth
from protomer.simulation.scatterers import read_atom_model
from protomer.simulation.truth import PoseErrors, pose_errors, truth_fsc

NUMBER_OF_FIRST_RUN = 100
START_A = 40.0


@dataclass(frozen=True)
class Cost:
    """What one process took."""

    cpu_s: float
    wall_s: float
    peak_GB: float


def timed(command: Sequence[object]) -> Cost:
    """Carry out a command; its messages are shown only where it fails. Raises SystemExit then."""
    begun = time.perf_counter()
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(list(map(str, command)), stdout=messages, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            messages.seek(0)
            raise SystemExit(f"{' '.join(map(str, command))} ended with {process.returncode}:\n{messages.read().decode()}")
    return Cost(usage.ru_utime + usage.ru_stime, time.perf_counter() - begun, usage.ru_maxrss * 1024 / 1e9)


def protomer(*words: object) -> Cost:
    """Carry out one protomer command."""
    return timed((sys.executable, "-m", "protomer", *words))


def pipeline(folder: Path, design: SimulationDesign, threads: int) -> dict[str, Cost]:
    """Simulate, import and refine in `folder`; the cost of each."""
    simulated, imported = folder / "simulated", folder / "imported"
    sets = {"number": design.number, "box": design.box, "pixel_size": design.pixel_size_A, "snr": design.snr, "start_low_pass": START_A,
            "seed": design.seed}
    return {
        "simulate": protomer("simulate", "--output", simulated, "--threads", threads,
                             *(word for name, value in sets.items() for word in ("--set", f"{name}={value}"))),
        "import": protomer("import", "--star", simulated / "particles.star", "--output", imported, "--threads", threads),
        "refine": protomer("refine", "--particles", imported, "--volume", simulated / "start.mrc", "--output", folder / "refined",
                           "--set", f"initial_low_pass={START_A}", "--threads", threads)}


def score(folder: Path) -> PoseErrors:
    """Errors of the refined poses, the truth sorted as the particles are."""
    particles, truth = read_particles(folder / "refined" / "particles.h5"), read_truth(folder / "simulated" / "truth.h5")
    truth = truth.take(particles.stack_index)
    return pose_errors(particles.rotation, particles.shift_A, truth.rotation, truth.shift_A)


def bound(design: SimulationDesign, finest_A: float) -> PoseBound:
    """The Cramér-Rao bound for these images, with the true map known and coefficients up to a resolution."""
    model = read_atom_model(DEFAULT_MODEL, DEFAULT_BFACTOR_A2)
    simulator = Simulator((model,), design)
    images = ImageModel(model, simulator.gain, design.box, design.pixel_size_A, np.ones(design.box // 2 + 1))
    truth = simulator.truth
    return pose_bound(images, true_ctf(design, truth), truth.contrast, truth.rotation_matrix, (np.inf, finest_A))


def table(folder: Path, design: SimulationDesign, first: dict[str, Cost], costs: dict[str, Cost]) -> list[tuple[str, str]]:
    """What was measured, as rows of (label, value)."""
    record, errors = read_map_record(folder / "refined" / "volume.h5"), score(folder)
    # the mean of the half maps is not weighted by its FSC, so that the mask mixes shells as it does in the reported curve
    mean = Volume((record.half_maps.a.data + record.half_maps.b.data) / 2, record.map.voxel_size_A)
    curve = truth_fsc(mean, read_volume(folder / "simulated" / "map.mrc"), errors.frame, record.fsc_mask)
    length_A, summary = design.box * design.pixel_size_A, errors.summary()
    reported_A, true_A = record.fsc.resolution_A_at("corrected"), length_A / first_crossing(curve, 0.5)
    rows = [("images", f"{design.number} of {design.box} px at {design.pixel_size_A:g} A, snr {design.snr:g}, seed {design.seed}, "
                       f"from {START_A:g} A")]
    rows += [(f"{name}: CPU, wall, peak memory", f"{cost.cpu_s:.1f} s, {cost.wall_s:.1f} s, {cost.peak_GB:.2f} GB")
             for name, cost in costs.items()]
    rows += [(f"first run ({NUMBER_OF_FIRST_RUN} images, compiling): CPU", f"{sum(cost.cpu_s for cost in first.values()):.1f} s"),
             ("refine, CPU per image", f"{costs['refine'].cpu_s / design.number * 1e3:.1f} ms"),
             ("rotation error: median, 90th percentile", f"{summary['median_angle_deg']:.2f}, {summary['p90_angle_deg']:.2f} deg"),
             ("shift error: median, 90th percentile", f"{summary['median_shift_A']:.2f}, {summary['p90_shift_A']:.2f} A"),
             ("lost (beyond 10 deg)", f"{100 * summary['lost']:.1f} %"),
             ("reported: corrected half-map FSC at 0.143", f"{reported_A:.2f} A"),
             ("true: FSC with the truth at 0.5, same mask", f"{true_A:.2f} A")]
    for name, finest_A in (("all shells", 0.0), ("shells to that resolution", true_A)):
        angle_deg, shift_A = bound(design, finest_A).medians()
        rows.append((f"Cramer-Rao, {name}", f"{angle_deg:.2f} deg, {shift_A:.2f} A; reached within a factor of "
                     f"{summary['median_angle_deg'] / angle_deg:.2f} and {summary['median_shift_A'] / shift_A:.2f}"))
    return rows


def main() -> None:
    """Run everything in a temporary folder and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, kind, default in (("number", int, 1000), ("box", int, 64), ("pixel-size", float, 3.5), ("snr", float, 0.1), ("seed", int, 0),
                                ("threads", int, 2)):
        parser.add_argument(f"--{name}", type=kind, default=default)
    chosen = parser.parse_args()
    designs = [SimulationDesign(number, chosen.box, chosen.pixel_size, chosen.snr, chosen.seed)
               for number in (NUMBER_OF_FIRST_RUN, chosen.number)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["NUMBA_CACHE_DIR"] = str(folder / "compiled")
        first, costs = (pipeline(folder / label, design, chosen.threads) for label, design in zip(("first", "main"), designs, strict=True))
        for label, value in table(folder / "main", designs[1], first, costs):
            print(f"{label:48} {value}")


if __name__ == "__main__":
    main()
