"""Protomer beside RELION: the same simulated images through both, on the same cores, in one table (Markdown).

python benchmarks/relion.py [--number 1000] [--box 64] [--pixel-size 3.5] [--snr 0.1] [--seed 0]
    [--realistic] [--symmetry C1] [--folder FOLDER]

RELION's gold-standard auto-refinement starts from the same map, low-passed to the same resolution, with the options of its own interface's
defaults. CPU time and memory are the operating system's account of each process (wait4): of RELION all MPI processes, leader included; of
Protomer import and refine, after a small run that fills the compile cache. Poses are scored against the truth after one rigid motion. The
reported resolution is measured with one mask, made from the truth moved into each result's frame, the same way for both; each program's own
figure stands beside it. With --folder, what is finished there is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import protomer
from protomer.formats.hdf5 import read_map_record, read_particles
from protomer.formats.mrc import read_volume
from protomer.formats.star import read_star_particles
from protomer.formats.star_text import read_blocks
from protomer.maps.fsc_curves import first_crossing
from protomer.maps.resolution import measure_fsc
from protomer.maps.volumes import Halves, Volume
from protomer.simulation.files import read_truth
from protomer.simulation.truth import in_frame, pose_errors, truth_fsc
from protomer.symmetry.point_groups import operators
from protomer.tables.particles import Particles
from protomer_kernels.masks import dynamic_mask

START_A = 40.0
COPIES_APART_A = 45.0  # of a symmetric particle: how far the model is moved from the axis before it is copied
NUMBER_OF_FIRST_RUN = 100
MASK_THRESHOLD, MASK_NEAR_A, MASK_FAR_A = 0.1, 6.0, 20.0
DIAMETER = 0.93  # of the box's edge: RELION's mask on the images
#: runs one MPI process and leaves [user s, system s, peak KiB, wall s] in a file named by its rank
COUNTED = """
import json, os, sys, time
begun = time.perf_counter()
process = os.spawnvp(os.P_NOWAIT, sys.argv[2], sys.argv[2:])
_, status, usage = os.wait4(process, 0)
with open(sys.argv[1] + os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK", "x")) + ".json", "w") as file:
    json.dump([usage.ru_utime, usage.ru_stime, usage.ru_maxrss, time.perf_counter() - begun], file)
sys.exit(max(os.waitstatus_to_exitcode(status), 0) or (status != 0))
"""


class PeerFailure(Exception):
    """Why a program gave no result, in words for the table."""


@dataclass(frozen=True)
class Cost:
    """What a program took: CPU of all its processes, the longest of them, and the sum of their peaks."""

    cpu_s: float
    wall_s: float
    peak_GB: float

    @classmethod
    def of(cls, processes: list[list[float]]) -> Cost:
        """From [user s, system s, peak KiB, wall s] of each process."""
        return cls(sum(p[0] + p[1] for p in processes), max(p[3] for p in processes), sum(p[2] for p in processes) * 1024 / 1e9)


@dataclass(frozen=True)
class Result:
    """What a program found. own_A: the resolution it reports itself."""

    program: str
    cost: Cost
    particles: Particles
    half_maps: Halves[Volume]
    own_A: float


def counted(record: Path, *words: object) -> Cost:
    """Carry out a protomer command unless `record` says that it was; what it took. Raises SystemExit where it fails."""
    if not record.exists():
        begun = time.perf_counter()
        with tempfile.TemporaryFile("w+") as said:
            process = subprocess.Popen([sys.executable, "-m", "protomer", *map(str, words)], stdout=said, stderr=subprocess.STDOUT)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            said.seek(0)
            if process.returncode:
                raise SystemExit(f"protomer {' '.join(map(str, words))} ended with {process.returncode}:\n{said.read()}")
        record.write_text(json.dumps([usage.ru_utime, usage.ru_stime, usage.ru_maxrss, time.perf_counter() - begun]))
    return Cost.of([json.loads(record.read_text())])


def simulate(folder: Path, chosen: argparse.Namespace, number: int) -> None:
    """The images, in folder/simulated, unless they are there."""
    if (folder / "simulated/summary.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    sets = {"number": number, "box": chosen.box, "pixel_size": chosen.pixel_size, "snr": chosen.snr, "seed": chosen.seed,
            "start_low_pass": START_A, "realistic": "on" if chosen.realistic else "off",
            "symmetry_radius": 0.0 if chosen.symmetry == "C1" else COPIES_APART_A}
    counted(folder / "cost_simulate.json", "simulate", "--output", folder / "simulated",
            "--symmetry", chosen.symmetry, *(word for name, value in sets.items() for word in ("--set", f"{name}={value}")))


def by_protomer(folder: Path, threads: int, symmetry: str = "C1") -> Result:
    """Import and refine."""
    costs = [counted(folder / "cost_import.json", "import", "--star", folder / "simulated/particles.star", "--output", folder / "imported",
                     "--threads", threads),
             counted(folder / "cost_refine.json", "refine", "--particles", folder / "imported", "--volume", folder / "simulated/start.mrc",
                     "--symmetry", symmetry, "--set", f"initial_low_pass={START_A}", "--output", folder / "refined", "--threads", threads)]
    cost = Cost(sum(c.cpu_s for c in costs), sum(c.wall_s for c in costs), max(c.peak_GB for c in costs))
    record = read_map_record(folder / "refined/volume.h5")
    assert record.fsc is not None
    return Result(f"Protomer {protomer.__version__}", cost, read_particles(folder / "refined/particles.h5"), record.half_maps,
                  record.fsc.resolution_A_at("corrected"))


def relion_version() -> str:
    """RELION's version and kinds of acceleration. Raises PeerFailure where there is none, or no Open MPI to start it with."""
    if shutil.which("relion_refine_mpi") is None:
        raise PeerFailure("relion_refine_mpi is not on the PATH (Debian and Ubuntu: apt install relion)")
    if launcher() is None:
        raise PeerFailure("Open MPI's mpirun is not on the PATH (Debian and Ubuntu: apt install openmpi-bin)")
    said = subprocess.run(["relion_refine", "--version"], capture_output=True, text=True, check=False)
    options = subprocess.run(["relion_refine", "--help"], capture_output=True, text=True, check=False)
    first = next((line.strip() for line in (said.stdout + said.stderr).splitlines() if "version" in line), "RELION, version unknown")
    precision = next((line.strip() for line in (said.stdout + said.stderr).splitlines() if line.startswith("Precision")), "")
    accelerated = "accelerated CPU code" if " --cpu" in options.stdout + options.stderr else "no accelerated CPU code (no --cpu)"
    return f"{first}; {precision}; {accelerated}"


def launcher() -> str | None:
    """Open MPI's mpirun: RELION is linked with it, and another MPI's would start as many single processes."""
    for name in ("mpirun.openmpi", "orterun", "mpirun"):
        path = shutil.which(name)
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout if path else ""
        if "Open MPI" in said or "OpenRTE" in said:
            return path
    return None


def relion_words(box: int, pixel_A: float, threads: int, accelerated: bool, symmetry: str = "C1") -> list[str]:
    """The refinement: RELION's defaults for a new data set whose start map has the images' grey scale and is corrected for the CTF."""
    words = ("--o ./run --i particles.star --ref start.mrc --auto_refine --split_random_halves --ini_high {start:g} "
             "--low_resol_join_halves {start:g} --ctf --ctf_corrected_ref --norm --scale --flatten_solvent --zero_mask "
             "--particle_diameter {diameter:.0f} --healpix_order 2 --auto_local_healpix_order 4 --oversampling 1 --offset_range 5 "
             "--offset_step 2 --sym {symmetry} --pad 2 --dont_check_norm --pool 10 --j {j} --no_parallel_disc_io --random_seed 1")
    text = words.format(start=START_A, diameter=DIAMETER * box * pixel_A, j=max(1, threads // 2), symmetry=symmetry)
    return ["relion_refine_mpi", *text.split(), *(["--cpu"] if accelerated else [])]


def by_relion(folder: Path, command: list[str], patience_s: float) -> Result:
    """Auto-refinement with one leader and one process per half-set. Raises PeerFailure, with its last words, where it gives no result."""
    home = folder / "relion"
    if not (home / "run_model.star").exists():
        run_relion(folder, command, patience_s)
    processes = [json.loads((home / f"cost_{rank}.json").read_text()) for rank in range(3)]
    halves = Halves(*(read_volume(home / f"run_half{half}_class001_unfil.mrc") for half in (1, 2)))
    own_A = float(read_blocks(home / "run_model.star")["model_general"]["rlnCurrentResolution"][0])
    return Result("RELION", Cost.of(processes), read_star_particles(home / "run_data.star", project_folder=home), halves, own_A)


def run_relion(folder: Path, command: list[str], patience_s: float, last_file: str = "run_model.star",
               given: Sequence[str] = ("particles.star", "start.mrc")) -> None:
    """Start it in folder/relion, with files of folder/simulated, and wait; its output goes to log.txt and errors.txt there. Raises
    PeerFailure where it does not get to its last file."""
    home = folder / "relion"
    home.mkdir(exist_ok=True)
    for name in given:
        shutil.copy(folder / "simulated" / name, home)
    if not (home / "particles.mrcs").exists():
        (home / "particles.mrcs").symlink_to((folder / "simulated/particles.mrcs").resolve())
    start = [str(launcher()), "--oversubscribe", "--mca", "mpi_yield_when_idle", "1", "-n", "3", sys.executable, "-c", COUNTED, "cost_"]
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    with open(home / "log.txt", "w") as log, open(home / "errors.txt", "w") as errors:
        process = subprocess.Popen([*start, *command], cwd=home, stdin=subprocess.DEVNULL, stdout=log, stderr=errors,
                                   env={**os.environ, **allowed}, start_new_session=True)
        try:
            code = process.wait(patience_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            reached = len(list(home.glob("run_it*_sampling.star"))) - 1
            raise PeerFailure(f"RELION was stopped after {patience_s / 60:.0f} minutes, at iteration {reached + 1}") from None
    if code or not (home / last_file).exists():
        last = (home / "errors.txt").read_text(errors="replace").strip().splitlines()[-8:]
        raise PeerFailure(f"RELION ended with {code}; its last words:\n    " + "\n    ".join(last))


def row(result: Result, folder: Path, symmetry: str = "C1") -> dict[str, str]:
    """One program's figures by name."""
    truth, true_map = read_truth(folder / "simulated/truth.h5"), read_volume(folder / "simulated/map.mrc")
    truth = truth.take(result.particles.stack_index)
    real = truth.junk == 0
    particles = result.particles.take(real.nonzero()[0])
    errors = pose_errors(particles.rotation, particles.shift_A, truth.rotation[real], truth.shift_A[real], operators(symmetry))
    voxel_A = true_map.voxel_size_A
    moved = in_frame(true_map, errors.frame)
    mask = Volume(dynamic_mask(moved.data, MASK_THRESHOLD, MASK_NEAR_A / voxel_A, MASK_FAR_A / voxel_A), voxel_A)
    halves = result.half_maps.map(lambda half: Volume(half.data, voxel_A))
    curve = truth_fsc(Volume((halves.a.data + halves.b.data) / 2, voxel_A), true_map, errors.frame, mask)
    figures, cost = errors.summary(), result.cost
    return {"CPU, s": f"{cost.cpu_s:.0f}", "wall, s": f"{cost.wall_s:.0f}", "peak memory, GB": f"{cost.peak_GB:.2f}",
            "rotation, median": f"{figures['median_angle_deg']:.2f}°", "90th percentile": f"{figures['p90_angle_deg']:.2f}°",
            "shift, median": f"{figures['median_shift_A']:.2f} Å", "lost (> 10°)": f"{100 * figures['lost']:.1f} %",
            "truth FSC 0.5": f"{true_map.box * voxel_A / first_crossing(curve, 0.5):.2f} Å",
            "half-map FSC 0.143": f"{measure_fsc(halves, mask, 'truth').resolution_A_at('corrected'):.2f} Å",
            "says itself": f"{result.own_A:.2f} Å"}


def markdown(rows: Mapping[str, Mapping[str, str]]) -> str:
    """A table with one column per program."""
    lines = [["", *rows], ["---"] * (len(rows) + 1)]
    lines += [[name, *(values[name] for values in rows.values())] for name in next(iter(rows.values()))]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def compare(folder: Path, chosen: argparse.Namespace) -> None:
    """Run what is not there yet, print the heading, the table and what could not be had."""
    simulate(folder / "first", chosen, NUMBER_OF_FIRST_RUN)
    by_protomer(folder / "first", chosen.threads, chosen.symmetry)
    simulate(folder, chosen, chosen.number)
    processor = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                      if line.startswith("model name")), platform.machine())
    print(f"{chosen.number} images of {chosen.box} px at {chosen.pixel_size:g} Å, signal over noise {chosen.snr:g}"
          f"{', realistic' if chosen.realistic else ''}, {chosen.symmetry}, seed {chosen.seed}, from {START_A:g} Å; {processor}, "
          f"{len(os.sched_getaffinity(0))} cores, {platform.platform()}, Python {platform.python_version()}.\n")
    results, missing = [by_protomer(folder, chosen.threads, chosen.symmetry)], ""
    try:
        version = relion_version()
        command = relion_words(chosen.box, chosen.pixel_size, chosen.threads, "no accelerated" not in version, chosen.symmetry)
        print(f"{version}. Started as `mpirun -n 3 {' '.join(command)}`.\n")
        results.append(by_relion(folder, command, 60 * chosen.patience))
    except PeerFailure as failure:
        missing = f"\nRELION is not in the table: {failure}"
    print(markdown({result.program: row(result, folder, chosen.symmetry) for result in results}) + missing)
    if len(results) == 2:
        print(f"\nRELION took {results[1].cost.cpu_s / results[0].cost.cpu_s:.1f} times Protomer's CPU seconds.")


def main() -> None:
    """Read the arguments; work in the folder given or in a temporary one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    entries: dict[str, tuple[Callable[[str], Any], Any]] = {
        "number": (int, 1000), "box": (int, 64), "pixel-size": (float, 3.5), "snr": (float, 0.1), "seed": (int, 0),
        "threads": (int, len(os.sched_getaffinity(0))), "patience": (float, 180.0)}
    for name, (kind, default) in entries.items():
        parser.add_argument(f"--{name}", type=kind, default=default, help=f"[{default:g}]" + (" minutes" if name == "patience" else ""))
    parser.add_argument("--realistic", action="store_true", help="uneven views, coloured noise, defocus errors, junk")
    parser.add_argument("--symmetry", default="C1", help="point group of the particle and of both refinements [C1]")
    parser.add_argument("--folder", type=Path, help="keep everything there, and do not run again what is finished there")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        compare((chosen.folder or Path(temporary)).resolve(), chosen)


if __name__ == "__main__":
    main()
