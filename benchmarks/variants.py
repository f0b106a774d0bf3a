"""The refinement with one device taken out or set otherwise: what ablation.py compares.

python benchmarks/variants.py                          what the variants are
python benchmarks/variants.py NAME THREADS refine ...  `protomer refine ...` as one of them

Settings are given, or named constants of the engine are set, before it starts; nothing else of it is changed.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from protomer.environment import prepare_environment

#: modules that hold its constants
ENGINE = ("engine.alignment", "engine.schedule", "engine.expectation", "engine.pose_table", "engine.iteration_record", "refinement.loop",
          "refinement.plan", "jobs.refine")
NEVER = 10**9
FULL = "full"


TEMPERATURES = (4.0, 3.0, 2.0, 1.5, 1.0)
DIP = 3  # shells: a crossing of the FSC is final where it stays below for so many


def annealed() -> None:
    """Divide the log weights of modes by each iteration's temperature; the last one stays (deterministic annealing: Rose 1998, Proc. IEEE
    86, 2210)."""
    from protomer.engine import alignment
    from protomer.refinement import loop as refinement
    context_of, weights_of, temperature = refinement._context, alignment.mode_weights, [1.0]

    def context(setup: Any, states: Any, hypotheses: Any) -> Any:
        temperature[0] = TEMPERATURES[min(states[0].band.iteration, len(TEMPERATURES) - 1)]
        return context_of(setup, states, hypotheses)

    def weights(*arguments: Any) -> Any:
        weight, log_integral = weights_of(*arguments)
        tempered = weight ** (1.0 / temperature[0])
        return tempered / tempered.sum(axis=1, keepdims=True), log_integral

    refinement._context, alignment.mode_weights = context, weights


def over_dips() -> None:
    """Let the FSC end only where it stays below the threshold for DIP shells."""
    import numpy as np

    from protomer.refinement import loop as refinement

    def first_shell_below(curve: Any, threshold: float = 0.143) -> int:
        below = np.lib.stride_tricks.sliding_window_view(np.concatenate([curve < threshold, np.ones(DIP - 1, bool)]), DIP).all(axis=1)
        return int(np.argmax(below)) if below.any() else len(curve) - 1

    refinement.first_shell_below = first_shell_below


@dataclass(frozen=True)
class Variant:
    """The engine with `settings` of the job refine and `constants` (module.NAME of protomer) set otherwise.

    device: puts something into the engine that is not there.
    """

    name: str
    text: str
    settings: Sequence[str] = ()
    constants: dict[str, Any] = field(default_factory=dict)
    device: Callable[[], None] | None = None


_NO_OUTLIERS = {"refinement.loop.OUTLIER_SHARE": 0.0}
_NO_SHARE = {"refinement.loop.ONE_IN": NEVER, "refinement.loop.ONE_IN_WHEN_STILL": NEVER}
_NO_AGREEMENTS = {"refinement.loop.UNCERTAIN_WEIGHT": 0.0, "refinement.loop.AGREEMENTS": 0, "refinement.loop.AGREEMENTS_IF_CERTAIN": 0}
_ONLY_ONCE = {**_NO_AGREEMENTS, **_NO_OUTLIERS, **_NO_SHARE}
_ALWAYS = {"refinement.loop.AGREEMENTS": NEVER, "refinement.loop.AGREEMENTS_IF_CERTAIN": NEVER}
VARIANTS = (
    Variant(FULL, "the engine as it is"),
    Variant("reseeded", "the same with other folds and another rotating share: chance", ("seed=1",)),
    Variant("starts-6", "6 starts from the grid instead of 24", constants={"engine.schedule.STARTS": 6}),
    Variant("starts-12", "12 starts", constants={"engine.schedule.STARTS": 12}),
    Variant("starts-48", "48 starts", constants={"engine.schedule.STARTS": 48}),
    Variant("grid-small", "the grid stays at radius 8, 4,000 rotations", constants={
        "engine.schedule.GRID_RADII": (8,), "engine.schedule.GRID_ROTATIONS": (4000,)}),
    Variant("grid-large", "the grid is at radius 14, 12,000 rotations from the start", constants={
        "engine.schedule.GRID_RADII": (14,), "engine.schedule.GRID_ROTATIONS": (12000,)}),
    Variant("grid-larger", "the grid grows on, to radius 16 and 20,000 rotations", constants={
        "engine.schedule.GRID_RADII": (8, 10, 12, 14, 16), "engine.schedule.GRID_ROTATIONS": (4000, 8000, 12000, 16000, 20000)}),
    Variant("no-march", "from the grid's radius straight to the limit with 4 starts", constants={"engine.schedule.THINNED": ()}),
    Variant("no-thinning", "all starts climb to the limit", constants={"engine.schedule.THINNED": ((24, 0.6), (24, 1.0))}),
    Variant("thin-sooner", "4 starts from the second stage on", constants={"engine.schedule.THINNED": ((4, 0.6), (2, 0.8))}),
    Variant("thin-later", "16 starts, then 8", constants={"engine.schedule.THINNED": ((16, 0.6), (8, 0.8))}),
    Variant("hard", "each image is inserted at its best mode alone", ("marginalise=off",)),
    Variant("modes-2", "2 modes of each image are kept instead of 4", constants={"engine.alignment.MODES": 2}),
    Variant("modes-8", "8 modes", constants={"engine.alignment.MODES": 8}),
    Variant("folds-1", "no cross-fitting: images meet their own noise", ("cross_fit_folds=1",)),
    Variant("folds-2", "2 folds instead of 4", ("cross_fit_folds=2",)),
    Variant("folds-8", "8 folds", ("cross_fit_folds=8",)),
    Variant("unjoined", "references of the halves share nothing", ("join_halves_below=0",)),
    Variant("no-null-class", "images likelier noise count as the others", ("null_class=off",)),
    Variant("search-once", "one search, then only climbs", constants=_ONLY_ONCE),
    Variant("search-always", "all images are searched in every iteration", constants=_ALWAYS),
    Variant("no-rotating-share", "of settled images only outliers are searched again", constants=_NO_SHARE),
    Variant("no-outliers", "of settled images only the rotating share", constants=_NO_OUTLIERS),
    Variant("no-second-look", "no settled image is searched again", constants={**_NO_SHARE, **_NO_OUTLIERS}),
    Variant("agree-once", "one search that finds a pose again settles it, certain or not", constants={"refinement.loop.AGREEMENTS": 1}),
    Variant("mask-none", "references in a sphere, no mask", ("mask_mode=none",)),
    Variant("mask-from-16", "the mask is used from 16 Å on instead of 12 Å", ("dynamic_mask_from=16A",)),
    Variant("mask-from-20", "and from 20 Å on", ("dynamic_mask_from=20A",)),
    Variant("mask-from-30", "and from 30 Å on", ("dynamic_mask_from=30A",)),
    Variant("margin-0", "alignment stops where the FSC does, not 2 shells beyond", constants={"engine.schedule.MARGIN": 0}),
    Variant("first-radius-10", "the first iteration ends at radius 10 instead of 16", constants={"engine.schedule.FIRST_RADIUS": 10}),
    Variant("margin-4", "4 shells beyond it", constants={"engine.schedule.MARGIN": 4}),
    Variant("ten-iterations", "at least 10 iterations instead of 5", constants={"engine.schedule.LEAST_ITERATIONS": 10}),
    Variant("annealed", "log weights of modes divided by 4, 3, 2, 1.5 in the first iterations (not in the engine)", device=annealed),
    Variant("over-dips", "the FSC ends where 3 shells in a row are below 0.143, not 1 (not in the engine)", device=over_dips),
)


def set_constants(constants: dict[str, Any]) -> None:
    """Set constants of the engine, in every module of it that has imported them. Raises AttributeError for a name that is not there."""
    modules = [importlib.import_module(f"protomer.{name}") for name in ENGINE]
    for name, value in constants.items():
        home, _, constant = name.rpartition(".")
        before = getattr(importlib.import_module(f"protomer.{home}"), constant)
        for module in modules:
            if getattr(module, constant, None) is before:
                setattr(module, constant, value)


def setting_words(settings: Sequence[str]) -> list[str]:
    """NAME=VALUE as words of a command line; of two for one name the later one holds."""
    return [word for setting in settings for word in ("--set", setting)]


def run_as(variant: Variant, threads: int, words: Sequence[str]) -> None:
    """`protomer WORDS` as this variant, in this process."""
    prepare_environment(threads)
    set_constants(variant.constants)
    if variant.device is not None:
        variant.device()
    from protomer.command_line import main as command
    sys.argv[1:] = [*words, *setting_words(variant.settings)]
    command()


def main() -> None:
    """Carry out one command as a variant, or say what there is."""
    if len(sys.argv) == 1:
        print("\n".join(f"{v.name:20} {v.text}" for v in VARIANTS))
    else:
        run_as(next(v for v in VARIANTS if v.name == sys.argv[1]), int(sys.argv[2]), sys.argv[3:])


if __name__ == "__main__":
    main()
