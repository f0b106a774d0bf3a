"""How a refinement proceeds: which frequencies are used, how poses are searched, and when it is done.

The grid's radius and density grow with the map: a fixed coarse grid loses particles that a finer one finds once the map can
tell poses apart. All radii are in cycles per box, so that the same schedule serves any box and pixel size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from protomer.engine.alignment import Search, Stage
from protomer_kernels.half_plane import largest_radius

GRID_RADII = (8, 10, 12, 14)
GRID_ROTATIONS = (4000, 8000, 12000, 12000)
FIRST_RADIUS = 16
STARTS = 24
THINNED = ((8, 0.6), (4, 0.8))  # starts kept, and the share of the band that they are climbed to
FIRST_STEPS, LATER_STEPS = 6, 5
MARGIN = 2  # shells beyond the resolved ones that alignment may use
SETTLED_SHARE = 0.2  # of their posterior width: poses that turn by less in the median stand still
SETTLED_CERTAINTY = 0.01  # posteriors whose heaviest modes gain less than this in the mean stand still
LEAST_ITERATIONS, MOST_ITERATIONS = 5, 30


@dataclass(frozen=True)
class Band:
    """Where a refinement stands. `limit` is the largest radius that alignment may ever use."""

    box: int
    limit: int
    radius: int
    iteration: int = 0
    resolved: int = 0  # shell at which the half-map FSC falls below 0.143
    best_resolved: int = 0
    stalled: int = 0  # iterations since best_resolved grew
    is_settled: bool = False
    first_radius: int = FIRST_RADIUS  # which the second iteration does not pass, since a start may be wrong beyond it
    least_grid_radius: int = 0  # below which images of a filament look alike from all sides

    @classmethod
    def at(cls, box: int, limit: int) -> Band:
        """The first band."""
        limit = min(limit, largest_radius(box))
        return cls(box, limit, min(FIRST_RADIUS, limit))

    @property
    def at_limit(self) -> Band:
        """The band with everything resolved."""
        return replace(self, radius=self.limit)

    @property
    def insertion_radius(self) -> int:
        """Slices are inserted somewhat beyond the alignment's limit, so that the FSC can show that more is resolved."""
        return min(largest_radius(self.box), int(1.4 * self.radius) + 8)

    def search(self, shift_extent_px: float) -> Search:
        """The search of this iteration."""
        at = min(self.iteration, len(GRID_RADII) - 1)
        grid_radius = min(max(GRID_RADII[at], self.least_grid_radius), self.radius)
        stages = [Stage(STARTS, grid_radius, FIRST_STEPS)]
        for keep, share in THINNED:
            stages.append(Stage(keep, min(max(grid_radius + 2, int(share * self.radius)), self.radius), LATER_STEPS))
        return Search(grid_radius, GRID_ROTATIONS[at], shift_extent_px, self.box / 32, tuple(stages), self.radius)

    def next(self, resolved: int, median_turn_deg: float, median_width_deg: float, certainty_gain: float) -> Band:
        """The band after an iteration that resolved `resolved` shells, turned poses of this posterior width by this much, and changed the
        mean weight of the heaviest modes."""
        iteration, stalled = self.iteration + 1, 0 if resolved > self.best_resolved else self.stalled + 1
        still = stalled >= 1 and median_turn_deg < SETTLED_SHARE * median_width_deg and abs(certainty_gain) < SETTLED_CERTAINTY
        radius = min(resolved, self.first_radius, self.limit) if self.iteration == 0 else min(resolved + MARGIN, self.limit)
        return replace(
            self,
            radius=max(radius, min(8, self.limit)),
            iteration=iteration,
            resolved=resolved,
            best_resolved=max(resolved, self.best_resolved),
            stalled=stalled,
            is_settled=(still and iteration >= LEAST_ITERATIONS) or iteration >= MOST_ITERATIONS,
        )
