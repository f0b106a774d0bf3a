"""Local refinement of one protomer of a moving dimer beside RELION's local searches: same images, start, mask and cores, in one table.

python benchmarks/relion_local.py --model MODEL [--number 500] [--box 48] [--pixel-size 3.4] [--snr 0.1] [--folder FOLDER]

The images are those of benchmarks/local_refine.py. RELION's auto-refinement starts with local searches at once (HEALPix order 4, its prior
of two steps) from the poses of the whole particle, with the mask on the references; Protomer with a prior of the motion's own width, the
rest of the particle taken from the images or not. Errors are of the first chain's rotation. CPU time is that of all processes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import relion
from local_refine import PRIOR, REST, median_error_deg, prepare

from protomer.formats.hdf5 import read_map_record, read_particles
from protomer.formats.mrc import read_volume, write_volume
from protomer.formats.star import read_star_particles
from protomer.maps.resolution import measure_fsc
from protomer.maps.volumes import Halves, Volume
from protomer.tables.particles import Particles
from protomer_kernels.rotations import matrices_from_quaternions

START_A = 12.0
RELION_WORDS = ("--o ./run --i particles.star --ref start.mrc --auto_refine --split_random_halves --ini_high {start:g} --ctf "
                "--ctf_corrected_ref --norm --scale --flatten_solvent --solvent_mask mask.mrc --zero_mask "
                "--particle_diameter {diameter:.0f} --healpix_order 4 --auto_local_healpix_order 4 --oversampling 1 --offset_range 3 "
                "--offset_step 2 --sym C1 --pad 2 --dont_check_norm --pool 10 --j 1 --no_parallel_disc_io --random_seed 1")


def by_protomer(folder: Path, name: str, settings: tuple[str, ...], threads: int) -> tuple[relion.Cost, Particles, Halves[Volume]]:
    """local-refine with these settings."""
    inputs = ("--particles", folder / "imported", "--volume", folder / "consensus", "--mask", folder / "mask.mrc")
    words = [word for setting in settings for word in ("--set", setting)]
    cost = relion.counted(folder / f"cost_{name}.json", "local-refine", *inputs, "--output", folder / name, "--threads", threads, *words)
    return cost, read_particles(folder / name / "particles.h5"), read_map_record(folder / name / "volume.h5").half_maps


def by_relion(folder: Path, chosen: argparse.Namespace) -> tuple[relion.Cost, Particles, Halves[Volume]]:
    """RELION's local searches. Raises PeerFailure."""
    home, version = folder / "relion", relion.relion_version()
    text = RELION_WORDS.format(start=START_A, diameter=relion.DIAMETER * chosen.box * chosen.pixel_size)
    command = ["relion_refine_mpi", *text.split(), *([] if "no accelerated" in version else ["--cpu"])]
    print(f"{version}. Started as `mpirun -n 3 {' '.join(command)}`.\n")
    if not (home / "run_model.star").exists():
        home.mkdir(exist_ok=True)
        shutil.copy(folder / "mask.mrc", home)
        write_volume(folder / "simulated/start.mrc", read_map_record(folder / "consensus/volume.h5").map)
        relion.counted(folder / "cost_export.json", "export", "--particles", folder / "imported", "--star", home / "posed.star")
        text = (home / "posed.star").read_text()
        (folder / "simulated/particles.star").write_text(text.replace("../simulated/", ""))
        relion.run_relion(folder, command, 60 * chosen.patience)
    cost = relion.Cost.of([json.loads((home / f"cost_{rank}.json").read_text()) for rank in range(3)])
    halves = Halves(*(read_volume(home / f"run_half{half}_class001_unfil.mrc") for half in (1, 2)))
    return cost, read_star_particles(home / "run_data.star", project_folder=home), halves


def row(folder: Path, result: tuple[relion.Cost, Particles, Halves[Volume]]) -> dict[str, str]:
    """One program's figures."""
    cost, particles, halves = result
    mask = read_volume(folder / "mask.mrc")
    error = median_error_deg(matrices_from_quaternions(particles.rotation), folder, particles.stack_index)
    fsc = measure_fsc(halves.map(lambda half: Volume(half.data, mask.voxel_size_A)), mask, "mask")
    return {"CPU, s": f"{cost.cpu_s:.0f}", "wall, s": f"{cost.wall_s:.0f}", "peak memory, GB": f"{cost.peak_GB:.2f}",
            "median error": f"{error:.2f}°", "half-map FSC 0.143 in the mask": f"{fsc.resolution_A_at('corrected'):.2f} Å"}


def compare(folder: Path, chosen: argparse.Namespace) -> None:
    """Run what is not there yet and print the table."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "mask.mrc").exists():
        prepare(folder, chosen)
        by_protomer(folder, "first", PRIOR, chosen.threads)  # fills the compile cache
    particles = read_particles(folder / "imported/particles.h5")
    before = median_error_deg(matrices_from_quaternions(particles.rotation), folder, particles.stack_index)
    print(f"{chosen.number} images of {chosen.box} px at {chosen.pixel_size:g} Å, signal over noise {chosen.snr:g}. Median error of the "
          f"chain at the poses of the whole: {before:.2f} degrees.\n")
    rows = {"Protomer, prior": row(folder, by_protomer(folder, "prior", PRIOR, chosen.threads)),
            "Protomer, prior, rest subtracted": row(folder, by_protomer(folder, "subtracted", PRIOR + REST, chosen.threads))}
    missing = ""
    try:
        rows["RELION, local searches"] = row(folder, by_relion(folder, chosen))
    except relion.PeerFailure as failure:
        missing = f"\nRELION is not in the table: {failure}"
    print(relion.markdown(rows) + missing)


def main() -> None:
    """Read the arguments; work in the folder given or in a temporary one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="a dimer, .cif or .pdb")
    entries = (("number", int, 500), ("box", int, 48), ("pixel-size", float, 3.4), ("snr", float, 0.1), ("threads", int, 2),
               ("patience", float, 180.0))
    for name, kind, default in entries:
        parser.add_argument(f"--{name}", type=kind, default=default, help=f"[{default:g}]")
    parser.add_argument("--folder", type=Path, help="keep everything there, and do not run again what is finished there")
    chosen = parser.parse_args()
    if chosen.model is None:
        print("Not measured: give --model, such as MsbA, PDB 8tsq")
        return
    with tempfile.TemporaryDirectory() as temporary:
        compare((chosen.folder or Path(temporary)).resolve(), chosen)


if __name__ == "__main__":
    main()
