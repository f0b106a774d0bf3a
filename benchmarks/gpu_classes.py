"""A large classification, start to end: the size of EMPIAR-10028 (105,247 images of 360 px, six classes), simulated.

python benchmarks/gpu_classes.py [--number 105247] [--box 360] [--pixel-size 1.34] [--classes 6] [--backend cuda] [--model FILE]
    [--folder FOLDER]

Images are of RNA polymerase II, or of the model given (the ribosome of EMPIAR-10028, say), one in five of haemoglobin, with 60 Å of
resolution to start from, as in RELION's benchmark on that set: 25 iterations of Class3D with six classes, for which RELION 5 on one NVIDIA
A10G is said to take 197 minutes. `classify` runs until its classes have settled. The time is that of the command, reading and writing
included; the images are not the same, so that the ratio says how much one waits, not which is right. With --folder, what is finished is
not run again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import relion

from protomer.computing.backend import what_cuda_lacks

PUBLISHED_S, START_A, SECOND = 197 * 60, 60.0, 0.2


def run(folder: Path, chosen: argparse.Namespace) -> None:
    """Simulate, import, classify, and print what it took."""
    folder.mkdir(parents=True, exist_ok=True)
    sets = {"number": chosen.number, "box": chosen.box, "pixel_size": f"{chosen.pixel_size}A", "snr": chosen.snr,
            "start_low_pass": f"{START_A}A", "second_model": "5ni1", "second_fraction": SECOND}
    model = ["--model", chosen.model] if chosen.model else []
    words = [word for name, value in sets.items() for word in ("--set", f"{name}={value}")]
    relion.counted(folder / "cost_simulate.json", "simulate", *model, *words, "--output", folder / "simulated")
    imported = relion.counted(folder / "cost_import.json", "import", "--star", folder / "simulated/particles.star", "--output",
                              folder / "imported")
    volumes = [word for _ in range(chosen.classes) for word in ("--volume", folder / "simulated/start.mrc")]
    classified = relion.counted(folder / f"cost_{chosen.backend}.json", "classify", "--particles", folder / "imported", *volumes, "--set",
                                f"initial_low_pass={START_A}A", "--backend", chosen.backend, "--output", folder / chosen.backend)
    summary = json.loads((folder / chosen.backend / "summary.json").read_text())
    print(f"{chosen.number} images of {chosen.box} px, {chosen.classes} classes, {chosen.backend}\n\n| step | s | CPU s |\n|---|---|---|")
    for name, cost in (("import", imported), ("classify", classified)):
        print(f"| {name} | {cost.wall_s:.0f} | {cost.cpu_s:.0f} |")
    print(f"\n{summary['iterations']} iterations; {PUBLISHED_S / classified.wall_s:.1f} times as fast as 197 minutes")


def main() -> None:
    """Read the arguments; work in the folder given or in a temporary one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    entries = (("number", int, 105_247), ("box", int, 360), ("pixel-size", float, 1.34), ("snr", float, 0.05), ("classes", int, 6),
               ("backend", str, "cuda"), ("model", Path, None), ("folder", Path, None))
    for name, kind, default in entries:
        parser.add_argument(f"--{name}", type=kind, default=default, help=f"[{default}]")
    chosen = parser.parse_args()
    lacks = what_cuda_lacks() if chosen.backend == "cuda" else None
    if lacks:
        print(f"Not measured: {lacks}")
        return
    with tempfile.TemporaryDirectory() as temporary:
        run((chosen.folder or Path(temporary)).resolve(), chosen)


if __name__ == "__main__":
    main()
