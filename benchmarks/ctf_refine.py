"""Does a refinement that refines CTFs on its way end where one ends that never had wrong ones?

python benchmarks/ctf_refine.py [--number 1000] [--threads 1]

Random chains of 85 A, simulated with a beam tilt; particles know nothing of the tilt, and their defoci are off by 400 A (standard
deviation). Each row is one refinement from the same start; the last is of images without tilt at their true defoci. Shells are where the
FSC of the map of both half maps with the truth, in a sphere, falls below 0.5 and 0.143.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from protomer.catalogue import declaration
from protomer.ctf_refinement.changes import with_defocus_change
from protomer.engine.maximisation import solid_sphere
from protomer.formats.hdf5 import read_map_record, read_particles, write_particles
from protomer.formats.mrc import write_volume
from protomer.maps.resolution import first_crossing
from protomer.maps.volumes import Volume
from protomer.running.job_run import RunOptions, run_job
from protomer_kernels.fourier import low_pass
from protomer_kernels.shells import fourier_shell_correlation
from reconstructions import as_particles
from simulated import chain_dataset

BOX, PIXEL_A, SNR, TILT_RAD, DEFOCUS_SD_A = 64, 1.6, 0.3, (1.2e-3, -8e-4), 400.0
BOTH = {"defocus_refine": True, "aberration_refine": True}


def make_sets(folder: Path, number: int) -> np.ndarray:
    """folder/wrong and folder/right: images and particles; the truth (D, D, D)."""
    for name, tilt in (("wrong", TILT_RAD), ("right", (0.0, 0.0))):
        (folder / name).mkdir()
        data = chain_dataset(number, BOX, PIXEL_A, SNR, seed=21, beam_tilt_rad=tilt)
        particles = as_particles(data, folder / name)
        if any(tilt):
            error_A = np.random.default_rng(9).normal(0, DEFOCUS_SD_A, number)
            group = particles.optics_groups[0]
            assert group.beam_tilt_rad == (0.0, 0.0)
            particles = with_defocus_change(particles, np.arange(number), np.stack([error_A, 0 * error_A, error_A], axis=1))
        write_particles(folder / name / "particles.h5", particles)
    write_volume(folder / "start.mrc", Volume(low_pass(data.volume.data, BOX * PIXEL_A / 12.0, 2.0), PIXEL_A))
    return data.volume.data


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    print("| refinement | shell at 0.5 | at 0.143 | tilt left (mrad) | defocus left (A) | s |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder, mask = Path(name), solid_sphere(BOX, 0.42)
        truth = make_sets(folder, options.number)
        for what, data, more in (("errors planted, ignored", "wrong", {}), ("errors planted, CTFs refined", "wrong", BOTH),
                                 ("never any errors", "right", {})):
            begun = time.perf_counter()
            run_job(declaration("refine"), {"particles": folder / data / "particles.h5", "volume": folder / "start.mrc"},
                    {"initial_low_pass": 12, "rehearse": False, **more}, RunOptions(folder / what, threads=options.threads))
            seconds, halves = time.perf_counter() - begun, read_map_record(folder / what / "volume.h5").half_maps
            curve = fourier_shell_correlation((halves.a.data + halves.b.data) * mask, truth * mask)
            found, right = read_particles(folder / what / "particles.h5"), read_particles(folder / "right/particles.h5")
            tilt = np.subtract(found.optics_groups[0].beam_tilt_rad, TILT_RAD if data == "wrong" else (0.0, 0.0))
            left_A = float(np.std(found.defocus_u_A - right.defocus_u_A))
            print(f"| {what} | {first_crossing(curve, 0.5):.1f} | {first_crossing(curve, 0.143):.1f} | {1e3 * np.hypot(*tilt):.2f} "
                  f"| {left_A:.0f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
