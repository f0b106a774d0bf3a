"""How well two states and junk are told apart: simulated images with known truth through `classify`, beside what Bayes' rule allows.

python benchmarks/classify.py [--number 4000] [--box 48] [--pixel-size 4.5] [--snr 0.11] [--second 0.3] [--junk 0.2] [--seed 0]
    [--threads 2] [--folder FOLDER]

State 2 is RNA polymerase II without its subunits Rpb4 and Rpb7, 8.5 % of its atoms. Half of the junk is noise alone, half is broken: a
compact chain at random, as heavy as the particle and another one in each image. Two good volumes (the true ones, low-passed to 20 Å) and
two decoys are given. The limit is Bayes' rule with the true maps, poses, CTF, noise and class sizes. CPU time is the operating system's
account of the process. With --folder, what is finished there is not run again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import relion
from scipy.special import expit

from protomer.formats.hdf5 import read_map_record, read_particles
from protomer.formats.mrc import write_volume
from protomer.jobs.simulate import DEFAULT_BFACTOR_A2, DEFAULT_MODEL
from protomer.simulation.dataset import Simulator
from protomer.simulation.draws import DEBRIS, EMPTY, PARTICLE, SimulationDesign
from protomer.simulation.files import star_tables, write_blocks, write_star
from protomer.simulation.scatterers import AtomModel, read_atom_model

GOES = "D+G"  # Rpb4 and Rpb7
DECOYS = ("sphere:150", "noise")


def two_states() -> tuple[AtomModel, AtomModel]:
    """The whole polymerase and the one without GOES, in one frame."""
    parts = read_atom_model(DEFAULT_MODEL, DEFAULT_BFACTOR_A2, GOES)
    rest = parts.bodies[1]
    return replace(parts, body_starts=(0,)), AtomModel(parts.positions_A[rest], parts.weights[rest], parts.bfactor_A2)


def design_of(chosen: argparse.Namespace) -> SimulationDesign:
    """What is simulated."""
    return SimulationDesign(chosen.number, chosen.box, chosen.pixel_size, chosen.snr, seed=chosen.seed, second_fraction=chosen.second,
                            junk=chosen.junk)


def simulate(folder: Path, simulator: Simulator) -> None:
    """particles.mrcs, particles.star, state1.mrc and state2.mrc in folder/simulated, unless they are there."""
    home, design = folder / "simulated", simulator.design
    if (home / "state2.mrc").exists():
        return
    home.mkdir(parents=True, exist_ok=True)
    write_blocks(home / "particles.mrcs", simulator.blocks(), (design.number, design.box, design.box), design.pixel_size_A, lambda _: None)
    write_star(home / "particles.star", star_tables(simulator.truth, design, None, False))
    for number in (1, 2):
        write_volume(home / f"state{number}.mrc", simulator.volume(number))


def posterior_of_second(simulator: Simulator, at_once: int = 256) -> np.ndarray:
    """P(state 2 | image) of each image by Bayes' rule, everything known but the class; meaningless for junk."""
    truth, second, odds = simulator.truth, simulator.design.second_fraction, []
    for first in range(0, len(truth), at_once):
        rows = np.arange(first, min(first + at_once, len(truth)))
        images = simulator.images(rows)
        clean = [simulator.gain * simulator.signal(replace(truth.take(rows), junk=np.zeros(len(rows), np.int8),
                                                           class_number=np.full(len(rows), number, np.int32)), rows) for number in (1, 2)]
        off = [((images - signal).astype(np.float64) ** 2).sum(axis=(1, 2)) for signal in clean]
        odds.append(0.5 * (off[0] - off[1]))  # the noise has variance 1
    return np.asarray(expit(np.concatenate(odds) + np.log(second / (1.0 - second))))


def by_protomer(folder: Path, volumes: Sequence[object], threads: int, settings: Sequence[str] = (), name: str = "classes") -> relion.Cost:
    """Import and classify."""
    relion.counted(folder / "cost_import.json", "import", "--star", folder / "simulated/particles.star", "--output", folder / "imported",
                   "--threads", threads)
    words = [word for volume in volumes for word in ("--volume", volume)] + [word for setting in settings for word in ("--set", setting)]
    return relion.counted(folder / f"cost_{name}.json", "classify", "--particles", folder / "imported", *words, "--output", folder / name,
                          "--threads", threads)


def score(simulator: Simulator, folder: Path, cost: relion.Cost, bayes: np.ndarray, name: str = "classes") -> dict[str, str]:
    """What was found of what is there."""
    truth, found = simulator.truth, read_particles(folder / name / "particles.h5")
    truth = truth.take(found.stack_index)
    real, right = truth.junk == PARTICLE, found.class_number == truth.class_number
    in_states = np.isin(found.class_number, (1, 2))
    summary = json.loads((folder / name / "summary.json").read_text())
    states = np.isin(truth.class_number, (1, 2)) & real
    share = float(np.mean(found.class_number[in_states] == 2))
    fsc = [read_map_record(folder / name / f"class_{k}/volume.h5").fsc for k in (1, 2)]
    stated = float(found.class_posterior[states & in_states].mean())
    return {
        "particles in the right class": f"{np.mean(right[real]):.3f}",
        "Bayes' limit": f"{np.mean((bayes > 0.5)[real] + 1 == simulator.truth.class_number[real]):.3f}",
        "mean stated posterior, and right": f"{stated:.3f}, {np.mean(right[states & in_states]):.3f}",
        "noise outside the states": f"{np.mean(~in_states[truth.junk == EMPTY]):.3f}",
        "broken particles outside the states": f"{np.mean(~in_states[truth.junk == DEBRIS]):.3f}",
        "junk outside the states": f"{np.mean(~in_states[~real]):.3f}",
        "share of state 2 of what is in the states, truth": f"{share:.3f}, {np.mean(simulator.truth.class_number[real] == 2):.3f}",
        "corrected FSC 0.143 of the states": ", ".join("-" if f is None else f"{f.resolution_A_at('corrected'):.1f} Å" for f in fsc),
        "iterations": str(summary["iterations"]),
        "CPU, s": f"{cost.cpu_s:.0f}",
    }


def run(folder: Path, chosen: argparse.Namespace) -> None:
    """Simulate, classify, and print the table."""
    simulator = Simulator(two_states(), design_of(chosen))
    simulate(folder, simulator)
    bayes = posterior_of_second(simulator)
    states = [folder / f"simulated/state{number}.mrc" for number in (1, 2)]
    cost = by_protomer(folder, [*states, *DECOYS], chosen.threads)
    print(f"{chosen.number} images of {chosen.box} px at {chosen.pixel_size:g} Å, signal over noise {chosen.snr:g}, "
          f"{100 * chosen.junk:.0f} % junk.\n")
    print(relion.markdown({"classify": score(simulator, folder, cost, bayes)}))


def arguments(description: str) -> argparse.ArgumentParser:
    """The arguments of a set of images of two states."""
    parser = argparse.ArgumentParser(description=description)
    entries = (("number", int, 4000), ("box", int, 48), ("pixel-size", float, 4.5), ("snr", float, 0.11), ("second", float, 0.3),
               ("junk", float, 0.2), ("seed", int, 0), ("threads", int, 2))
    for name, kind, default in entries:
        parser.add_argument(f"--{name}", type=kind, default=default, help=f"[{default:g}]")
    parser.add_argument("--folder", type=Path, help="keep everything there, and do not run again what is finished there")
    return parser


def main() -> None:
    """Read the arguments; work in the folder given or in a temporary one."""
    chosen = arguments((__doc__ or "").splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run((chosen.folder or Path(temporary)).resolve(), chosen)


if __name__ == "__main__":
    main()
