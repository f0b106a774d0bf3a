"""Twist, rise and resolution of a simulated Pf1-like filament through `helical-refine`, from a lattice that is off.

python benchmarks/helical.py [--model MODEL.cif] [--number 800] [--snr 0.2] [--off 4,-0.2] [--seed 0] [--threads 1] [--folder FOLDER]
                             [--only off,known,other_hand,cylinder,cylinder_other_way]

Pf1 (PDB 1QL2, three chains as one subunit): -162.255° and 9.15 Å; by one chain alone 65.915° and 3.05 Å, nearly. Images of 80 pixels of
2.2 Å, five segments of each filament, 30 Å apart. Refined from the truth low-passed to 15 Å: from the lattice that is off; with the true
one imposed; from the true one's opposite. And from a cylinder of 70 Å: from the lattice that is off, and from one as far off the other
way. The truth FSC is that of the final map in the central cylinder, after the turn about z and the move along it that fit best; a map from
a cylinder may be anywhere along the axis, and either way up. Without the model there is nothing to do. What is finished in --folder is not
run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from scipy import optimize
from scipy.spatial.transform import Rotation

from protomer.formats.hdf5 import read_map_record
from protomer.formats.mrc import read_volume
from protomer.maps.fsc_curves import first_crossing
from protomer.maps.rigid_motion import RigidMotion, move_volume
from protomer.maps.volumes import Volume
from protomer_kernels.fourier import low_pass
from protomer_kernels.shells import fourier_shell_correlation

MODEL = Path(__file__).resolve().parent.parent.parent / "shared/data/models/1ql2_Pf1_helical.cif"
TWIST_DEG, RISE_A = -162.255, 9.15
BOX, PIXEL_A = 80, 2.2
LEAST_OFF_DEG, LEAST_OFF_A = 0.02, 0.02
TURN_DEG, MOVES_A = 8.0, (-4.0, -2.0, 0.0, 2.0, 4.0)  # tried of maps that may be anywhere


def protomer(folder: Path, output: str, threads: int, *words: object) -> dict[str, Any]:
    """The summary of a job, run unless it is finished."""
    home = folder / output
    if not (home / "summary.json").exists():
        command = [sys.executable, "-m", "protomer", *map(str, words), "--output", str(home), "--threads", str(threads), "--overwrite"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{output}: {done.stderr}")
    said: dict[str, Any] = json.loads((home / "summary.json").read_text())
    return said


def settings(**values: object) -> list[str]:
    """--set name=value, for each."""
    return [word for name, value in values.items() for word in ("--set", f"{name}={value}")]


def upside_down(data: np.ndarray) -> np.ndarray:
    """A map after half a turn about x."""
    return np.ascontiguousarray(np.roll(data[::-1, ::-1], (1, 1), axis=(0, 1)))


def truth_shell(folder: Path, truth: Volume, is_anywhere: bool) -> tuple[float, float]:
    """Shell and resolution (Å) at which the final map's FSC with the truth falls below 0.5, after the turn and move that fit best: near
    none, or anywhere about and along z, either way up."""
    record = read_map_record(folder / "volume.h5")
    assert record.fsc_mask is not None
    whole, mask = record.map, record.fsc_mask.data
    wanted = low_pass(truth.data, BOX * PIXEL_A / 10.0, 2.0) * mask

    def moved(volume: Volume, at: np.ndarray) -> np.ndarray:
        turn = Rotation.from_rotvec([0.0, 0.0, np.deg2rad(at[0])]).as_matrix()
        return move_volume(volume, RigidMotion(turn, np.array([0.0, 0.0, at[1]]))).data * mask

    def worse(volume: Volume, at: np.ndarray) -> float:
        return -float(np.corrcoef(moved(volume, at).ravel(), wanted.ravel())[0, 1])

    def smooth(volume: Volume) -> Volume:
        return Volume(low_pass(volume.data, BOX * PIXEL_A / 10.0, 2.0), PIXEL_A)

    first = np.zeros(2)
    if is_anywhere:
        ways = [record.map, Volume(upside_down(record.map.data), PIXEL_A)]
        tried = [(worse(way, np.array([turn, move])), n, turn, move) for n, way in enumerate(map(smooth, ways))
                 for turn in np.arange(0, 360, TURN_DEG) for move in MOVES_A]
        _, n, turn, move = min(tried)
        whole, first = ways[n], np.array([turn, move])
    smoothed = smooth(whole)
    best = optimize.minimize(lambda at: worse(smoothed, at), first, method="Nelder-Mead", options={
        "initial_simplex": first + np.array([[0, 0], [3, 0], [0, 1]]), "xatol": 0.02, "fatol": 1e-5})
    curve = fourier_shell_correlation(moved(whole, best.x), truth.data * mask)
    shell = float(first_crossing(curve, 0.5))
    return shell, BOX * PIXEL_A / shell


def main() -> int:
    """1 where the lattice was not found, or the map is worse than that of the known lattice by more than a shell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--number", type=int, default=800)
    parser.add_argument("--snr", type=float, default=0.2)
    parser.add_argument("--off", default="4,-0.2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only", default="off,known,other_hand,cylinder,cylinder_other_way")
    chosen = parser.parse_args()
    if not chosen.model.exists():
        print(f"{chosen.model} is not here: nothing to do")
        return 0
    with tempfile.TemporaryDirectory() as kept:
        return measure(chosen.folder or Path(kept), chosen)


def measure(folder: Path, chosen: argparse.Namespace) -> int:
    """Simulate, refine three times, print a table; 1 where the lattice is not found."""
    folder.mkdir(parents=True, exist_ok=True)
    away_deg, away_A = (float(part) for part in chosen.off.split(","))
    protomer(folder, "simulated", chosen.threads, "simulate", "--model", chosen.model, *settings(
        number=chosen.number, box=BOX, pixel_size=f"{PIXEL_A}A", snr=chosen.snr, helical_twist=f"{TWIST_DEG}deg", helical_rise=f"{RISE_A}A",
        filament_segments=5, segment_step="30A", model_axis="file", max_shift="4A", seed=chosen.seed))
    protomer(folder, "imported", chosen.threads, "import", "--star", folder / "simulated/particles.star", *settings(split_by="filament"))
    truth = read_volume(folder / "simulated/map.mrc")
    off, other_way = ({"helical_twist": f"{TWIST_DEG + way * away_deg}deg", "helical_rise": f"{RISE_A + way * away_A}A"} for way in (1, -1))
    runs = {"off": off, "known": {"helical_twist": f"{TWIST_DEG}deg", "helical_rise": f"{RISE_A}A", "refine_lattice": "off"},
            "other_hand": {"helical_twist": f"{-TWIST_DEG}deg", "helical_rise": f"{RISE_A}A"},
            "cylinder": {**off, "outer_diameter": "70A"}, "cylinder_other_way": {**other_way, "outer_diameter": "70A"}}
    print("| run | twist (°) | rise (Å) | self-correlation (expected) | other hand | half-map FSC 0.143 (Å) | truth FSC 0.5 (Å) | shell | "
          "s |")
    print("|---|---|---|---|---|---|---|---|---|")
    shells, said = {}, {}
    for name in chosen.only.split(","):
        from_cylinder = name.startswith("cylinder")
        start = [] if from_cylinder else ["--volume", folder / "simulated/map.mrc", *settings(initial_low_pass="15A")]
        said[name] = one = protomer(folder, name, chosen.threads, "helical-refine", "--particles", folder / "imported", *start,
                                    *settings(rehearse="off", **runs[name]))
        shells[name], truth_A = truth_shell(folder / name, truth, from_cylinder)
        print(f"| {name} | {one['twist_deg']} | {one['rise_A']} | {one['self_correlation']} ({one['self_correlation_expected']}) | "
              f"{one['self_correlation_other_hand']} | {one['resolution_A']['corrected']} | {truth_A:.2f} | {shells[name]:.1f} | "
              f"{one['seconds']:.0f} |", flush=True)
    for name, one in said.items():
        print(f"\n{name}: warnings {', '.join(w['code'] for w in one['warnings'])}; pseudo-lattices "
              + "; ".join(f"{p['twist_deg']}° {p['rise_A']} Å ({p['score']}, {p['coarse_score']} coarser): {p['what']}"
                          for p in one["pseudo_lattices"]))
        tell_starts(one["start_lattices"])
    return 0 if all_found(said, shells) else 1


def all_found(said: dict[str, dict[str, Any]], shells: dict[str, float]) -> bool:
    """Whether every run that began off found the lattice, and its map is as good as with the lattice known, where that was run too."""
    found = [name for name in said if name.startswith(("off", "cylinder"))]
    good = all(abs(said[n]["twist_deg"] - TWIST_DEG) < LEAST_OFF_DEG and abs(said[n]["rise_A"] - RISE_A) < LEAST_OFF_A for n in found)
    if "known" in shells:
        good &= all(abs(shells[name] - shells["known"]) <= 1 for name in found) and shells.get("other_hand", 0.0) < shells["known"]
    return good


def tell_starts(starts: dict[str, Any] | None) -> None:
    """In which lattices the best starts ended, where several were tried."""
    if starts is None:
        return
    print(f"  {starts['tried']} start lattices on {starts['images']} images to {starts['compared_to_A']} Å; told: {starts['is_told']}")
    for end in starts["ends"]:
        print(f"  {end['twist_deg']}° {end['rise_A']} Å: log odds {end['log_odds']}, {end['behind']} ± {end['behind_sd']} behind, from "
              f"{end['starts']} starts ({end['what']})")


if __name__ == "__main__":
    raise SystemExit(main())
