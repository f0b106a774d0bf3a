"""What each device of the refinement brings: the engine as it is, beside the engine with one device taken out or set otherwise.

python benchmarks/ablation.py [--share 0.4] [--seeds 2] [--only NAME,...] [--cases dim,realistic] [--set NAME=VALUE] [--folder FOLDER]

The sets are those of hard_cases.py, simulated once for each seed and shared by all variants, so that the difference from the full engine
is free of what the images themselves do. `reseeded` is the full engine with other folds and another rotating share: a difference no greater
than its own says nothing. Each variant (variants.py says what they are) runs in a process of its own, of which the operating system counts
the CPU seconds. `limit` is one search against half maps from true poses, as in hard_cases.py. With --folder, what is finished there is not
run again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from accuracy import protomer, timed
from hard_cases import CASES, Case, limit, make_set, refinement_words, score
from variants import FULL, VARIANTS, Variant, setting_words

from protomer.running.events import LOG_NAME, read_events

LIMIT = "limit"
MEASURED = ("lost", "median_deg", "p90_deg", "shells_true", "shells_reported", "iterations", "searches", "cpu_s")


@dataclass(frozen=True)
class Row:
    """What a variant gave on one set. searches: global searches of each image, in the mean."""

    case: str
    seed: int
    variant: str
    images: int
    lost: float
    median_deg: float
    p90_deg: float
    shells_true: float = 0.0
    shells_reported: float = 0.0
    iterations: int = 0
    searches: float = 0.0
    cpu_s: float = 0.0


def measure(variant: Variant, case: Case, seed: int, folder: Path, threads: int, settings: Sequence[str] = ()) -> Row:
    """Refine the set in `folder` as this variant, with settings that are given to all variants."""
    output = folder / variant.name
    words = (*refinement_words(case, folder, threads), "--output", output, "--overwrite", *setting_words(settings))
    cost = timed((sys.executable, Path(__file__).with_name("variants.py"), variant.name, threads, *words))
    found = score(folder, output)
    errors = found.errors.summary()
    images = int(json.loads((output / "summary.json").read_text())["particles_in"])
    searched = [event["searched"] for event in read_events(output / LOG_NAME) if event["event"] == "iteration"]
    searches = 1 + sum(searched[1:]) / images  # in the first iteration nothing is known, so that all are searched
    return Row(case.name, seed, variant.name, images, errors["lost"], errors["median_angle_deg"], errors["p90_angle_deg"], found.true,
               found.reported, len(searched), searches, cost.cpu_s)


def measure_limit(case: Case, seed: int, folder: Path, images: int) -> Row:
    """One search against half maps from true poses, as in hard_cases.py."""
    errors = limit(folder).summary()
    return Row(case.name, seed, LIMIT, images, errors["lost"], errors["median_angle_deg"], errors["p90_angle_deg"])


def measure_set(case: Case, seed: int, chosen: argparse.Namespace, folder: Path, known: list[Row]) -> list[Row]:
    """The rows of one set that are not known yet; each is written to rows.jsonl as it comes."""
    done = {row.variant for row in known if (row.case, row.seed) == (case.name, seed)}
    missing = [v for v in VARIANTS if v.name in chosen.only and v.name not in done]
    if not missing:
        return []
    place = folder / f"{case.name}-{seed}"
    rows = []

    def keep(row: Row) -> None:
        rows.append(row)
        with (folder / "rows.jsonl").open("a") as file:
            file.write(json.dumps(asdict(row)) + "\n")
        print(f"{row.case} {row.seed} {row.variant}: lost {100 * row.lost:.1f} %, {row.median_deg:.2f} deg, {row.cpu_s:.0f} s",
              file=sys.stderr, flush=True)

    if not (place / "warm").exists():
        images = make_set(case, chosen.share, place, seed)
        protomer(*refinement_words(case, place, chosen.threads), "--output", place / "warm", "--set", "max_alignment_resolution=30A")
        keep(measure_limit(case, seed, place, images))
    for variant in missing:
        keep(measure(variant, case, seed, place, chosen.threads, chosen.set))
    return rows


def table(case: str, rows: list[Row]) -> list[str]:
    """A Markdown table of one case: means over its sets, and of the lost share the difference from the full engine on the same set."""
    mine = [row for row in rows if row.case == case]
    full = {row.seed: row for row in mine if row.variant == FULL}
    lines = ["| variant | CPU s | iterations | searches | shells true | reported | median deg | 90 % deg | lost % | more lost, % |",
             "|---|---|---|---|---|---|---|---|---|---|"]
    for name in (LIMIT, *(v.name for v in VARIANTS)):
        sets = [row for row in mine if row.variant == name]
        if not sets:
            continue
        mean = {key: sum(getattr(row, key) for row in sets) / len(sets) for key in MEASURED}
        more = [100 * (row.lost - full[row.seed].lost) for row in sets if row.seed in full]
        spread = ", ".join(f"{value:+.1f}" for value in more)
        ran = " | ".join(["–"] * 5) if name == LIMIT else (
            f"{mean['cpu_s']:.0f} | {mean['iterations']:.1f} | {mean['searches']:.1f} | {mean['shells_true']:.1f} | "
            f"{mean['shells_reported']:.1f}")
        lines.append(f"| {name} | {ran} | {mean['median_deg']:.2f} | {mean['p90_deg']:.1f} | {100 * mean['lost']:.1f} | {spread} |")
    return lines


def arguments() -> argparse.Namespace:
    """The command line. Ends with a message where a name is unknown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names, cases = [v.name for v in VARIANTS], [case.name for case in CASES]
    parser.add_argument("--share", type=float, default=0.4, help="of the images of each case")
    parser.add_argument("--seeds", type=int, default=2, help="sets of each case, with other images and noise")
    parser.add_argument("--only", type=lambda text: text.split(","), default=names, metavar="NAME,...")
    parser.add_argument("--cases", type=lambda text: text.split(","), default=cases, metavar="NAME,...")
    parser.add_argument("--folder", type=Path, help="keeps the sets and what was found")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of refine for all variants")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    for given, known in ((chosen.only, names), (chosen.cases, cases)):
        if unknown := sorted(set(given) - set(known)):
            parser.error(f"unknown: {', '.join(unknown)}; known are {', '.join(known)}")
    return chosen


def main() -> None:
    """Run what is missing and print the tables."""
    chosen = arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = chosen.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / "rows.jsonl"
        rows = [Row(**json.loads(line)) for line in kept.read_text().splitlines()] if kept.exists() else []
        for seed in range(chosen.seeds):
            for case in (case for case in CASES if case.name in chosen.cases):
                rows += measure_set(case, seed, chosen, folder, rows)
        for case_name in chosen.cases:
            images = next(row.images for row in rows if row.case == case_name)
            print(f"\n## {case_name}: {chosen.seeds} sets of {images} images\n", *table(case_name, rows), sep="\n")


if __name__ == "__main__":
    main()
