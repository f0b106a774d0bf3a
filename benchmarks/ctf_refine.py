"""Does a refinement that refines CTFs on its way end where one ends that never had wrong ones?

python benchmarks/ctf_refine.py [--case hard] [--number 1200] [--threads 1]

Random chains, simulated with a beam tilt; particles know nothing of the tilt, and their defoci are off. Each row is one refinement from the
same start: CTFs left as they are; refined; off by no more than the Cramér-Rao bound of these images with known poses and particle, and left
so, which is as far as any method could bring them; and the same images without tilt at their true defoci. Shells are where the FSC of the
map of both half maps with the truth, in a sphere, falls below 0.5 and 0.143, once the map lies on the truth: where a map lies is free, and
this particle, which reaches out of the sphere in which references are held (engine/frame.py, eq. 1), drifts by 0.03 Å in each iteration
in the boxes of 64 pixels. The half maps' own FSC, in the same sphere, falls below 0.143 where that with the truth
falls below 0.5, if it is honest.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from ctf_bounds import CtfBound, ctf_bound
from protomer.catalogue import declaration
from protomer.ctf_refinement.changes import with_defocus_change
from protomer.engine.maximisation import solid_sphere
from protomer.formats.hdf5 import read_map_record, read_particles, write_particles
from protomer.formats.mrc import write_volume
from protomer.maps.fsc_curves import first_crossing
from protomer.maps.map_fit import MANY_POINTS, START_WAVES, MapPair, free_directions, march
from protomer.maps.rigid_motion import RigidMotion, move_volume
from protomer.maps.volumes import Halves, Volume
from protomer.running.job_run import RunOptions, run_job
from protomer.simulation.dataset import simulate_dataset
from protomer.simulation.draws import SimulationDesign
from protomer.simulation.scatterers import AtomModel
from protomer.symmetry.self_correlation import map_spectrum
from protomer.tables.particles import Particles
from protomer_kernels.fourier import low_pass
from protomer_kernels.shells import fourier_shell_correlation
from reconstructions import as_particles
from simulated import chain_model

START_A, COARSEST_A = 12.0, 30.0
BOTH = {"defocus_refine": True, "aberration_refine": True}


@dataclass(frozen=True)
class Case:
    """Images, and what is wrong with them."""

    box: int
    pixel_A: float
    snr: float
    tilt_rad: tuple[float, float]
    defocus_sd_A: float
    residues: int = 500
    size: float = 1.0

    @property
    def model(self) -> AtomModel:
        """The particle."""
        return chain_model(self.residues, size=self.size)


CASES = {"hard": Case(64, 1.6, 0.3, (1.2e-3, -8e-4), 400.0), "usual": Case(64, 1.6, 0.3, (4e-4, -3e-4), 300.0),
         "larger": Case(96, 1.5, 0.1, (4e-4, -3e-4), 300.0, 1300, 1.3)}


def off_by(particles: Particles, error_A: np.ndarray) -> Particles:
    """The particles with errors (n,) of defocus."""
    return with_defocus_change(particles, np.arange(len(particles)), np.stack([error_A, 0 * error_A, error_A], axis=1))


def with_tilt(particles: Particles, tilt_rad: np.ndarray | tuple[float, float]) -> Particles:
    """The particles with a beam tilt that they know of."""
    x, y = (float(part) for part in tilt_rad)
    return replace(particles, optics_groups=(replace(particles.optics_groups[0], beam_tilt_rad=(x, y)),))


def make_sets(case: Case, folder: Path, number: int) -> tuple[Volume, CtfBound]:
    """In folder particles wrong.h5, bound.h5, true.h5 (of images with a tilt) and never.h5 (of others without); the truth and the bound."""
    random = np.random.default_rng(9)
    for name, tilt in (("tilted", case.tilt_rad), ("straight", (0.0, 0.0))):
        (folder / name).mkdir()
        design = SimulationDesign(number, case.box, case.pixel_A, case.snr, seed=21, beam_tilt_rad=tilt)
        data = simulate_dataset(case.model, design)
        particles = as_particles(data, folder / name)
        if not any(tilt):
            write_particles(folder / "never.h5", particles)
            continue
        bound = ctf_bound(case.model, data, (COARSEST_A, 2.05 * case.pixel_A))
        write_particles(folder / "true.h5", with_tilt(particles, tilt))
        write_particles(folder / "wrong.h5", off_by(particles, random.normal(0, case.defocus_sd_A, number)))
        near = with_tilt(particles, tilt + bound.tilt_rad * np.array([1.0, -1.0]))
        write_particles(folder / "bound.h5", off_by(near, bound.defocus_A * random.standard_normal(number)))
    write_volume(folder / "start.mrc", Volume(low_pass(data.volume.data, case.box * case.pixel_A / START_A, 2.0), case.pixel_A))
    return data.volume, bound


def on_truth(volume: Volume, truth: Volume) -> Volume:
    """The map where it agrees best with the truth."""
    pair = MapPair(*(map_spectrum(one, 3.0 * one.voxel_size_A) for one in (truth, volume)))
    fit = march(pair, RigidMotion.none(), free_directions(True, True), pair.shell_at(START_WAVES), pair.limit, MANY_POINTS)
    return move_volume(volume, fit.motion)


def shells_of(half_maps: Halves[Volume], truth: Volume) -> list[float]:
    """Where the FSC with the truth falls below 0.5 and 0.143, and that of the half maps below 0.143."""
    mask, a, b = solid_sphere(truth.box, 0.42), half_maps.a.data, half_maps.b.data
    moved = on_truth(Volume(np.float32(0.5) * (a + b), truth.voxel_size_A), truth)
    curve = fourier_shell_correlation(moved.data * mask, truth.data * mask)
    return [first_crossing(curve, 0.5), first_crossing(curve, 0.143), first_crossing(fourier_shell_correlation(a * mask, b * mask), 0.143)]


def run_row(folder: Path, name: str, truth: Volume, settings: dict[str, Any], threads: int) -> str:
    """One refinement, as a row of the table."""
    begun, output = time.perf_counter(), folder / f"of_{name}_{len(settings)}"
    run_job(declaration("refine"), {"particles": folder / f"{name}.h5", "volume": folder / "start.mrc"},
            {"initial_low_pass": START_A, "rehearse": False, **settings}, RunOptions(output, threads=threads))
    seconds = time.perf_counter() - begun
    record, found = read_map_record(output / "volume.h5"), read_particles(output / "particles.h5")
    right = read_particles(folder / ("never.h5" if name == "never" else "true.h5"))
    tilt = np.subtract(found.optics_groups[0].beam_tilt_rad, right.optics_groups[0].beam_tilt_rad)
    assert record.fsc is not None
    shells = [*shells_of(record.half_maps, truth), record.fsc.shell_at("corrected", 0.143)]
    left_A = float(np.std(found.defocus_u_A - right.defocus_u_A))
    return f"{' | '.join(f'{shell:.1f}' for shell in shells)} | {1e3 * np.hypot(*tilt):.3f} | {left_A:.0f} | {seconds:.0f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=CASES, default="hard")
    parser.add_argument("--number", type=int, default=1200)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    case = CASES[options.case]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        truth, bound = make_sets(case, folder, options.number)
        print(f"{options.case}, {options.number} images; off by {case.defocus_sd_A:.0f} A and {1e3 * np.hypot(*case.tilt_rad):.2f} mrad; "
              f"bounds: {np.sqrt(np.mean(bound.defocus_A**2)):.0f} A, {1e3 * np.sqrt(2) * bound.tilt_rad:.3f} mrad\n")
        print("| CTFs | truth 0.5 | truth 0.143 | half maps 0.143 | corrected 0.143 | tilt left (mrad) | defocus left (A) | s |\n"
              "|---|---|---|---|---|---|---|---|")
        for what, particles, more in (("wrong, ignored", "wrong", {}), ("wrong, refined", "wrong", BOTH),
                                      ("off by their bound", "bound", {}), ("never wrong", "never", {})):
            print(f"| {what} | {run_row(folder, particles, truth, more, options.threads)} |", flush=True)


if __name__ == "__main__":
    main()
