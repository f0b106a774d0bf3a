"""Non-uniform against uniform regularisation: a core beside a disordered belt, as of a membrane protein in its micelle, and a core alone.

python benchmarks/non_uniform.py [--number 1500] [--box 72] [--pixel-size 3.2] [--snr 0.05] [--threads 1] [--folder FOLDER]

The core is RNA polymerase II; the belt a ring of atoms about it, other ones in every image, as many as the core has. The truth FSC is the
map's with the core, in a mask around the core alone. CPU seconds are those of refine.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from accuracy import protomer

from protomer.formats.hdf5 import read_map_record, read_particles
from protomer.formats.mrc import read_volume, write_volume
from protomer.jobs.simulate import DEFAULT_BFACTOR_A2, DEFAULT_MODEL
from protomer.maps.resolution import first_crossing
from protomer.maps.volumes import Volume
from protomer.randomness import generator
from protomer.simulation.dataset import Simulator
from protomer.simulation.draws import SimulationDesign, Truth
from protomer.simulation.files import read_truth, star_tables, write_blocks, write_star, write_truth
from protomer.simulation.scatterers import read_atom_model
from protomer.simulation.truth import pose_errors, truth_fsc
from protomer_kernels.atoms import image_fts_of_atoms, real_images
from protomer_kernels.fourier import low_pass
from protomer_kernels.masks import dynamic_mask
from protomer_kernels.rotations import matrices_from_quaternions

INNER_A, OUTER_A, HEIGHT_A = 62.0, 86.0, 36.0  # of the belt
START_A = 30.0


class BeltedSimulator(Simulator):
    """Images of a particle with a belt that is another one in every image."""

    def signal(self, truth: Truth, rows: np.ndarray) -> np.ndarray:
        """Images without noise, (n, box, box) float32."""
        belts = np.concatenate([self._belt(int(row), truth.take(np.array([n]))) for n, row in enumerate(rows)])
        return np.asarray(super().signal(truth, rows) + real_images(belts * self._transfer(truth), self.design.box))

    def _belt(self, row: int, truth: Truth) -> np.ndarray:
        random, atoms, pixel_A = generator(self.design.seed, row, "belt"), self.scatterers[0], self.design.pixel_size_A
        number = len(atoms.weights)  # type: ignore[attr-defined]
        angle, radius = random.uniform(0, 2 * np.pi, number), np.sqrt(random.uniform(INNER_A**2, OUTER_A**2, number))
        height = random.uniform(-HEIGHT_A / 2, HEIGHT_A / 2, number)
        positions = np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=1) / pixel_A
        weights = np.full(number, atoms.image_total(pixel_A) / number, np.float32)
        rotations, offsets = matrices_from_quaternions(truth.rotation), -truth.shift_A / pixel_A
        return image_fts_of_atoms(positions, weights, rotations, offsets, self.design.box, DEFAULT_BFACTOR_A2 / pixel_A**2)


def simulate(folder: Path, has_belt: bool, chosen: argparse.Namespace) -> None:
    """Images, truth and the core's map in folder/simulated, imported into folder/imported."""
    home = folder / "simulated"
    home.mkdir(parents=True, exist_ok=True)
    core = read_atom_model(DEFAULT_MODEL, DEFAULT_BFACTOR_A2)
    design = SimulationDesign(chosen.number, chosen.box, chosen.pixel_size, chosen.snr, seed=1)
    simulator = (BeltedSimulator if has_belt else Simulator)((core,), design)
    shape = (chosen.number, chosen.box, chosen.box)
    write_blocks(home / "particles.mrcs", simulator.blocks(), shape, chosen.pixel_size, lambda number: None)
    write_star(home / "particles.star", star_tables(simulator.truth, design, None, False))
    write_truth(home / "truth.h5", simulator.truth, design)
    volume = simulator.volume()
    write_volume(home / "map.mrc", volume)
    start = low_pass(volume.data, chosen.box * chosen.pixel_size / START_A, 2.0).astype(np.float32)
    write_volume(home / "start.mrc", Volume(start, chosen.pixel_size))
    protomer("import", "--star", home / "particles.star", "--output", folder / "imported")


def measure(folder: Path, name: str, settings: tuple[str, ...], threads: int) -> str:
    """A row of the table."""
    words = [word for setting in (f"initial_low_pass={START_A:g}A", *settings) for word in ("--set", setting)]
    cost = protomer("refine", "--particles", folder / "imported", "--volume", folder / "simulated/start.mrc", "--output", folder / name,
                    "--threads", threads, *words)
    found, record = read_particles(folder / name / "particles.h5"), read_map_record(folder / name / "volume.h5")
    truth, true_map = read_truth(folder / "simulated/truth.h5").take(found.stack_index), read_volume(folder / "simulated/map.mrc")
    errors = pose_errors(found.rotation, found.shift_A, truth.rotation, truth.shift_A)
    mask = Volume(dynamic_mask(true_map.data, 0.1, 4.0 / true_map.voxel_size_A, 12.0 / true_map.voxel_size_A), true_map.voxel_size_A)
    halves = record.half_maps
    curve = truth_fsc(Volume((halves.a.data + halves.b.data) / 2, true_map.voxel_size_A), true_map, errors.frame, mask)
    width_A = true_map.box * true_map.voxel_size_A
    return (f"| {folder.name} | {name} | {cost.cpu_s:.0f} | {np.median(errors.angle_deg):.2f} | {100 * errors.lost():.1f} | "
            f"{width_A / first_crossing(curve, 0.5):.2f} | {float(curve[1:].mean()):.3f} |")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    entries = (("number", int, 1500), ("box", int, 72), ("pixel-size", float, 3.2), ("snr", float, 0.05), ("threads", int, 1))
    for name, kind, default in entries:
        parser.add_argument(f"--{name}", type=kind, default=default, help=f"[{default:g}]")
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    print(f"{chosen.number} images of {chosen.box} px at {chosen.pixel_size:g} Å, signal over noise {chosen.snr:g}, belt included.\n")
    print("| images | regularisation | CPU s | median error, deg | lost, % | truth FSC 0.5 of the core, Å | mean truth FSC |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        for kind in ("with belt", "core alone"):
            folder = (chosen.folder or Path(temporary)).resolve() / kind
            simulate(folder, kind == "with belt", chosen)
            for name, settings in (("uniform", ()), ("non-uniform", ("non_uniform=on",))):
                print(measure(folder, name, settings, chosen.threads), flush=True)


if __name__ == "__main__":
    main()
