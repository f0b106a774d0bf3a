"""A chain that is killed again and again, at moments and with signals drawn by a seed, ends in the bits of the undisturbed one.

python benchmarks/kills.py                         20 kills
python benchmarks/kills.py --kills 2 --seed 1      fewer, other ones

A chain runs under `protomer run` until a process of it gets a signal: Snakemake, a job's launcher, one rank, or all at once with SIGKILL,
as when a machine goes down. Then the same command is given again, until that chain is done; the next kill meets what it left, or a new
chain. After every kill each file that has its final name must be whole; at the end of every chain its bits must be those of the
undisturbed one. Where jobs outlive their Snakemake, the command says so, and is given again when they have ended.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import h5py
import mrcfile
import numpy as np
import psutil

ONE, TWO = {"threads": 1}, {"ranks": 2, "threads": 1}
CHAIN = {"dataset": {"star": "simulated", "resources": ONE}, "jobs": {
    "simulated": {"job": "simulate", "settings": {"number": 40, "box": 32, "pixel_size": "7A", "snr": 0.5}, "resources": ONE},
    "refined": {"job": "refine", "particles": "dataset", "volume": "simulated/start.mrc", "resources": TWO,
                "settings": {"initial_low_pass": "40A", "rehearse": False}},
    "again": {"job": "reconstruct", "particles": "refined", "resources": TWO},
    "shape": {"job": "mask", "volume": "refined", "resources": ONE}}}
#: whom, and with what; a machine that goes down kills all
KILLS = (("snakemake", signal.SIGTERM), ("snakemake", signal.SIGINT), ("snakemake", signal.SIGKILL), ("launcher", signal.SIGTERM),
         ("launcher", signal.SIGKILL), ("rank", signal.SIGTERM), ("rank", signal.SIGUSR1), ("rank", signal.SIGKILL),
         ("all", signal.SIGKILL))
VARYING = ("provenance", "stacks/mtime_ns", "stacks/path")  # where and when, not what
#: when a kill comes after the command was given, in units of the undisturbed chain's time: several hit the same chain
MOMENTS = (0.03, 0.3)
LONGEST_S = 600.0


@dataclass(frozen=True)
class Kill:
    """One kill: who got which signal, when after the start of the attempt, and which job was at work."""

    target: str
    number: signal.Signals
    after_s: float
    job: str


def start(folder: Path) -> subprocess.Popen[bytes]:
    """`protomer run` of the chain in a folder."""
    said = (folder / "said.txt").open("ab")
    words = [sys.executable, "-m", "protomer", "run", str(folder / "chain.yaml"), "--folder", str(folder), "--cores", "2"]
    return subprocess.Popen(words, stdout=said, stderr=subprocess.STDOUT, start_new_session=True)


def new_chain(folder: Path) -> Path:
    """A folder with the chain in it."""
    folder.mkdir(parents=True)
    (folder / "chain.yaml").write_text(json.dumps(CHAIN))  # JSON is YAML
    return folder


def workers(root: psutil.Process) -> tuple[list[psutil.Process], list[psutil.Process], str]:
    """Launchers (mpiexec, or a job that needs none) and ranks below Snakemake, and the job at work."""
    launchers, ranks, job = [], [], "between jobs"
    for process in root.children(recursive=True):
        try:
            words, surroundings = process.cmdline(), process.environ()
        except psutil.Error:
            continue
        is_job = len(words) > 3 and words[1:3] == ["-m", "protomer"] and Path(words[0]).name.startswith("python")
        if is_job:
            job = words[3]
            (ranks if "PMI_RANK" in surroundings else launchers).append(process)
        elif any(Path(word).name.startswith("mpiexec") for word in words[:2]):
            launchers.append(process)
    return launchers, ranks, job


def strike(process: subprocess.Popen[bytes], generator: np.random.Generator, after_s: float) -> Kill:
    """Send one drawn signal to one drawn process of a running chain, to Snakemake where the drawn kind is not there."""
    target, number = KILLS[int(generator.integers(len(KILLS)))]
    root = psutil.Process(process.pid)
    launchers, ranks, job = workers(root)
    if target == "all":
        for each in [root, *root.children(recursive=True)]:
            send(each, number)
        return Kill(target, number, after_s, job)
    choices = {"snakemake": [root], "launcher": launchers, "rank": ranks or launchers}[target]
    if not choices:
        target, choices = "snakemake", [root]
    send(choices[int(generator.integers(len(choices)))], number)
    return Kill(target, number, after_s, job)


def send(process: psutil.Process, number: signal.Signals) -> None:
    """A signal to a process that may be gone by now."""
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def broken_files(folder: Path) -> list[str]:
    """Files with their final names that cannot be read whole."""
    broken = []
    for path in sorted(folder.glob("*/*")):
        try:
            if path.name.startswith("."):
                continue
            if path.suffix == ".h5":
                with h5py.File(path) as file:
                    file.visititems(lambda _, item: item[()] if isinstance(item, h5py.Dataset) else None)
            elif path.suffix in (".mrc", ".mrcs"):
                with mrcfile.open(path) as file:
                    float(np.sum(file.data))
            elif path.suffix == ".json":
                json.loads(path.read_text())
        except (OSError, ValueError, RuntimeError) as error:
            broken.append(f"{path}: {error}")
    return broken


def bits(folder: Path) -> dict[str, bytes]:
    """What a chain made, by file and, in HDF5, by data set."""
    found: dict[str, bytes] = {}
    for path in sorted(folder.glob("*/*")):
        name = str(path.relative_to(folder))
        if path.suffix in (".mrc", ".mrcs", ".csv", ".star"):
            found[name] = path.read_bytes()
        elif path.suffix == ".h5":
            with h5py.File(path) as file:
                items: list[tuple[str, h5py.Dataset]] = []
                file.visititems(lambda key, item, items=items: items.append((key, item)) if isinstance(item, h5py.Dataset) else None)
                for key, item in items:
                    data = np.asarray(item[()])
                    if key not in VARYING:
                        found[f"{name}:{key}"] = repr(data.tolist()).encode() if data.dtype.hasobject else data.tobytes()
    return found


def finish(folder: Path) -> None:
    """Give the command again until the chain is done. Raises SystemExit where it does not come to its end."""
    deadline = time.monotonic() + LONGEST_S
    while start(folder).wait() != 0:
        said = (folder / "said.txt").read_text()
        if time.monotonic() > deadline or "still there" not in said[-3000:]:
            raise SystemExit(f"the chain in {folder} does not go on:\n{said[-3000:]}")
        time.sleep(0.5)


def main() -> int:
    """Kill, resume, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    generator = np.random.default_rng(asked.seed)
    good = 0
    with tempfile.TemporaryDirectory() as name:
        begun = time.monotonic()
        finish(new_chain(Path(name) / "undisturbed"))
        whole_s = time.monotonic() - begun
        wanted = bits(Path(name) / "undisturbed")
        print(f"undisturbed: {whole_s:.0f} s, {len(wanted)} files and data sets\n")
        print("| chain | signal | to | while at work | after s | half files | same bits |\n|---|---|---|---|---|---|---|", flush=True)
        folder = new_chain(Path(name) / "0")
        done = chains = 0
        rows: list[tuple[Kill, int]] = []
        while done < asked.kills:
            struck = disturb(folder, generator, whole_s)
            if struck is not None:
                rows.append(struck)
                done += 1
            if struck is None or done == asked.kills:
                finish(folder)
                same, chains = bits(folder) == wanted, chains + 1
                for kill, half in rows:
                    good += same and not half
                    print(f"| {chains} | {kill.number.name} | {kill.target} | {kill.job} | {kill.after_s:.1f} | {half} | "
                          f"{'yes' if same else 'NO'} |", flush=True)
                rows, folder = [], new_chain(Path(name) / str(chains))
    print(f"\n{good} of {asked.kills} kills, in {chains} chains, ended in the same bits, nothing lost, no half file")
    return 0 if good == asked.kills else 1


def disturb(folder: Path, generator: np.random.Generator, whole_s: float) -> tuple[Kill, int] | None:
    """Start or continue a chain and kill at a drawn moment: the kill, and how many files were broken after it; None where it was done
    before. Where jobs of the last attempt are still at work, they are waited for first."""
    after_s, deadline = float(generator.uniform(*MOMENTS)) * whole_s, time.monotonic() + LONGEST_S
    while True:
        length = (folder / "said.txt").stat().st_size if (folder / "said.txt").exists() else 0
        process, begun = start(folder), time.monotonic()
        try:
            code = process.wait(timeout=after_s)
        except subprocess.TimeoutExpired:
            break
        if code == 0:
            return None
        said = (folder / "said.txt").read_text()[length:]
        if "still there" not in said or time.monotonic() > deadline:
            raise SystemExit(f"the chain in {folder} does not go on:\n{said[-3000:]}")
        time.sleep(0.5)
    kill = strike(process, generator, time.monotonic() - begun)
    half = len(broken_files(folder))
    process.wait(timeout=LONGEST_S)
    return kill, half + len(broken_files(folder))


if __name__ == "__main__":
    sys.exit(main())
