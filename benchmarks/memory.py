"""Peak memory of refinements against what --dry-run predicts, in one table; and what a refinement at radius 100 takes beside its images.

python benchmarks/memory.py

Boxes whose maps resolve to the pixel size, and one (202 px, a limit radius of 100) with few images: there, all but the images' share of the
memory of a large data set is seen. Peak memory is the operating system's (wait4); what compiles is not counted.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from protomer_kernels.half_plane import HalfPlane
from protomer_kernels.insertion import accumulator_bytes

CASES = ((64, 1000, 3.5, None), (64, 1000, 3.5, 1), (128, 200, 1.75, 1), (202, 100, 1.2, None))  # box, images, pixel size (A), folds
MANY = 100_000


def protomer(*words: object) -> tuple[float, str]:
    """Peak memory (GB) and output of one command. Raises SystemExit where it fails."""
    command = [sys.executable, "-m", "protomer", *map(str, words)]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}\n{text}")
    return usage.ru_maxrss * 1024 / 1e9, text


def main() -> None:
    """Simulate, import, refine, print."""
    print(f"{'box':>5}{'images':>8}{'folds':>7}{'predicted GB':>14}{'measured GB':>13}{'ratio':>7}")
    with tempfile.TemporaryDirectory() as name:
        for case, (box, number, pixel_A, folds) in enumerate(CASES):
            folder = Path(name) / str(case)
            sets = {"number": number, "box": box, "pixel_size": pixel_A, "snr": 0.2, "start_low_pass": 40}
            protomer("simulate", "--output", folder / "simulated", *(w for k, v in sets.items() for w in ("--set", f"{k}={v}")))
            protomer("import", "--star", folder / "simulated", "--output", folder / "imported")
            words = ["refine", "--particles", folder / "imported", "--volume", folder / "simulated/start.mrc", "--threads", 1,
                     "--set", "initial_low_pass=40A", *(("--set", f"cross_fit_folds={folds}") if folds else ())]
            protomer(*words, "--output", folder / "warm")
            _, plan = protomer(*words, "--output", folder / "refined", "--dry-run")
            found = re.search(r"memory +([0-9.]+) GB", plan)
            assert found is not None
            predicted_GB, (measured_GB, _) = float(found[1]), protomer(*words, "--output", folder / "refined")
            ratio = predicted_GB / measured_GB
            print(f"{box:5d}{number:8d}{folds or 'rule':>7}{predicted_GB:14.2f}{measured_GB:13.2f}{ratio:7.2f}", flush=True)
    plane = HalfPlane(CASES[-1][0], 100)
    images_GB, two_GB = MANY * len(plane) * 8 / 1e9, 2 * accumulator_bytes(plane.radius) / 1e9
    rest_GB = measured_GB - two_GB - CASES[-1][1] * len(plane) * 8 / 1e9
    print(f"radius {plane.radius}: {MANY} images take {images_GB:.1f} GB ({images_GB / 2:.1f} GB in half precision), two accumulators "
          f"{two_GB:.2f} GB, all else {rest_GB:.2f} GB")


if __name__ == "__main__":
    main()
