"""The steps of an ab-initio run: which images, up to which frequency, and how far classes share them.

1. `starts` attempts from poses drawn at random: posteriors over a whole grid of rotations and shifts (grid_posterior.py), the radius
   growing from the initial resolution to that of coarse_radius. Whether an attempt will find the particle cannot be told at the initial
   resolution, where all make the images as probable as one another; at the coarse radius it can. The one that makes them most probable
   there goes on.
2. More such steps with larger batches.
3. Fine steps: the engine's search with climbed poses, at that radius first, then out to the final resolution.

Radii are in cycles per box, so that the same schedule serves any box and pixel size. A grid of GRID_DENSITY r^3 rotations has them about
3/4 of a radian over r apart.
"""

from __future__ import annotations

from dataclasses import dataclass

from protomer.engine.alignment import Search, Stage

LEAST_RADIUS, COARSE_RADIUS, WIDE_GROWTH = 6, 9, 2
START_STEPS, HELD_START, COARSE_STEPS = 36, 12, 12  # HELD_START: steps of an attempt at the initial resolution
FINE_STEPS, HELD_STEPS = 12, 5  # of the fine steps, those at the coarse radius
UNIT = 32  # images of a batch
GRID_DENSITY = 5
SHIFT_STEP = 4.2  # steps of the lattice of shifts in a wave of the finest detail
FINE_BATCHES = 4  # times the last coarse batch
FINE_STARTS, FINE_GRID_RADIUS, FINE_GRID_ROTATIONS = 16, 10, 6000


@dataclass(frozen=True)
class Step:
    """One iteration. start: which attempt it belongs to; is_first: it begins from poses drawn at random; is_last_of_start: it ends one;
    images: of each class; shared: q of grid_posterior.py, eq. (3)."""

    number: int
    start: int
    radius: int
    images: int
    shared: float
    is_first: bool = False
    is_last_of_start: bool = False
    is_fine: bool = False

    @property
    def rotations(self) -> int:
        """Of the whole sphere of rotations, for a coarse step."""
        return GRID_DENSITY * self.radius**3

    @property
    def insertion_radius(self) -> int:
        """Somewhat beyond what is compared, so that the next steps find something there."""
        return self.radius + 2

    def search(self, shift_extent_px: float, box: int) -> Search:
        """The engine's search, for a fine step and the last pass."""
        grid = min(FINE_GRID_RADIUS, self.radius)
        stages = (Stage(FINE_STARTS, grid, 5), Stage(6, min(grid + 2, self.radius), 4))
        return Search(grid, FINE_GRID_ROTATIONS, shift_extent_px, box / 32, stages, self.radius, 6)

    def shift_step_px(self, box: int) -> float:
        """Of the lattice of shifts, for a coarse step."""
        return box / (SHIFT_STEP * self.radius)


def coarse_radius(first_radius: int, last_radius: int) -> int:
    """The largest radius of the coarse steps: COARSE_RADIUS, or somewhat beyond the first where a wide box begins beyond that."""
    return min(max(COARSE_RADIUS, first_radius + WIDE_GROWTH), last_radius)


def steps_of(first_radius: int, last_radius: int, starts: int, batches: tuple[int, int], similarity: float) -> list[Step]:
    """All steps in order. batches: images per class of the first and the last coarse step; similarity: q at the start, annealed to 0."""
    coarse, steps, between = coarse_radius(first_radius, last_radius), list[Step](), (batches[0] + batches[1]) // 2
    for start in range(starts):
        for n in range(START_STEPS):
            grown = max(0.0, n - HELD_START + 1) / (START_STEPS - HELD_START)
            radius = round(first_radius + (coarse - first_radius) * min(1.0, 1.5 * grown))
            q = similarity * max(0.0, 1.0 - 1.5 * n / START_STEPS)
            images = round(batches[0] + (between - batches[0]) * grown)
            steps.append(Step(len(steps), start, radius, images, q, n == 0, n == START_STEPS - 1))
    for n in range(COARSE_STEPS):
        images = round(between + (batches[1] - between) * (n + 1) / COARSE_STEPS)
        steps.append(Step(len(steps), starts, coarse, images, 0.0))
    for n in range(FINE_STEPS):
        radius = round(coarse + (last_radius - coarse) * max(0, n + 1 - HELD_STEPS) / (FINE_STEPS - HELD_STEPS))
        steps.append(Step(len(steps), starts, radius, FINE_BATCHES * batches[1], 0.0, is_fine=True))
    return steps

