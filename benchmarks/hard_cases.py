"""Hard simulated cases: what a refinement loses, against what the same search loses where the map comes from true poses.

python benchmarks/hard_cases.py [--share 1.0] [--threads 1]

`dim`: 4,000 images whose signal over noise is 0.04 in the particle's disc (0.02 over the whole image), from 40 A. `realistic`: 5,000
images with uneven views, contrast spread, unknown envelopes, coloured noise, defocus errors and 10 % junk, from 35 A. The last columns are
the limit that expectation-maximisation could reach: one search of all images against half maps made from true poses, junk left out.
--share makes the sets smaller. CPU seconds are those of the refinement alone, as the operating system counts them.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from accuracy import protomer

from protomer.computing.arithmetic import CPU
from protomer.engine.model import Model, insertion_scale
from protomer.engine.pose_table import PoseTable
from protomer.engine.schedule import Band
from protomer.engine.sums import insert_poses
from protomer.formats.hdf5 import read_map_record, read_particles
from protomer.formats.mrc import read_volume
from protomer.imaging.images import ImageStore, common_frame, whitened
from protomer.maps.fsc_curves import first_crossing
from protomer.maps.volumes import Volume
from protomer.refinement.loop import iterate, maximise
from protomer.refinement.preparing import surveyed
from protomer.refinement.setup import Masking, Setup, State
from protomer.running.batches import make_batches
from protomer.running.progress import show_progress
from protomer.running.ranks import Team
from protomer.simulation.files import read_truth
from protomer.simulation.truth import PoseErrors, pose_errors, truth_fsc
from protomer_kernels.half_plane import HalfPlane, largest_radius
from protomer_kernels.insertion import empty_accumulator

FOLDS = 4


@dataclass(frozen=True)
class Case:
    """A simulated set."""

    name: str
    number: int
    box: int
    pixel_A: float
    snr: float
    start_A: float
    realistic: bool


CASES = (Case("dim", 4000, 64, 3.5, 0.04, 40.0, False), Case("realistic", 5000, 72, 3.0, 0.06, 35.0, True))


def errors_of(rotation: np.ndarray, shift_A: np.ndarray, folder: Path, rows: np.ndarray) -> PoseErrors:
    """Of the images that hold the particle."""
    truth = read_truth(folder / "simulated/truth.h5").take(rows)
    real = truth.junk == 0
    return pose_errors(rotation[real], shift_A[real], truth.rotation[real], truth.shift_A[real])


def limit(folder: Path) -> PoseErrors:
    """One search of all images against half maps from true poses, cross-fitted as in a refinement."""
    particles = read_particles(folder / "imported/particles.h5")
    truth = read_truth(folder / "simulated/truth.h5").take(particles.stack_index)
    box, pixel_A = common_frame(particles)
    plane, number = HalfPlane(box, largest_radius(box)), len(particles)
    batches = make_batches(particles, FOLDS, 0)
    store = ImageStore(particles, plane, [b.rows for b in batches])
    setup = Setup(particles, store, batches, range(len(batches)), Team(), pixel_A, 0, CPU,
                  lambda label, total: show_progress(label, total, False), join_shell=round(box * pixel_A / 20.0),
                  shift_extent_px=box / 16, masking=Masking("dynamic"))
    setup, noise = surveyed(setup)
    true = PoseTable(truth.rotation[:, None], truth.shift_A[:, None] / pixel_A, (truth.junk == 0)[:, None] * 1.0, np.zeros(number),
                     np.zeros((number, 15)), np.zeros(number))
    nothing = replace(PoseTable.empty(number), log_likelihood=np.zeros(number))
    for _ in range(2):  # the second time with the noise that these maps leave
        model = Model({}, noise, setup.operators, plane.radius)
        scale, weights = insertion_scale(setup.largest, particles, model), model.root_weight(plane, len(plane))
        sums = {key: empty_accumulator(plane.radius) for key in setup.keys}
        for n, crops in setup.store.stream(setup.numbers):
            rows = batches[n].rows
            insert_poses(whitened(particles, rows, crops, weights, plane, pixel_A), true.take(rows), plane, setup.operators, scale,
                         sums[batches[n].key])
        maps, curve = maximise(setup, sums, scale, Band(box, plane.radius, plane.radius))
        resolved = int(np.argmax(curve < 0.143)) or plane.radius
        band = Band(box, plane.radius - 1, min(resolved + 2, plane.radius - 1), iteration=5)
        model = Model(maps, noise, setup.operators, band.insertion_radius)
        found = iterate(setup, State(band, model, nothing, np.zeros(number, np.int64), particles.scale))
        noise = found.model.noise
    return errors_of(found.poses.rotation[:, 0], found.poses.shift_px[:, 0] * pixel_A, folder, particles.stack_index)


@dataclass(frozen=True)
class Score:
    """How good a refinement is. Shells: of the corrected half-map FSC at 0.143, and of the FSC with the truth at 0.5, same mask."""

    errors: PoseErrors
    reported: float
    true: float


def make_set(case: Case, share: float, folder: Path, seed: int = 0) -> int:
    """Simulate and import a share of a case's images in `folder`; how many there are."""
    sets = {"number": round(case.number * share), "box": case.box, "pixel_size": case.pixel_A, "snr": case.snr,
            "start_low_pass": case.start_A, "realistic": "on" if case.realistic else "off", "seed": seed}
    words = [word for name, value in sets.items() for word in ("--set", f"{name}={value}")]
    protomer("simulate", "--output", folder / "simulated", *words)
    protomer("import", "--star", folder / "simulated/particles.star", "--output", folder / "imported")
    return int(sets["number"])


def refinement_words(case: Case, folder: Path, threads: int) -> tuple[object, ...]:
    """The refinement of a set, but for its --output."""
    return ("refine", "--particles", folder / "imported", "--volume", folder / "simulated/start.mrc", "--set",
            f"initial_low_pass={case.start_A}", "--threads", threads)


def score(folder: Path, refined: Path) -> Score:
    """Of the refinement in `refined`, of the set in `folder`."""
    particles, record = read_particles(refined / "particles.h5"), read_map_record(refined / "volume.h5")
    errors = errors_of(particles.rotation, particles.shift_A, folder, particles.stack_index)
    mean = Volume((record.half_maps.a.data + record.half_maps.b.data) / 2, record.map.voxel_size_A)
    curve = truth_fsc(mean, read_volume(folder / "simulated/map.mrc"), errors.frame, record.fsc_mask)
    assert record.fsc is not None
    return Score(errors, record.fsc.shell_at("corrected", 0.143), first_crossing(curve, 0.5))


def measure(case: Case, share: float, threads: int, folder: Path) -> str:
    """A row of the table."""
    number, refine = make_set(case, share, folder), refinement_words(case, folder, threads)
    protomer(*refine, "--output", folder / "compiled", "--set", "max_alignment_resolution=30A")
    cost = protomer(*refine, "--output", folder / "refined")
    found, best = score(folder, folder / "refined"), limit(folder)
    shells = f"{found.reported:.1f} | {found.true:.1f} | {largest_radius(case.box)}"
    poses = " | ".join(f"{np.median(e.angle_deg):.2f} | {100 * e.lost():.1f}" for e in (found.errors, best))
    return f"| {case.name} | {number} | {cost.cpu_s:.0f} | {shells} | {poses} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    print("| case | images | CPU s | shells reported | shells true | of | median deg | lost % | limit: median deg | limit: lost % |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for case in CASES:
        with tempfile.TemporaryDirectory() as name:
            print(measure(case, chosen.share, chosen.threads, Path(name)), flush=True)


if __name__ == "__main__":
    main()
