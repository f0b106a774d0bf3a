"""The lattice that a helical refinement goes on from, of those that were tried, and how well the images tell it from others.

Starts that end within half the finest detail of each other (at the ends of the central part) have found the same lattice. Two lattices are
compared on the same images, so that what is hard about an image is taken off; segments of one filament show the same subunits, so that

(1) difference = mean over images of (log odds of the best - log odds of the other)
(2) its variance = sum over filaments of (sum over its images of what each differs from the mean)^2 / N^2

Images are not all that is uncertain: starts that end at one lattice have more or less good maps by then. The best lattice is told from
another where its lead is more than CLEARLY standard errors and also more than the scores of starts that ended at one lattice differ.

Two lattices with turns t, t' (full ones counted, t + 360 k) and rises h, h' have the same helix through all subunits where its pitch is

(3) P = 360 h / t = 360 h' / t';

they then share the layer line at 1 / P, and differ in how many subunits a turn has: what is coarser than the layer lines by which they
differ looks alike (Egelman 2014, eLife 3:e04969).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from protomer.declarations.helical_refine import HelicalRefineSettings
from protomer.helical.lattice import Lattice, Winding
from protomer.helical.outcome import relation
from protomer.helical.start import first_reference
from protomer.helical.starts import Starts
from protomer.helical.trials import Scores, Trial, filaments_compared
from protomer.maps.volumes import Volume
from protomer.refinement.setup import Setup
from protomer.refinement.start import resampled
from protomer.running.events import Events

SAME = 0.5  # of the finest detail, within which two lattices are the same
CLEARLY = 4.0  # standard errors by which the best must lead
SAME_PITCH = 0.02  # share of it
NEAR_EDGE = 0.25  # of a step
SHARED_FROM = 1.5  # times the finest detail: down to which the best map is handed on to both half-sets


@dataclass(frozen=True)
class End:
    """A lattice in which starts ended: twist (degrees), rise (Å), its best score, how many starts ended there and how far their scores lie
    apart, how far the best of all leads with a standard error, and what it is to that one."""

    twist_deg: float
    rise_A: float
    score: float
    starts: int
    spread: float
    behind: float
    behind_sd: float
    what: str


@dataclass(frozen=True)
class StartLattice:
    """The lattice that is gone on from, first of `ends`, best first; the tried ones, their scores; the map, down to shared_A."""

    lattice: Lattice
    ends: list[End]
    starts: Starts
    scores: Scores
    volume: Volume
    images: int

    @classmethod
    def of(cls, trial: Trial, scores: Scores) -> StartLattice:
        """The start with the greatest score, and all others that were refined with it, by the lattices in which they ended."""
        assert trial.setup.winding is not None
        ends = ends_of(scores, filaments_compared(trial), trial.starts.finest_A, trial.setup.winding, trial.setup.width_A)
        volume = Volume(scores.volume, trial.setup.pixel_size_A)
        return cls(Lattice(ends[0].twist_deg, ends[0].rise_A), ends, trial.starts, scores, volume, scores.log_odds.shape[1])

    @property
    def shared_A(self) -> float:
        """The detail down to which both half-sets start from the same map."""
        return SHARED_FROM * self.starts.finest_A

    def reference(self, setup: Setup, settings: HelicalRefineSettings) -> np.ndarray:
        """The volume that all images of a refinement meet first: the map of the best, down to shared_A, in the images' frame."""
        box = setup.store.plane.box
        volume = Volume(resampled(self.volume, box, setup.pixel_size_A), setup.pixel_size_A)
        return first_reference(setup, volume, self.lattice, replace(settings, initial_low_pass=self.shared_A))

    @property
    def rivals(self) -> list[End]:
        """Other lattices that the images do not tell from the best."""
        return [end for end in self.ends[1:] if end.behind <= max(CLEARLY * end.behind_sd, self.chance)]

    @property
    def chance(self) -> float:
        """By how much scores differ for how well a start happened to go: among those that ended at the best lattice, or else at any one;
        infinite where no two starts ended together."""
        apart = [end.spread for end in self.ends if end.starts > 1]
        return self.ends[0].spread if self.ends[0].starts > 1 else max(apart, default=float("inf"))

    def summary(self) -> dict[str, Any]:
        """For summary.json."""
        ends = [{"twist_deg": round(e.twist_deg, 4), "rise_A": round(e.rise_A, 4), "log_odds": round(e.score, 3), "starts": e.starts,
                 "spread": round(e.spread, 3), "behind": round(e.behind, 3), "behind_sd": round(e.behind_sd, 3), "what": e.what}
                for e in self.ends]
        return {"tried": len(self.starts), "refined": int(np.isfinite(self.scores.ends[:, 0]).sum()), "images": self.images,
                "compared_to_A": self.starts.finest_A, "is_told": not self.rivals, "ends": ends}


def ends_of(scores: Scores, filament: np.ndarray, finest_A: float, winding: Winding, width_A: float) -> list[End]:
    """The lattices in which starts ended, best first."""
    mean = np.where(np.isnan(scores.mean), -np.inf, scores.mean)
    order = [n for n in np.argsort(-mean, kind="stable").tolist() if np.isfinite(mean[n])]
    groups: list[list[int]] = []
    for n in order:
        at = lattice_at(scores, n)
        near = [g for g in groups if winding.moved_A(at, lattice_at(scores, g[0]), width_A) < SAME * finest_A]
        if near:
            near[0].append(n)
        else:
            groups.append([n])
    first, ends = groups[0][0], []
    for group in groups:
        at = lattice_at(scores, group[0])
        behind, deviation = lead(scores.log_odds[first], scores.log_odds[group[0]], filament)
        scored = [float(mean[n]) for n in group]
        what = "the best" if group[0] == first else described(at, lattice_at(scores, first), winding.cyclic)
        ends.append(End(at.twist_deg, at.rise_A, scored[0], len(group), scored[0] - scored[-1], behind, deviation, what))
    return ends


def lattice_at(scores: Scores, number: int) -> Lattice:
    """The lattice in which one start ended."""
    return Lattice(*scores.ends[number].tolist())


def lead(best: np.ndarray, other: np.ndarray, filament: np.ndarray) -> tuple[float, float]:
    """Eqs. (1) and (2) from log odds (N,) of two lattices and the images' filaments (N,)."""
    difference = best - other
    sums = np.bincount(filament, difference - difference.mean())
    return float(difference.mean()), float(np.sqrt(np.sum(sums**2)) / len(difference))


def described(at: Lattice, best: Lattice, cyclic: int) -> str:
    """What a lattice is to the best one, in words."""
    own = relation(np.array([at.twist_deg, at.rise_A]), best, cyclic)
    away = f"{at.twist_deg - best.twist_deg:+.2f}° and {at.rise_A - best.rise_A:+.2f} Å from the best"
    pitch_A = shared_pitch_A(at, best)
    if pitch_A is not None:
        away = f"pseudo-lattice with the same helix of pitch {pitch_A:.1f} Å, {away}"
    return away if own in ("the lattice found", "pseudo-lattice") else f"{own}; {away}"


def shared_pitch_A(at: Lattice, best: Lattice) -> float | None:
    """Eq. (3): the longest pitch of a helix through all subunits of one lattice that one of the other has too; None where none is the same.
    Pitches of a rise or less, where every layer line is the same as another, are not looked at."""
    turns = [np.abs(lattice.twist_deg + 360.0 * np.arange(-2, 3)) for lattice in (at, best)]
    one, other = (360.0 * lattice.rise_A / np.maximum(turn, 1e-6) for lattice, turn in zip((at, best), turns, strict=True))
    same = np.abs(one[:, None] / other[None] - 1.0) < SAME_PITCH
    same &= (other > best.rise_A)[None]
    return float((same * other[None]).max()) if same.any() else None


def warn_of_starts(found: StartLattice, ranges: Mapping[str, tuple[float, float]], events: Events) -> None:
    """Warnings where the images do not tell which lattice is right, and where the best lies at the edge of what was tried."""
    best = found.ends[0]
    if found.rivals:
        said = "; ".join(f"{e.twist_deg:.2f}° and {e.rise_A:.2f} Å ({e.score:.1f}, {e.behind:.1f} ± {e.behind_sd:.1f} less; {e.what})"
                         for e in found.rivals[:3])
        events.warn("start_lattice_not_told", f"gone on from {best.twist_deg:.2f}° and {best.rise_A:.2f} Å (log odds {best.score:.1f} of "
                    f"an unseen image), but {found.images} images to {found.starts.finest_A:g} Å do not tell it from {said}. Try more "
                    "start_passes, start_images or a finer start_detail; else refine from each with a small twist_range, and "
                    "believe the one that resolves what must be there, such as secondary structure")
    for name, value, step in (("twist", best.twist_deg, found.starts.window[0]), ("rise", best.rise_A, found.starts.window[1])):
        low, high = ranges[name]
        if min(value - low, high - value) < NEAR_EDGE * step:
            events.warn("start_lattice_at_edge", f"the best start lattice, {best.twist_deg:.2f}° and {best.rise_A:.2f} Å, lies at the edge "
                        f"of the {name}s that were tried ({low:.4g} to {high:.4g}): the right one may lie beyond; widen {name}_range")
    if best.score <= 0:
        events.warn("start_lattice_foretells_nothing", f"under the best start lattice an unseen image is no likelier than noise (log odds "
                    f"{best.score:.1f}): no lattice was found. Take more start_images, or another range")
