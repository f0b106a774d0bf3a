"""What the curvature of the Ewald sphere costs, and whether its correction brings it back: beside RELION's.

python benchmarks/ewald.py [--number 1500] [--snr 0.02] [--voltage 10] [--threads 1]

A ball of atoms that fills three quarters of its box, seen at a voltage so low that a small box shows what a virus shows at 300 kV: what
counts is the phase of the atoms farthest from the centre, pi lambda radius / d^2, at the finest detail d. Images are simulated with every
atom at the defocus of its own height (sign +1), and once without depth. Maps are from the true poses; resolutions are where the FSC of the
map of all images with the truth, in a sphere of 0.42 of the box, falls below 0.5, in shells. RELION, where it is installed, reads the same
files (relion_reconstruct --ewald, which has two signs too).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from protomer.catalogue import declaration
from protomer.engine.maximisation import solid_sphere
from protomer.formats.hdf5 import read_map_record
from protomer.formats.mrc import read_volume, write_volume
from protomer.maps.fsc_curves import first_crossing
from protomer.maps.volumes import Volume
from protomer.running.job_run import RunOptions, run_job
from protomer.simulation.scatterers import AtomModel
from protomer_kernels.atoms import real_volume
from protomer_kernels.shells import fourier_shell_correlation

BOX, PIXEL_A, RADIUS_A, ATOMS, BFACTOR_A2 = 96, 1.0, 36.0, 6000, 4.0
SHOWN = (10, 20, 30, 36, 40, 44)


def ball() -> AtomModel:
    """Atoms without any order in a ball."""
    random = np.random.default_rng(3)
    directions = random.normal(size=(ATOMS, 3))
    positions = directions / np.linalg.norm(directions, axis=1, keepdims=True) * (RADIUS_A * random.random(ATOMS) ** (1 / 3))[:, None]
    return AtomModel(positions - positions.mean(axis=0), np.full(ATOMS, 6.0, np.float32), BFACTOR_A2)


def make_sets(folder: Path, options: argparse.Namespace) -> None:
    """folder/deep and folder/flat: images with and without depth; the same ball as a map."""
    write_volume(folder / "ball.mrc", Volume(real_volume(ball().volume_ft(BOX, PIXEL_A), BOX), PIXEL_A))
    settings = {"number": options.number, "box": BOX, "pixel_size": PIXEL_A, "snr": options.snr, "voltage": options.voltage,
                "spherical_aberration": 0, "defocus_min": 2000, "defocus_max": 5000, "astigmatism": 50, "max_shift": 2, "bfactor": 0}
    for name, sign in (("deep", "+1"), ("flat", "none")):
        run_job(declaration("simulate"), {"volume": folder / "ball.mrc"}, settings | {"ewald_sign": sign},
                RunOptions(folder / name, threads=options.threads))
        run_job(declaration("import"), {"star": folder / name / "truth.star"}, {}, RunOptions(folder / f"{name}_imported", threads=1))


def ours(folder: Path, name: str, sign: str, threads: int) -> tuple[np.ndarray, float, dict[str, object]]:
    """FSC with the truth, seconds, and what the summary says of the sign."""
    begun = time.perf_counter()
    output = folder / f"{name}_{sign}"
    summary = run_job(declaration("reconstruct"), {"particles": folder / f"{name}_imported"}, {"ewald_sign": sign},
                      RunOptions(output, threads=threads))
    seconds = time.perf_counter() - begun
    halves = read_map_record(output / "volume.h5").half_maps
    return against_truth(folder, name, halves.a.data + halves.b.data), seconds, summary["ewald_sphere"]


def relions(folder: Path, name: str, words: list[str]) -> tuple[np.ndarray, float]:
    """FSC with the truth, and seconds."""
    begun = time.perf_counter()
    command = ["relion_reconstruct", "--i", "truth.star", "--o", "relion.mrc", "--ctf", *words]
    subprocess.run(command, cwd=folder / name, check=True, capture_output=True)
    seconds = time.perf_counter() - begun
    return against_truth(folder, name, read_volume(folder / name / "relion.mrc").data), seconds


def against_truth(folder: Path, name: str, volume: np.ndarray) -> np.ndarray:
    """FSC by shell with the simulated map, both in a sphere."""
    mask = solid_sphere(BOX, 0.42)
    return fourier_shell_correlation(volume * mask, read_volume(folder / name / "map.mrc").data * mask)


def row(what: str, curve: np.ndarray, seconds: float) -> str:
    """One line of the table."""
    shell = first_crossing(curve, 0.5)
    values = " | ".join(f"{curve[s]:.3f}" for s in SHOWN)
    return f"| {what} | {shell:.1f} | {BOX * PIXEL_A / max(shell, 1):.2f} | {values} | {seconds:.1f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=1500)
    parser.add_argument("--snr", type=float, default=0.02)
    parser.add_argument("--voltage", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_sets(folder, options)
        print(f"| map | shell | A | {' | '.join(f'FSC at shell {s}' for s in SHOWN)} | s |\n{'|---' * (4 + len(SHOWN))}|")
        print(row("no depth", *ours(folder, "flat", "none", options.threads)[:2]), flush=True)
        for sign in ("none", "+1", "-1"):
            print(row(f"depth, corrected: {sign}", *ours(folder, "deep", sign, options.threads)[:2]), flush=True)
        _, seconds, told = ours(folder, "deep", "auto", options.threads)
        if shutil.which("relion_reconstruct"):
            around = ["--mask_diameter", str(2.2 * RADIUS_A)]
            for what, data, words in (("no depth", "flat", []), ("depth, not corrected", "deep", []),
                                      ("depth, --ewald", "deep", ["--ewald", *around]),
                                      ("depth, --ewald --reverse_curvature", "deep", ["--ewald", "--reverse_curvature", *around])):
                print(row(f"RELION: {what}", *relions(folder, data, words)), flush=True)
        print(f"\nauto ({seconds:.1f} s): {json.dumps(told)}")


if __name__ == "__main__":
    main()
