"""Local refinement of one protomer of a moving dimer: how far its poses come from where the whole particle's poses left them.

python benchmarks/local_refine.py [--model MODEL] [--number 4000] [--box 64] [--pixel-size 2.6] [--snr 0.1] [--threads 1] [--folder FOLDER]

Each chain is a rigid body, turned by 5 degrees rms about each axis and moved by 1 A rms. The refinements start at the true poses of the
whole particle, with half maps reconstructed from them, and differ in what they are given: a prior of the motion's own width, the rest of
the particle taken from the images, both, or neither. Errors are of the first chain's rotation, beside those that the job itself states at
least; the resolution is the corrected FSC's in the mask, beside where the map's FSC with the true map falls to 0.5 there. CPU seconds are
those of local-refine alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from accuracy import protomer
from scipy.ndimage import distance_transform_edt

from protomer.formats.hdf5 import read_map_record, read_particles
from protomer.formats.mrc import read_volume, write_volume
from protomer.jobs.simulate import DEFAULT_BFACTOR_A2
from protomer.maps.fsc_curves import first_crossing
from protomer.maps.resolution import measure_fsc
from protomer.maps.volumes import MapRecord, Volume
from protomer.simulation.files import read_truth
from protomer.simulation.scatterers import read_atom_model
from protomer_kernels.rotations import matrices_from_quaternions, rotation_errors
from protomer_kernels.shells import fourier_shell_correlation

PRIOR, REST = ("rotation_prior=5deg", "shift_prior=2A"), ("subtract_on_the_fly=on",)
VARIANTS = {"prior, rest subtracted": PRIOR + REST, "prior": PRIOR, "rest subtracted": REST, "neither": ()}
INSIDE_A, OUTSIDE_A = 6.0, 14.0  # of the mask, from the chain's atoms


def mask_of_first_chain(model: Path, box: int, pixel_A: float) -> Volume:
    """1 near the atoms of the first chain, with a soft edge."""
    atoms = read_atom_model(model, DEFAULT_BFACTOR_A2, "each")
    positions = atoms.positions_A[: atoms.body_starts[1]]
    away = np.ones((box,) * 3)
    x, y, z = np.rint(positions / pixel_A + box // 2).astype(int).T
    away[z, y, x] = 0
    near = (OUTSIDE_A - distance_transform_edt(away) * pixel_A) / (OUTSIDE_A - INSIDE_A)
    return Volume(np.clip(near, 0.0, 1.0).astype(np.float32), pixel_A)


def median_error_deg(rotation: np.ndarray, folder: Path, rows: np.ndarray) -> float:
    """Of the first chain."""
    body = matrices_from_quaternions(read_truth(folder / "simulated/truth.h5").take(rows).body_rotation[:, 0])
    return float(np.median(np.rad2deg(np.linalg.norm(rotation_errors(body, rotation, np.eye(3)[None]), axis=1))))


def prepare(folder: Path, chosen: argparse.Namespace) -> None:
    """Images, half maps from the true poses of the whole, mask."""
    sets = {"number": chosen.number, "box": chosen.box, "pixel_size": chosen.pixel_size, "snr": chosen.snr, "subunits": "each",
            "motion_rotation": 5.0, "motion_shift": 1.0, "poses": "true"}
    protomer("simulate", "--model", chosen.model, "--output", folder / "simulated",
             *(word for name, value in sets.items() for word in ("--set", f"{name}={value}")))
    protomer("import", "--star", folder / "simulated/particles.star", "--output", folder / "imported")
    protomer("reconstruct", "--particles", folder / "imported", "--output", folder / "consensus", "--threads", chosen.threads)
    write_volume(folder / "mask.mrc", mask_of_first_chain(chosen.model, chosen.box, chosen.pixel_size))


def measure(folder: Path, name: str, threads: int) -> str:
    """A row of the table."""
    output = folder / name.replace(", ", "_").replace(" ", "_")
    words = [word for setting in VARIANTS[name] for word in ("--set", setting)]
    inputs = ("--particles", folder / "imported", "--volume", folder / "consensus", "--mask", folder / "mask.mrc")
    cost = protomer("local-refine", *inputs, "--output", output, "--threads", threads, *words)
    found, record = read_particles(output / "particles.h5"), read_map_record(output / "volume.h5")
    error = median_error_deg(matrices_from_quaternions(found.rotation), folder, found.stack_index)
    said = json.loads((output / "summary.json").read_text())
    warnings, stated = ", ".join(warning["code"] for warning in said["warnings"]), said["pose_confidence"]["median_error_deg"]
    return f"| {name} | {cost.cpu_s:.0f} | {error:.2f} | {stated:.2f} | {resolutions(folder, record)} | {warnings or '–'} |"


def resolutions(folder: Path, record: MapRecord) -> str:
    """Two cells of the table: of the half maps, and of their mean with the truth, in the mask."""
    mask, true = read_volume(folder / "mask.mrc"), read_volume(folder / "simulated/map.mrc")
    fsc = measure_fsc(record.half_maps, mask, "mask")
    mean = (record.half_maps.a.data + record.half_maps.b.data) / 2
    shell = first_crossing(fourier_shell_correlation(mean * mask.data, true.data * mask.data), 0.5)
    return f"{fsc.resolution_A_at('corrected'):.2f} | {mask.box * mask.voxel_size_A / shell:.2f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a dimer, .cif or .pdb")
    numbers = (("number", int, 4000), ("box", int, 64), ("pixel-size", float, 2.6), ("snr", float, 0.1), ("threads", int, 1))
    for name, kind, default in numbers:
        parser.add_argument(f"--{name}", type=kind, default=default)
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    if chosen.model is None:
        print("Not measured: give --model, such as MsbA, PDB 8tsq")
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = (chosen.folder or Path(temporary)).resolve()
        if not (folder / "mask.mrc").exists():
            prepare(folder, chosen)
        particles = read_particles(folder / "imported/particles.h5")
        before = median_error_deg(matrices_from_quaternions(particles.rotation), folder, particles.stack_index)
        print(f"{chosen.number} images of {chosen.box} px at {chosen.pixel_size:g} Å, signal over noise {chosen.snr:g}. Median error of "
              f"the chain at the poses of the whole: {before:.2f} degrees.\n")
        print("| local refinement with | CPU s | median error, deg | stated, at least | resolution, Å | with the truth, Å | warnings |")
        print(f"|---|---|---|---|---|---|---|\n| none | – | {before:.2f} | – | "
              f"{resolutions(folder, read_map_record(folder / 'consensus/volume.h5'))} | – |")
        for name in VARIANTS:
            print(measure(folder, name, chosen.threads), flush=True)


if __name__ == "__main__":
    main()
