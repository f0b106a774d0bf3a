"""Non-uniform against uniform regularisation: an ordered core in a disordered belt, as of a membrane protein in its micelle; a small RNA;
and a particle that is the same everywhere, where nothing is to be gained.

python benchmarks/non_uniform.py [--number 1500] [--seeds 1] [--threads 1] [--kinds membrane,alone,rna,polymerase] [--folder FOLDER]

membrane: what of RNA polymerase II lies within 30 Å of its centre, in a ring of three times its mass, other atoms in every image; alone:
the same without the ring; rna: a made-up RNA of three helices of 24 kDa; polymerase: RNA polymerase II in a ring of its own mass. The truth
FSC is the map's with the core, in a mask around the core alone. CPU seconds are those of refine.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accuracy import protomer
from scipy.spatial.transform import Rotation

from protomer.formats.hdf5 import read_map_record, read_particles
from protomer.formats.mrc import read_volume, write_volume
from protomer.jobs.simulate import DEFAULT_BFACTOR_A2, DEFAULT_MODEL
from protomer.maps.fsc_curves import first_crossing
from protomer.maps.volumes import Volume
from protomer.randomness import generator
from protomer.simulation.dataset import Simulator
from protomer.simulation.draws import SimulationDesign, Truth
from protomer.simulation.files import read_truth, star_tables, write_blocks, write_star, write_truth
from protomer.simulation.scatterers import AtomModel, read_atom_model
from protomer.simulation.truth import pose_errors, truth_fsc
from protomer_kernels.atoms import image_fts_of_atoms, real_images
from protomer_kernels.fourier import low_pass
from protomer_kernels.masks import dynamic_mask
from protomer_kernels.rotations import matrices_from_quaternions

START_A, GLOBULE_A = 30.0, 30.0


@dataclass(frozen=True)
class Phantom:
    """A core, and a belt of `times` its mass between two radii, of a height (Å); images of box px, signal over noise with the belt."""

    model: str
    times: float
    belt_A: tuple[float, float, float]
    box: int
    pixel_size_A: float
    snr: float


PHANTOMS = {
    "membrane": Phantom("globule", 3.0, (34.0, 64.0, 40.0), 48, 3.2, 0.3),
    "alone": Phantom("globule", 0.0, (0.0, 0.0, 0.0), 48, 3.2, 0.15),
    "rna": Phantom("rna", 0.0, (0.0, 0.0, 0.0), 48, 3.2, 0.15),
    "polymerase": Phantom("polymerase", 1.0, (62.0, 86.0, 36.0), 72, 3.2, 0.05),
}


class BeltedSimulator(Simulator):
    """Images of a particle with a belt that is another one in every image."""

    def __init__(self, core: AtomModel, design: SimulationDesign, phantom: Phantom) -> None:
        self.phantom = phantom
        super().__init__((core,), design)

    def signal(self, truth: Truth, rows: np.ndarray) -> np.ndarray:
        """Images without noise, (n, box, box) float32."""
        if self.phantom.times == 0:
            return super().signal(truth, rows)
        belts = np.concatenate([self._belt(int(row), truth.take(np.array([n]))) for n, row in enumerate(rows)])
        return np.asarray(super().signal(truth, rows) + real_images(belts * self._transfer(truth), self.design.box))

    def _belt(self, row: int, truth: Truth) -> np.ndarray:
        random, atoms, pixel_A = generator(self.design.seed, row, "belt"), self.scatterers[0], self.design.pixel_size_A
        (inner_A, outer_A, height_A), times = self.phantom.belt_A, self.phantom.times
        number = int(times * len(atoms.weights))  # type: ignore[attr-defined]
        angle, radius = random.uniform(0, 2 * np.pi, number), np.sqrt(random.uniform(inner_A**2, outer_A**2, number))
        height = random.uniform(-height_A / 2, height_A / 2, number)
        positions = np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=1) / pixel_A
        weights = np.full(number, times * atoms.image_total(pixel_A) / number, np.float32)
        rotations, offsets = matrices_from_quaternions(truth.rotation), -truth.shift_A / pixel_A
        return image_fts_of_atoms(positions, weights, rotations, offsets, self.design.box, DEFAULT_BFACTOR_A2 / pixel_A**2)


def rna_model(pairs: int = 12, seed: int = 2) -> AtomModel:
    """Three double helices of A-form geometry (rise 2.8 Å, 11 pairs a turn) from one junction: about 24 kDa, no symmetry."""
    random, arms = np.random.default_rng(seed), Rotation.from_euler("ZYZ", [(0, 0, 0), (20, 105, 40), (150, 80, 10)], degrees=True)
    positions = []
    for n, arm in enumerate(arms):
        for pair in range(pairs + 3 * n):
            for strand in (0.0, 2.4):
                angle = 2 * np.pi * pair / 11 + strand
                radius = np.concatenate([random.uniform(7.5, 9.5, 12), random.uniform(1.0, 6.0, 9)])  # backbone and base
                spread = angle + random.normal(0, 0.25, len(radius))
                height = 2.8 * pair + 12.0 + random.normal(0, 1.2, len(radius))
                positions.append(arm.apply(np.stack([radius * np.cos(spread), radius * np.sin(spread), height], axis=1)))
    atoms = np.concatenate(positions)
    return AtomModel(atoms - atoms.mean(axis=0), np.full(len(atoms), 7.0, np.float32), DEFAULT_BFACTOR_A2)


def model_of(name: str) -> AtomModel:
    """The core of a phantom."""
    if name == "rna":
        return rna_model()
    whole = read_atom_model(DEFAULT_MODEL, DEFAULT_BFACTOR_A2)
    if name == "polymerase":
        return whole
    inside = np.linalg.norm(whole.positions_A - whole.positions_A.mean(axis=0), axis=1) < GLOBULE_A
    positions_A = whole.positions_A[inside]
    return AtomModel(positions_A - positions_A.mean(axis=0), whole.weights[inside], whole.bfactor_A2)


def simulate(folder: Path, phantom: Phantom, number: int, seed: int) -> None:
    """Images, truth and the core's map in folder/simulated, imported into folder/imported."""
    home = folder / "simulated"
    home.mkdir(parents=True, exist_ok=True)
    core = model_of(phantom.model)
    box, pixel_A = phantom.box, phantom.pixel_size_A
    design = SimulationDesign(number, box, pixel_A, phantom.snr, seed=seed)
    simulator = BeltedSimulator(core, design, phantom)
    write_blocks(home / "particles.mrcs", simulator.blocks(), (number, box, box), pixel_A, lambda done: None)
    write_star(home / "particles.star", star_tables(simulator.truth, design, None, False))
    write_truth(home / "truth.h5", simulator.truth, design)
    volume = simulator.volume()
    write_volume(home / "map.mrc", volume)
    write_volume(home / "start.mrc", Volume(low_pass(volume.data, box * pixel_A / START_A, 2.0).astype(np.float32), pixel_A))
    protomer("import", "--star", home / "particles.star", "--output", folder / "imported")


def measure(folder: Path, name: str, settings: tuple[str, ...], threads: int) -> str:
    """A row of the table."""
    words = [word for setting in (f"initial_low_pass={START_A:g}A", "rehearse=off", *settings) for word in ("--set", setting)]
    cost = protomer("refine", "--particles", folder / "imported", "--volume", folder / "simulated/start.mrc", "--output", folder / name,
                    "--threads", threads, *words)
    found, record = read_particles(folder / name / "particles.h5"), read_map_record(folder / name / "volume.h5")
    truth, true_map = read_truth(folder / "simulated/truth.h5").take(found.stack_index), read_volume(folder / "simulated/map.mrc")
    errors = pose_errors(found.rotation, found.shift_A, truth.rotation, truth.shift_A)
    mask = Volume(dynamic_mask(true_map.data, 0.1, 4.0 / true_map.voxel_size_A, 12.0 / true_map.voxel_size_A), true_map.voxel_size_A)
    halves = record.half_maps
    curve = truth_fsc(Volume((halves.a.data + halves.b.data) / 2, true_map.voxel_size_A), true_map, errors.frame, mask)
    width_A = true_map.box * true_map.voxel_size_A
    return (f"| {name} | {cost.cpu_s:.0f} | {np.median(errors.angle_deg):.2f} | {100 * errors.lost():.1f} | "
            f"{width_A / first_crossing(curve, 0.5):.2f} | {float(curve[1:].mean()):.3f} |")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in (("number", 1500), ("seeds", 1), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"[{default}]")
    parser.add_argument("--kinds", default=",".join(PHANTOMS), help="which phantoms [all]")
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    print(f"{chosen.number} images each.\n")
    print("| images | seed | regularisation | CPU s | median error, deg | lost, % | truth FSC 0.5 of the core, Å | mean truth FSC |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        for kind, seed in itertools.product(chosen.kinds.split(","), range(1, chosen.seeds + 1)):
            folder, phantom = (chosen.folder or Path(temporary)).resolve() / f"{kind}_{seed}", PHANTOMS[kind]
            simulate(folder, phantom, chosen.number, seed)
            for name, settings in (("uniform", ()), ("non-uniform", ("non_uniform=on",))):
                print(f"| {kind} | {seed} {measure(folder, name, settings, chosen.threads)}", flush=True)


if __name__ == "__main__":
    main()
