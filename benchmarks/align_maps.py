"""How near align-maps comes to known motions, over many draws, and what it costs, beside a peer.

python benchmarks/align_maps.py [--part draws] [--draws 100] [--data FOLDER] [--peer EMALIGN] [--threads 2]

--data: a folder with emd_3488.mrc and betaGal.mrc; without it only the atomic model that comes with Protomer is used. --peer: emalign's
executable (Harpaz & Shkolnisky 2023, Biological Imaging 3, e8). Each part writes its section of results/align_maps.md.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from protomer.formats.mrc import read_volume, write_volume
from protomer.jobs.simulate import DEFAULT_MODEL
from protomer.maps.map_aligning import Side, default_finest_A, find_placement, spectrum_of
from protomer.maps.map_search import Limits, align
from protomer.maps.rigid_motion import MIRROR, RigidMotion, mirror_volume, move_volume
from protomer.maps.volumes import Volume
from protomer.simulation.scatterers import AtomModel, read_atom_model
from protomer.symmetry.point_groups import operators
from protomer.symmetry.self_correlation import wide_mask
from protomer_kernels.atoms import real_volume
from protomer_kernels.fourier import pad_volume

RESULTS = Path(__file__).parent / "results/align_maps.md"
HEADINGS = {"draws": "Maps turned, moved, mirrored and made noisy", "limits": "Limits", "domains": "Two conformations",
            "round_trip": "There and back", "speed": "256 voxels", "peer": "Beside emalign"}


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=tuple(HEADINGS), action="append")
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--map", help="of the draws: one of emd_3488, betaGal, model; unset: all")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer", default=shutil.which("emalign"))
    chosen = parser.parse_args()
    for part in chosen.part or HEADINGS:
        write_section(HEADINGS[part], globals()[part](chosen))


def maps(data: Path | None) -> dict[str, tuple[Volume, str]]:
    """Maps by name with their point group."""
    found = {"model": (of_model(100, 2.5, 120.0), "C1")}
    for name, group in (("emd_3488", "C2"), ("betaGal", "D2")):
        if data is not None and (data / f"{name}.mrc").exists():
            found[name] = (read_volume(data / f"{name}.mrc"), group)
    return found


def of_model(box: int, voxel_A: float, bfactor_A2: float) -> Volume:
    """The map of the shipped model."""
    return map_of(read_atom_model(DEFAULT_MODEL, bfactor_A2), box, voxel_A)


def map_of(model: AtomModel, box: int, voxel_A: float) -> Volume:
    """The map of a model."""
    return Volume(real_volume(model.volume_ft(box, voxel_A), box).astype(np.float32), voxel_A)


def some_motion(random: np.random.Generator, shift_A: float = 10.0) -> RigidMotion:
    """Any rotation, and a shift of up to so much in any direction."""
    direction, length_A = random.normal(size=3), shift_A * random.random() ** (1 / 3)
    return RigidMotion(Rotation.random(rng=random).as_matrix(), direction / np.linalg.norm(direction) * length_A)


def noisy(volume: Volume, random: np.random.Generator) -> Volume:
    """White noise of the map's own variance in the box: a signal-to-noise ratio of 1."""
    noise = random.standard_normal(volume.data.shape, dtype=np.float32)
    return Volume(volume.data + np.float32(volume.data.std()) * noise, volume.voxel_size_A)


def spectra(*volumes: Volume) -> list[object]:
    """What align takes, of each map."""
    finest_A = default_finest_A(*volumes[:2])
    return [spectrum_of(Side("a map", volume, None), finest_A) for volume in volumes]


def missed(motion: RigidMotion, moved_by: RigidMotion, is_mirrored: bool, group: str) -> tuple[float, float]:
    """Degrees and angstrom from what undoes x' = moved_by(M x), up to the symmetry of the reference."""
    undone = RigidMotion(MIRROR @ moved_by.rotation @ MIRROR, MIRROR @ moved_by.shift_A) if is_mirrored else moved_by
    left = motion.after(undone)
    return min(float(np.rad2deg(Rotation.from_matrix(g @ left.rotation).magnitude())) for g in operators(group)), left.distance_A


def draws(chosen: argparse.Namespace) -> str:
    """The first promise: 0.1 degree, 0.1 voxel and the right hand in 99 of 100."""
    rows = ["| map | within 0.1° and 0.1 voxel, hand right | angle, degrees: median, largest | shift, voxels: median, largest | "
            "error over its stated sd (rms) | nearest other hand | CPU s, median |", "|---|---|---|---|---|---|---|"]
    for name, (volume, group) in maps(chosen.data).items():
        if chosen.map not in (None, name):
            continue
        random, numbers = np.random.default_rng(1), []
        reference = spectra(volume, volume)[0]
        for draw in range(chosen.draws):
            moved_by, flip = some_motion(random), bool(draw % 2)
            moved = noisy(move_volume(mirror_volume(volume) if flip else volume, moved_by), random)
            start = time.process_time()
            found = align(reference, spectra(moved, moved)[0], Limits())
            seconds = time.process_time() - start
            angle_deg, distance_A = missed(found.fit.motion, moved_by, flip, group)
            numbers.append((angle_deg, distance_A / volume.voxel_size_A, found.is_mirrored == flip, seconds,
                            angle_deg / found.fit.angle_sd_deg, found.hand_margin or 0.0))
            print(name, draw, *(f"{value:.4g}" for value in numbers[-1]), flush=True)
        rows.append(draws_row(name, volume, group, np.array(numbers, float)))
    return ("Each map turned by any rotation, shifted by up to 10 Å, every other one mirrored, white noise of the map's variance added (a "
            "signal-to-noise ratio of 1 in the box), and aligned to the map as it was; unset low-pass, one thread.\n\n" + "\n".join(rows)
            + "\n\nNearest other hand: the smallest margin of the score over the other hand. Errors are of three angles, their stated "
              "standard deviation is along the worst-known: where all are known alike, 1.7 is right, where one is known worst, 1.")


def draws_row(name: str, volume: Volume, group: str, numbers: np.ndarray) -> str:
    """One line of the table."""
    angle, voxels, right, seconds, pull, margin = numbers.T
    good = int(((angle < 0.1) & (voxels < 0.1) & (right > 0)).sum())
    return (f"| {name}: {volume.box} voxels of {volume.voxel_size_A:.3g} Å, {group} | {good} of {len(numbers)} | {np.median(angle):.3f}, "
            f"{angle.max():.3f} | {np.median(voxels):.4f}, {voxels.max():.4f} | {np.sqrt((pull**2).mean()):.2f} | {margin.min():.2f} | "
            f"{np.median(seconds):.1f} |")


def limits(chosen: argparse.Namespace) -> str:
    """With max_angle 20 and max_shift 5 nothing beyond is returned, and what is within is found."""
    volume, _ = maps(chosen.data)["model"]
    random, bound, within, beyond, refused, largest = np.random.default_rng(2), Limits(20.0, 5.0), [], 0, 0, (0.0, 0.0)
    reference = spectra(volume, volume)[0]
    for _ in range(max(chosen.draws // 5, 4)):
        axis, angle = random.normal(size=3), random.uniform(0, 30)
        moved_by = RigidMotion(Rotation.from_rotvec(np.deg2rad(angle) * axis / np.linalg.norm(axis)).as_matrix(),
                               some_motion(random, 6.0).shift_A)
        moved = noisy(move_volume(volume, moved_by), random)
        undone = moved_by.inverse
        try:
            found = align(reference, spectra(moved, moved)[0], bound)
        except ValueError:
            refused += 1
            within += [False] if bound.allow(undone) else []
            continue
        motion = found.fit.motion
        largest = max(largest[0], motion.angle_deg), max(largest[1], motion.distance_A)
        if bound.allow(undone):
            within.append(missed(motion, moved_by, False, "C1")[0] < 0.1)
        else:
            beyond += 1
    return (f"max_angle 20°, max_shift 5 Å, motions of up to 30° and 6 Å: of {len(within)} within the limits {sum(within)} were found to "
            f"0.1°; of those beyond, {refused} were refused and {beyond} put elsewhere within; the largest turn and shift returned were "
            f"{largest[0]:.2f}° and {largest[1]:.2f} Å.")


def domains(chosen: argparse.Namespace) -> str:
    """A complex of which one half turns against the other: superposed on that other, in its mask."""
    model, random = read_atom_model(DEFAULT_MODEL, 200.0), np.random.default_rng(3)
    left = model.positions_A[:, 0] < np.median(model.positions_A[:, 0])
    halves = [AtomModel(model.positions_A[part], model.weights[part], model.bfactor_A2) for part in (left, ~left)]
    reference, mask = map_of(model, 96, 3.0), wide_mask(map_of(halves[0], 96, 3.0))
    rows = ["| half turned by | whole maps: off by | in the mask of the other half: off by |", "|---|---|---|"]
    for angle_deg in (5.0, 10.0, 20.0):
        hinge = Rotation.from_rotvec([0.0, 0.0, np.deg2rad(angle_deg)]).as_matrix()
        bent = AtomModel(halves[1].positions_A @ hinge.T, halves[1].weights, model.bfactor_A2)
        both = Volume(map_of(halves[0], 96, 3.0).data + map_of(bent, 96, 3.0).data, 3.0)
        truth = RigidMotion(Rotation.random(rng=random).as_matrix(), random.uniform(-5, 5, 3))
        moved = noisy(move_volume(both, truth), random)
        rows.append(f"| {angle_deg:g}° | " + " | ".join(off(reference, moved, each, truth) for each in (None, mask)) + " |")
    return ("RNA polymerase II (1y1v, 3 Å voxels) cut in two halves of as many atoms, of which one turns about an axis through the middle; "
            "the truth superposes the other. The mask is given for the reference alone; the map is noisy (ratio 1) and lies anywhere.\n\n"
            + "\n".join(rows))


def off(reference: Volume, moved: Volume, mask: Volume | None, truth: RigidMotion) -> str:
    """By how much an alignment misses the domain-superposed truth."""
    found = find_placement(Side("reference", reference, mask), Side("moved", moved, None), None, Limits())
    return "{:.2f}°, {:.2f} Å".format(*missed(found.placement.motion, truth, False, "C1"))


def round_trip(chosen: argparse.Namespace) -> str:
    """A to B and B to A are inverse within the stated uncertainty."""
    volume, _ = maps(chosen.data)["model"]
    random, ratios = np.random.default_rng(4), []
    for _ in range(max(chosen.draws // 10, 4)):
        a, b = noisy(volume, random), noisy(move_volume(volume, some_motion(random)), random)
        one, two = spectra(a, b)
        there, back = align(one, two, Limits(both_hands=False)).fit, align(two, one, Limits(both_hands=False)).fit
        left = back.motion.after(there.motion)
        ratios.append((left.angle_deg / np.hypot(there.angle_sd_deg, back.angle_sd_deg),
                       left.distance_A / np.hypot(there.shift_sd_A, back.shift_sd_A)))
    worst = np.max(ratios, axis=0)
    return (f"{len(ratios)} noisy pairs aligned both ways: what is left after there and back is at most {worst[0]:.2f} (turn) and "
            f"{worst[1]:.2f} (shift) of the stated standard deviation.")


def pair_of_256(folder: Path, number: int = 1) -> RigidMotion:
    """reference.mrc and moved_1.mrc ... in a folder: 256 voxels of 1.4 Å; the motion of the first."""
    volume = Volume(pad_volume(of_model(128, 2.8, 120.0).data, 256).astype(np.float32), 1.4)
    random = np.random.default_rng(5)
    write_volume(folder / "reference.mrc", volume)
    motions = []
    for each in range(number):
        motions.append(some_motion(random))
        write_volume(folder / f"moved_{each + 1}.mrc", noisy(move_volume(volume, motions[-1]), random))
    return motions[0]


def measured(words: list[str], threads: int) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak memory (GB) of a command; it must not fail."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    code = ("import resource, subprocess, sys; done = subprocess.run(sys.argv[1:], stdout=sys.stderr); "
            "print('PEAK', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(done.returncode)")
    done = subprocess.run([sys.executable, "-c", code, *words], env=environment(threads), check=True,
                          stdout=subprocess.PIPE, text=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, int(done.stdout.split()[-1]) / 1e6


def environment(threads: int) -> dict[str, str]:
    """That of a program that may use so many threads."""
    return {**os.environ, **{f"{name}_NUM_THREADS": str(threads) for name in ("NUMBA", "OMP", "OPENBLAS", "MKL")}}


def ours(folder: Path, volumes: list[str], threads: int, *more: str) -> tuple[float, float, float]:
    """The whole job on files of a folder."""
    flags = [word for name in volumes for word in ("--volume", str(folder / name))]
    return measured([sys.executable, "-m", "protomer", "align-maps", "--reference", str(folder / "reference.mrc"), *flags, "--output",
                     str(folder / "out"), "--overwrite", "--threads", str(threads), *more], threads)


def speed(chosen: argparse.Namespace) -> str:
    """The whole job, from files to files and report, for one and for three maps of 256 voxels."""
    rows = ["| maps | wall s | CPU s | peak GB |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pair_of_256(folder, 3)
        ours(folder, ["moved_1.mrc"], chosen.threads, "--set", "figures=false")  # compiles
        for number, more in ((1, ("--set", "figures=false")), (1, ()), (3, ())):
            wall, cpu, peak = ours(folder, [f"moved_{each + 1}.mrc" for each in range(number)], chosen.threads, *more)
            rows.append(f"| {number}{', no figures' if more else ''} | {wall:.1f} | {cpu:.1f} | {peak:.2f} |")
    return (f"`protomer align-maps` on {chosen.threads} threads, all rotations, both hands, noisy maps of 256 voxels: reading, searching, "
            "moving, writing, report and start of the program. Load of the machine at the end: "
            f"{os.getloadavg()[0]:.1f} (wall times suffer from it, CPU times hardly).\n\n" + "\n".join(rows))


def peer(chosen: argparse.Namespace) -> str:
    """The same files for both programs."""
    if not chosen.peer:
        return "Skipped: emalign is not installed here (`pip install emalign` into an environment of its own, then --peer its executable)."
    rows = ["| pair | program | wall s | CPU s | peak GB | off by |", "|---|---|---|---|---|---|"]
    for box, label in ((100, "100 voxels, noisy"), (256, "256 voxels, noisy")):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if box == 256:
                moved_by = pair_of_256(folder)
            else:
                volume, random = of_model(100, 2.5, 120.0), np.random.default_rng(6)
                moved_by = some_motion(random)
                write_volume(folder / "reference.mrc", volume)
                write_volume(folder / "moved_1.mrc", noisy(move_volume(volume, moved_by), random))
            words = ["-v1", "reference.mrc", "-v2", "moved_1.mrc", "-o", "theirs.mrc", "--output-parameters", "theirs.txt"]
            theirs = measured([chosen.peer, *(word if word[0] == "-" else str(folder / word) for word in words)], chosen.threads)
            for program, cost in (("align-maps", ours(folder, ["moved_1.mrc"], chosen.threads)), ("emalign", theirs)):
                angle_deg, distance_A = result_of(program, folder, moved_by)
                rows.append(f"| {label} | {program} | {cost[0]:.1f} | {cost[1]:.1f} | {cost[2]:.2f} | {angle_deg:.3f}°, "
                            f"{distance_A:.3f} Å |")
    return ("emalign 1.0.5 (with NumPy 1.26; it fails under NumPy 2.4) with its defaults, which reduce maps to 64 voxels and then "
            "refine; the same files, "
            f"{chosen.threads} threads; it tries both hands as well.\n\n" + "\n".join(rows))


def result_of(program: str, folder: Path, moved_by: RigidMotion) -> tuple[float, float]:
    """By how much a program missed the truth: how it moved the map is read from what it wrote, noise and all, held against what it read."""
    given = read_volume(folder / "moved_1.mrc")
    written = read_volume(folder / ("out/class_1/map.mrc" if program == "align-maps" else "theirs.mrc"), given.voxel_size_A)
    found = align(*spectra(written, given), Limits())
    return (180.0, np.inf) if found.is_mirrored else missed(found.fit.motion, moved_by, False, "C1")


def write_section(heading: str, text: str) -> None:
    """Replace one section of the results."""
    old = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else "# Maps aligned to maps\n\n`python benchmarks/align_maps.py`\n"
    section = f"## {heading}\n\n{text.strip()}\n\n"
    pattern = re.compile(rf"## {re.escape(heading)}\n.*?(?=\n## |\Z)", re.DOTALL)
    new = pattern.sub(lambda _: section.rstrip("\n") + "\n", old) if pattern.search(old) else old.rstrip("\n") + "\n\n" + section
    RESULTS.write_text(new.rstrip("\n") + "\n", encoding="utf-8")

if __name__ == "__main__":
    main()
