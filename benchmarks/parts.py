"""How fast the parts of a refinement are on one thread, image by image, at three boxes; and how soon each command answers.

python benchmarks/parts.py

The images are simulated (pixel signal over noise 0.1), the reference is the true map, and alignment uses three quarters of the frequencies:
what a refinement does in its last iterations. `search` is what an image without a settled pose takes (grid, then Gauss-Newton from 24
starts, thinned as it marches outward), `climb` what one with settled poses takes. All times are CPU time of this process; the least of
several repeats counts.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from protomer.environment import prepare_environment

prepare_environment(1)

import numpy as np  # noqa: E402
from kernels import REPEATS, cpu_seconds  # noqa: E402

from protomer.catalogue import JOB_NAMES  # noqa: E402
from protomer.engine.alignment import Reference, Search, refine_modes, search_globally  # noqa: E402
from protomer.engine.schedule import GRID_RADII, STARTS, Band  # noqa: E402
from protomer.engine.sums import insert_poses  # noqa: E402
from protomer.formats.mrc import write_stack  # noqa: E402
from protomer.formats.stack_table import read_stack_particles  # noqa: E402
from protomer.imaging.images import ImageStore, Whitened  # noqa: E402
from protomer.jobs.simulate import DEFAULT_BFACTOR_A2, DEFAULT_MODEL  # noqa: E402
from protomer.simulation.dataset import simulate_dataset  # noqa: E402
from protomer.simulation.draws import SimulationDesign  # noqa: E402
from protomer.simulation.pose_trial import SHIFT_EXTENT, known_images  # noqa: E402
from protomer.simulation.scatterers import read_atom_model  # noqa: E402
from protomer_kernels.grid_scores import grid_scores, shift_ramps  # noqa: E402
from protomer_kernels.half_plane import HalfPlane, largest_radius  # noqa: E402
from protomer_kernels.insertion import empty_accumulator, fixed_point_scale  # noqa: E402

CASES = ((64, 3.5, 64), (128, 1.75, 32), (256, 0.875, 8))  # box, Å, images
BAND = 0.75  # of the radius that the box has
IDENTITY = np.eye(3)[None]


def read_and_prepare(box: int, images: np.ndarray, plane: HalfPlane) -> float:
    """CPU seconds per image from a stack on disk to its Fourier crop."""
    with tempfile.TemporaryDirectory() as folder:
        write_stack(Path(folder) / "images.mrcs", np.tile(images, (max(1, 128 // len(images)), 1, 1)), 1.0)
        particles = read_stack_particles(Path(folder) / "images.mrcs", None)
        return cpu_seconds(lambda: ImageStore(particles, plane, [np.arange(len(particles))]).load(0)) / len(particles)


def grid_rates(batch: Whitened, reference: Reference, number: int) -> tuple[float, float, float]:
    """CPU seconds per image of the grid; its GFLOP/s, and those of one matmul of its larger product."""
    plane, length = reference.plane, reference.slices.shape[2]
    ramps = shift_ramps(reference.shifts_px, plane.kx[:length], plane.ky[:length], plane.box)
    data, amplitude = batch.data[:, :, :length], batch.amplitude[:, :length]
    seconds = cpu_seconds(lambda: grid_scores(data, amplitude, reference.slices, ramps, 1))
    left = np.random.default_rng(0).standard_normal((number * len(ramps), 2 * length)).astype(np.float32)
    right = reference.slices.reshape(len(reference.slices), -1)[:2048]
    operations = 2.0 * len(left) * left.shape[1] * len(reference.slices)
    extra = 2.0 * number * length * len(reference.slices)  # the power of each slice under each image's CTF
    alone = 2.0 * len(left) * left.shape[1] * len(right) / cpu_seconds(lambda: left @ right.T)
    return seconds / number, (operations + extra) / seconds / 1e9, alone / 1e9


def rates(box: int, pixel_A: float, number: int) -> dict[str, str]:
    """What each part takes at one box, as texts for the table."""
    model = read_atom_model(DEFAULT_MODEL, DEFAULT_BFACTOR_A2)
    data = simulate_dataset(model, SimulationDesign(number, box, pixel_A, 0.1, 0))
    plane = HalfPlane(box, largest_radius(box))
    radius = int(BAND * plane.radius)
    band = replace(Band.at(box, plane.radius), radius=radius, iteration=len(GRID_RADII))
    search = band.search(SHIFT_EXTENT * box)
    reference = Reference.prepare(data.volume.data, plane, radius, IDENTITY, search)
    batch = known_images(data, plane, radius, slice(0, number))
    wide = known_images(data, plane, band.insertion_radius, slice(0, number))
    poses = search_globally(batch, reference, search)
    accumulator = empty_accumulator(band.insertion_radius)
    scale = fixed_point_scale(100.0 * float(np.abs(wide.data).max()), 10_000)
    grid_s, ours, alone = grid_rates(batch, reference, number)
    search_s = cpu_seconds(lambda: search_globally(batch, reference, search)) / number
    climb_s = cpu_seconds(lambda: climb(batch, reference, search, poses.rotation, poses.shift_px, poses.weight > 1e-3)) / number
    insert_s = cpu_seconds(lambda: insert_poses(wide, poses, plane, IDENTITY, scale, accumulator)) / number
    prepare_s = cpu_seconds(lambda: Reference.prepare(data.volume.data, plane, radius, IDENTITY, search))
    weigh_s = cpu_seconds(lambda: known_images(data, plane, radius, slice(0, number))) / number
    read_s = read_and_prepare(box, data.images, plane)
    return {"read and prepare, images/s": f"{1 / read_s:.0f}", "transform, CTF and whitening, images/s": f"{1 / weigh_s:.0f}",
            f"search: grid ({len(reference.grid)} rotations, {len(reference.shifts_px)} shifts), ms": f"{1e3 * grid_s:.2f}",
            f"search: Gauss-Newton from {STARTS} starts, ms": f"{1e3 * (search_s - grid_s):.2f}",
            "climb from settled modes, ms": f"{1e3 * climb_s:.2f}", "insertion, ms": f"{1e3 * insert_s:.2f}",
            "slices of a new map, s": f"{prepare_s:.2f}",
            "grid: share of matmul's rate": f"{100 * ours / alone:.0f} % of {alone:.0f} GFLOP/s",
            "radius of alignment, of insertion": f"{radius}, {band.insertion_radius}"}


def climb(batch: Whitened, reference: Reference, search: Search, rotation: np.ndarray, shift: np.ndarray, present: np.ndarray) -> object:
    """Gauss-Newton from given modes, which stay as they were."""
    return refine_modes(batch, reference, search, rotation.copy(), shift.copy(), present)


def help_seconds(words: list[str]) -> float:
    """Least CPU seconds of a few `protomer WORDS --help`."""
    times = []
    for _ in range(REPEATS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "protomer", *words, "--help"], stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


def print_table(heads: list[str], columns: list[dict[str, str]]) -> None:
    """One row per part; what a part is may differ between boxes only in brackets."""
    print(f"{'':60}" + "".join(f"{head:>24}" for head in heads))
    for names in zip(*columns, strict=True):
        label = names[0] if len(set(names)) == 1 else names[0].partition(" (")[0] + names[0].partition(")")[2]
        print(f"{label:60}" + "".join(f"{column[name]:>24}" for column, name in zip(columns, names, strict=True)))


def main() -> None:
    """Print both tables."""
    print_table([f"{box} px" for box, _, _ in CASES], [rates(*case) for case in CASES])
    print("\n--help, CPU s: " + ", ".join(f"{' '.join(['protomer', *words])} {help_seconds(words):.2f}"
                                          for words in ([], *([name] for name in JOB_NAMES))))


if __name__ == "__main__":
    main()
