"""Peak memory of each rank against what --dry-run predicts: refinements and classifications over boxes, classes and ranks, in one table.

python benchmarks/memory.py             all cases (half an hour on two cores)
python benchmarks/memory.py 64 128      those of these boxes

Large boxes have few images: there, all but the images' share of the memory of a large data set is seen; they are clear ones (SNR 4), so
that maps resolve to the pixel size, as plans assume. The peak is the operating
system's, of the process that does the work (wait4), the largest of all ranks; each command runs once before, so that nothing is compiled.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

#: box, images, pixel size (A), classes, ranks
CASES = ((64, 600, 3.5, 1, 1), (64, 600, 3.5, 1, 4), (64, 600, 3.5, 2, 2), (64, 600, 3.5, 4, 1), (96, 300, 2.4, 1, 3),
         (128, 160, 1.75, 1, 1), (128, 160, 1.75, 1, 2), (128, 160, 1.75, 3, 1), (192, 80, 1.2, 1, 1), (192, 80, 1.2, 2, 2),
         (256, 40, 0.9, 1, 1), (256, 40, 0.9, 1, 2))
CLASSIFYING = ("random_iterations=1", "final_iterations=1")


def one_rank(note: Path, words: list[str]) -> int:
    """Run `protomer WORDS` as a rank of the launcher that started this process, and note its peak (bytes); its exit code."""
    process = subprocess.Popen([sys.executable, "-m", "protomer", *words], close_fds=False)  # the launcher speaks through an open file
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    with note.open("a") as file:
        file.write(f"{usage.ru_maxrss * 1024}\n")
    return process.returncode


def protomer(*words: object, ranks: int = 1) -> tuple[float, str]:
    """Largest peak memory of a rank (GB), and output, of one command. Raises SystemExit where it fails."""
    launcher = [str(Path(sys.executable).with_name("mpiexec")), "-n", str(ranks)] if ranks > 1 else []
    with tempfile.TemporaryDirectory() as name:
        note = Path(name) / "peaks"
        command = [*launcher, sys.executable, __file__, "--rank-of", str(note), *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
        return max(map(int, note.read_text().split())) / 1e9, done.stdout


def words_of(folder: Path, box: int, classes: int) -> list[object]:
    """A refinement, or a classification from as many copies of the start map."""
    common = ["--particles", folder / "imported", "--threads", 1]
    start = ["--volume", folder / "simulated/start.mrc"]
    if classes == 1:
        return ["refine", *common, *start, "--set", "initial_low_pass=40A", "--set", "rehearse=off"]
    sets = [word for text in (f"box={box}", *CLASSIFYING) for word in ("--set", text)]
    return ["classify", *common, *start * classes, *sets]


def main() -> None:
    """Simulate, import, refine or classify, print."""
    wanted = {int(word) for word in sys.argv[1:]}
    print("| box | images | classes | ranks | predicted GB | measured GB | ratio |\n|---|---|---|---|---|---|---|", flush=True)
    for box, number, pixel_A, classes, ranks in CASES:
        if wanted and box not in wanted:
            continue
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            sets = {"number": number, "box": box, "pixel_size": pixel_A, "snr": 0.2 if box == 64 else 4, "start_low_pass": 40}
            protomer("simulate", "--output", folder / "simulated", *(w for k, v in sets.items() for w in ("--set", f"{k}={v}")))
            protomer("import", "--star", folder / "simulated", "--output", folder / "imported")
            words = words_of(folder, box, classes)
            if box == min(case[0] for case in CASES):
                protomer(*words, "--output", folder / "warm", ranks=ranks)
            _, plan = protomer(*words, "--output", folder / "refined", "--dry-run", ranks=ranks)
            found = re.search(r"memory +([0-9.]+) GB", plan)
            assert found is not None, plan
            predicted_GB, (measured_GB, _) = float(found[1]), protomer(*words, "--output", folder / "refined", ranks=ranks)
            ratio = predicted_GB / measured_GB
            print(f"| {box} | {number} | {classes} | {ranks} | {predicted_GB:.2f} | {measured_GB:.2f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    if "--rank-of" in sys.argv[:2]:
        sys.exit(one_rank(Path(sys.argv[2]), sys.argv[3:]))
    main()
