"""The helical lattice of a refinement: imposed on references, refined from maps on which it was not imposed.

Images are inserted once (under the point group alone), so that the half maps of an iteration carry the images' own lattice as far as
poses are right, not the one that was imposed on the references. From each half map come the self-correlations of helical_search.py, A(turn,
move);

(1) S_m(twist, rise) = mean over n = 1 ... m and over both halves of A(n twist, n rise)

is looked at over the allowed range for few subunits first, then, about its greatest value, for more and more, as far as the map reaches,
which makes it sharper each time. The halves share these two numbers and nothing else. Half the difference of what each half says alone
is their standard error.

(2) The same ranges with the opposite twist hold no lattice of the map: S there says what chance gives. Where the greatest S lies less than
    CLEARLY times as far above the mean of those values as the greatest of them does, or at the edge of the range, the maps do not tell
    twist and rise yet, and the last ones stay
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize

from protomer.maps.volumes import Halves, Volume
from protomer.symmetry.helical_search import HelixScores, helix_scores
from protomer_kernels.masks import cylinder_mask, sphere_mask
from protomer_kernels.winding import longest_part_px, wound

SPHERE, EDGE = 0.42, 0.06  # of the box: where references live, as in all refinements
CYLINDER_EDGE = 0.03
MOST_COPIES = 60
WIDENING = 4  # stages: the copies that count double in each
STEPS = 4.0  # per resolution element
WINDOW = 3  # steps about the greatest value
CLEARLY = 1.5
LEAST_VOXELS = 2.5  # finest detail that is compared
MOST_POINTS = 41  # of a picture's axis
HIGHEST_ORDER = 40  # of Bessel functions
MOST_FIRST_SHELL = 18


@dataclass(frozen=True)
class Lattice:
    """Twist (degrees, right-handed positive) and rise (Å) per subunit; their standard errors, NaN where unknown; S of eq. (1), and that of
    the opposite twist; whether the last maps told them, or they are as before."""

    twist_deg: float
    rise_A: float
    twist_sd_deg: float = float("nan")
    rise_sd_A: float = float("nan")
    score: float = float("nan")
    other_hand: float = float("nan")
    is_told: bool = False

    def moved_from(self, before: Lattice, radius_A: float, length_A: float) -> float:
        """How far (Å) a point at this radius and half this length away along the axis has moved."""
        copies = length_A / 2 / self.rise_A
        return float(np.hypot(np.deg2rad(self.twist_deg - before.twist_deg) * radius_A, self.rise_A - before.rise_A) * copies)


@dataclass(frozen=True)
class Winding:
    """How a lattice is imposed and refined.

    twist_deg and rise_A: ranges; cyclic: order of the rotation axis; central: share of the box's length along z whose subunits count;
    radius_A, inner_A: of the filament, beyond and within which references are 0; refines: whether twist and rise are refined.
    """

    twist_deg: tuple[float, float]
    rise_A: tuple[float, float]
    central: float
    radius_A: float
    inner_A: float = 0.0
    refines: bool = True
    cyclic: int = 1

    def wound(self, volume: np.ndarray, width_A: float, lattice: Lattice) -> np.ndarray:
        """A map (D, D, D) of this width with the lattice imposed."""
        voxel_A, edge_A = width_A / len(volume), (EDGE + CYLINDER_EDGE) * width_A
        central_px = min(self.central * len(volume), longest_part_px(len(volume)))
        return wound(volume, float(np.deg2rad(lattice.twist_deg)), lattice.rise_A / voxel_A, central_px, (self.radius_A + edge_A) / voxel_A)

    def solid(self, box: int, width_A: float) -> np.ndarray:
        """Where references live (box, box, box): a soft cylinder along z, hollow where it has an inner radius, in a soft sphere."""
        pixels, edge = box / width_A, CYLINDER_EDGE * box
        mask = cylinder_mask(box, self.radius_A * pixels, 2.0 * box, edge) * sphere_mask(box, SPHERE * box, EDGE * box)
        if self.inner_A > 0:
            mask = mask * (1.0 - cylinder_mask(box, max(self.inner_A * pixels - edge, 0.0), 2.0 * box, edge))
        return np.asarray(mask, np.float32)

    def moved_A(self, lattice: Lattice, before: Lattice, width_A: float) -> float:
        """How far a lattice moved the surface of the filament at the ends of the central part."""
        return lattice.moved_from(before, self.radius_A, self.central * width_A)

    def units_per_image(self, lattice: Lattice, width_A: float) -> int:
        """How many asymmetric units of the helix the central part of an image shows."""
        return int(self.central * width_A / lattice.rise_A)

    def first_shell(self, lattice: Lattice, width_A: float) -> int:
        """The shell, a little beyond the coarsest layer line, from which on images of the filament differ from side to side."""
        return min(int(np.ceil(width_A / coarsest_layer_line_A(lattice, self.radius_A, self.cyclic))) + 1, MOST_FIRST_SHELL)

    def refitted(self, half_maps: Halves[Volume], finest_A: float, before: Lattice) -> Lattice:
        """The lattice that two half maps without it tell, down to a resolution; the one before where they do not."""
        if not self.refines:
            return before
        finest_A = max(finest_A, LEAST_VOXELS * half_maps.a.voxel_size_A)
        own = half_maps.map(lambda half: helix_scores(half, finest_A, self.radius_A))
        both = together(own)
        found = self.greatest(both, finest_A)
        alone = [self.greatest(scores, finest_A) for scores in own]
        if found is None or not self.is_clear(both, found, finest_A):
            return replace(before, is_told=False, twist_sd_deg=float("nan"), rise_sd_A=float("nan"))
        most = copies_in(both, found[1])
        twist_sd, rise_sd = np.abs(alone[0] - alone[1]) / 2 if alone[0] is not None and alone[1] is not None else (np.nan, np.nan)
        return Lattice(float(found[0]), float(found[1]), float(twist_sd), float(rise_sd), mean_score(both, found, most),
                       mean_score(both, found * [-1, 1], most), True)

    def is_clear(self, scores: HelixScores, found: np.ndarray, finest_A: float) -> bool:
        """Whether S at (twist, rise) is more than chance gives, by (2)."""
        copies = copies_in(scores, found[1])
        axes = [np.arange(a, b, s) for (a, b), s in zip((self.twist_deg, self.rise_A), self.steps(finest_A, copies), strict=True)]
        chance = score_grid(scores, -axes[0], axes[1], copies)
        mean = float(chance.mean())
        return mean_score(scores, found, copies) - mean > CLEARLY * (float(chance.max()) - mean)

    def greatest(self, scores: HelixScores, finest_A: float) -> np.ndarray | None:
        """(twist, rise) of the greatest S within the ranges; None where it lies at their edge."""
        (low, high), (least, farthest) = self.twist_deg, self.rise_A
        most = copies_in(scores, farthest)
        steps, ranges = (0.0, 0.0), [(low, high), (least, farthest)]
        for copies in sorted({max(most >> stage, 1) for stage in range(WIDENING + 1)}):
            steps = self.steps(finest_A, copies)
            twists, rises = (np.linspace(a, b, max(int(np.ceil((b - a) / s)), 2) + 1) for (a, b), s in zip(ranges, steps, strict=True))
            values = score_grid(scores, twists, rises, copies)
            i, j = np.unravel_index(int(values.argmax()), values.shape)
            at = np.array([twists[i], rises[j]])
            ranges = [(max(a - WINDOW * s, r[0]), min(a + WINDOW * s, r[1]))
                      for a, s, r in zip(at, steps, (self.twist_deg, self.rise_A), strict=True)]
        result = optimize.minimize(lambda p: -mean_score(scores, p, most), at, method="Nelder-Mead", options={
            "initial_simplex": at + np.array([[0, 0], [steps[0], 0], [0, steps[1]]]) / 2, "xatol": 1e-5, "fatol": 1e-8})
        found = np.asarray(result.x)
        inside = low < found[0] < high and least < found[1] < farthest
        return found if inside else None

    def steps(self, finest_A: float, copies: int) -> tuple[float, float]:
        """Steps in twist (degrees) and rise (Å) that are fine enough for this many copies."""
        return float(np.rad2deg(finest_A / (STEPS * self.radius_A * copies))), finest_A / (STEPS * copies)


def coarsest_layer_line_A(lattice: Lattice, radius_A: float, cyclic: int = 1) -> float:
    """The coarsest detail that depends on where a filament is looked at from: Bessel order n lies on layer lines at height
    (n twist / 360 + m) / rise, and at a radius r its first peak is near (|n| + 0.8) / (2 pi r) from the meridian (Klug, Crick and Wyckoff
    1958)."""
    order = cyclic * np.arange(1, HIGHEST_ORDER + 1)
    turns = order * lattice.twist_deg / 360.0
    height = np.abs(turns - np.rint(turns)) / lattice.rise_A
    return float(1.0 / np.hypot(height, (order + 0.8) / (2 * np.pi * radius_A)).min())


def together(own: Halves[HelixScores]) -> HelixScores:
    """The mean of the self-correlations of two half maps, which do not meet otherwise."""
    return HelixScores((own.a.surface + own.b.surface) / 2, own.a.step_A, own.a.reach_A)


def copies_in(scores: HelixScores, rise_A: float) -> int:
    """How many copies along the axis a map reaches."""
    return max(min(int(scores.reach_A / rise_A), MOST_COPIES), 1)


def mean_score(scores: HelixScores, lattice: np.ndarray, copies: int) -> float:
    """S of eq. (1) at (twist, rise)."""
    n = np.arange(1, copies + 1)
    return float(scores.at(n * lattice[0], n * lattice[1]).mean())


def score_grid(scores: HelixScores, twists_deg: np.ndarray, rises_A: np.ndarray, copies: int) -> np.ndarray:
    """S of eq. (1) on a grid: (twists, rises)."""
    total = np.zeros((len(twists_deg), len(rises_A)))
    for n in range(1, copies + 1):
        total += scores.at(np.repeat(n * twists_deg[:, None], len(rises_A), axis=1), np.repeat(n * rises_A[None], len(twists_deg), axis=0))
    return total / copies
