"""Runs `protomer WORDS` with few rotations, starts, steps and passes: Numba's simulator takes one thread after the other."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

from protomer.abinitio import schedule as abinitio
from protomer.command_line import main
from protomer.engine.alignment import Search, Stage


def shrunk(search: Search) -> Search:
    """A search with few starts and steps."""
    stages = tuple(Stage(2, min(stage.radius, 4), 2) for stage in search.stages[:1])
    return replace(search, grid_radius=min(search.grid_radius, 3), grid_rotations=40, shift_extent_px=1.0, stages=stages, final_steps=2)


def shrink() -> None:
    """For as long as the process lives."""
    of_step = abinitio.Step.search
    for target, name, value in (
        (abinitio, "START_STEPS", 2), (abinitio, "HELD_START", 1), (abinitio, "COARSE_STEPS", 1), (abinitio, "FINE_STEPS", 1),
        (abinitio, "HELD_STEPS", 0), (abinitio, "FINE_BATCHES", 1), (abinitio, "LEAST_RADIUS", 3), (abinitio, "COARSE_RADIUS", 4),
        (abinitio, "GRID_DENSITY", 1), (abinitio.Step, "search", lambda step, extent_px, box: shrunk(of_step(step, extent_px, box))),
    ):
        mock.patch.object(target, name, value).start()


if __name__ == "__main__":
    shrink()
    main()
