"""Two states told apart by `classify` and by RELION's 3D classification: same images, start maps and cores, in one table.

python benchmarks/relion_classes.py [--number 400] [--box 48] [--pixel-size 4.5] [--snr 0.2] [--second 0.3] [--folder FOLDER]

The images are those of benchmarks/classify.py, without junk. Both programs start from the true maps low-passed to 20 Å and search all
rotations. RELION has the defaults of its interface: 25 iterations, HEALPix order 2, offsets of 5 pixels, T = 4. `classify` is run until
its classes are settled. CPU time is that of all processes. Stated: the mean posterior of the class that an image is put in; calibrated, it
is the share of images that are right. RELION writes none where it searches poses too (rlnMaxValueProbDistribution is of class and pose).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import relion
from classify import arguments, by_protomer, design_of, posterior_of_second, simulate, two_states

from protomer.formats.hdf5 import read_particles
from protomer.formats.star import read_star_particles
from protomer.simulation.dataset import Simulator

ITERATIONS, START_A = 25, 20.0
LAST = f"run_it{ITERATIONS:03d}_data.star"
WORDS = ("--o ./run --i particles.star --ref starts.star --ini_high {start:g} --K 2 --iter {iterations} --tau2_fudge 4 --ctf "
         "--ctf_corrected_ref --norm --scale --flatten_solvent --zero_mask --particle_diameter {diameter:.0f} --healpix_order 2 "
         "--oversampling 1 --offset_range 5 --offset_step 2 --sym C1 --pad 2 --dont_check_norm --pool 10 --j 1 "
         "--no_parallel_disc_io --random_seed 1")
STARTS = "\ndata_\n\nloop_\n_rlnReferenceImage\nstate1.mrc\nstate2.mrc\n\n"


def by_relion(folder: Path, chosen: argparse.Namespace) -> tuple[relion.Cost, np.ndarray]:
    """RELION's 3D classification: its cost, and the class of each image, in the stack's order. Raises PeerFailure."""
    home, version = folder / "relion", relion.relion_version()
    text = WORDS.format(start=START_A, iterations=ITERATIONS, diameter=relion.DIAMETER * chosen.box * chosen.pixel_size)
    command = ["relion_refine_mpi", *text.split(), *([] if "no accelerated" in version else ["--cpu"])]
    print(f"{version}. Started as `mpirun -n 3 {' '.join(command)}`.\n")
    if not (home / LAST).exists():
        (folder / "simulated/starts.star").write_text(STARTS)
        relion.run_relion(folder, command, 60 * chosen.patience, LAST, ("particles.star", "state1.mrc", "state2.mrc", "starts.star"))
    cost = relion.Cost.of([json.loads((home / f"cost_{rank}.json").read_text()) for rank in range(3)])
    found = read_star_particles(home / LAST, project_folder=home)
    return cost, found.class_number[np.argsort(found.stack_index)]


def row(cost: relion.Cost, found: np.ndarray, truth: np.ndarray, stated: str = "-") -> dict[str, str]:
    """One program's figures."""
    return {"CPU, s": f"{cost.cpu_s:.0f}", "wall, s": f"{cost.wall_s:.0f}", "peak memory, GB": f"{cost.peak_GB:.2f}",
            "in the right class": f"{np.mean(found == truth):.3f}", "stated": stated,
            "share of state 2, truth": f"{np.mean(found == 2):.3f}, {np.mean(truth == 2):.3f}"}


def compare(folder: Path, chosen: argparse.Namespace) -> None:
    """Run what is not there yet and print the table."""
    simulator = Simulator(two_states(), design_of(chosen))
    simulate(folder, simulator)
    truth, states = simulator.truth.class_number, [folder / f"simulated/state{number}.mrc" for number in (1, 2)]
    limit = np.mean((posterior_of_second(simulator) > 0.5) + 1 == truth)
    print(f"{chosen.number} images of {chosen.box} px at {chosen.pixel_size:g} Å, signal over noise {chosen.snr:g}. Bayes' rule with the "
          f"true maps and poses puts {limit:.3f} in the right class.\n")
    cost = by_protomer(folder, states, chosen.threads)
    found = read_particles(folder / "classes/particles.h5")
    order = np.argsort(found.stack_index)
    rows = {"Protomer": row(cost, found.class_number[order], truth, f"{found.class_posterior.mean():.3f}")}
    missing = ""
    try:
        rows["RELION"] = row(*by_relion(folder, chosen), truth)
    except relion.PeerFailure as failure:
        missing = f"\nRELION is not in the table: {failure}"
    print(relion.markdown(rows) + missing)


def main() -> None:
    """Read the arguments; work in the folder given or in a temporary one."""
    parser = arguments((__doc__ or "").splitlines()[0])
    parser.add_argument("--patience", type=float, default=180.0, help="minutes that RELION is given [180]")
    parser.set_defaults(number=400, snr=0.2, junk=0.0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        compare((chosen.folder or Path(temporary)).resolve(), chosen)


if __name__ == "__main__":
    main()
