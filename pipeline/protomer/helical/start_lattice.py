"""The lattice that a helical refinement goes on from, of those that were tried, and how well the images tell it from others.

Starts that end within half the finest detail of each other (at the ends of the central part) have found the same lattice. Two lattices are
compared on the same images, so that what is hard about an image is taken off; segments of one filament show the same subunits, so that

(1) difference = mean over images of (log odds of the best - log odds of the other)
(2) its variance = sum over filaments of (sum over its images of what each differs from the mean)^2 / N^2
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
NEAR_EDGE = 0.25  # of a step
SHARED_FROM = 1.5  # times the finest detail: down to which the best map is handed on to both half-sets


@dataclass(frozen=True)
class End:
    """A lattice in which starts ended: twist (degrees), rise (Å), its best score, how many starts ended there, how far the best of all
    leads with a standard error, and what it is to that one."""

    twist_deg: float
    rise_A: float
    score: float
    starts: int
    behind: float
    behind_sd: float
    what: str

    @property
    def is_told_apart(self) -> bool:
        """Whether the images say that the best one is better."""
        return self.behind > CLEARLY * self.behind_sd


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
        return [end for end in self.ends[1:] if not end.is_told_apart]

    def summary(self) -> dict[str, Any]:
        """For summary.json."""
        ends = [{"twist_deg": round(e.twist_deg, 4), "rise_A": round(e.rise_A, 4), "log_odds": round(e.score, 3), "starts": e.starts,
                 "behind": round(e.behind, 3), "behind_sd": round(e.behind_sd, 3), "what": e.what} for e in self.ends]
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
        what = "the best" if group[0] == first else described(at, lattice_at(scores, first), winding.cyclic)
        ends.append(End(at.twist_deg, at.rise_A, float(mean[group[0]]), len(group), behind, deviation, what))
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
    return away if own in ("the lattice found", "pseudo-lattice") else f"{own}; {away}"


def warn_of_starts(found: StartLattice, ranges: Mapping[str, tuple[float, float]], events: Events) -> None:
    """Warnings where the images do not tell which lattice is right, and where the best lies at the edge of what was tried."""
    best = found.ends[0]
    if found.rivals:
        said = "; ".join(f"{e.twist_deg:.2f}° and {e.rise_A:.2f} Å ({e.score:.1f}, {e.behind:.1f} ± {e.behind_sd:.1f} less)"
                         for e in found.rivals[:3])
        events.warn("start_lattice_not_told", f"gone on from {best.twist_deg:.2f}° and {best.rise_A:.2f} Å (log odds {best.score:.1f} of "
                    f"an unseen image), but {found.images} images to {found.starts.finest_A:g} Å do not tell it from {said}. Try a finer "
                    "start_detail or more start_images; else refine from each with a small twist_range, and believe the one that resolves "
                    "what must be there, such as secondary structure")
    for name, value, step in (("twist", best.twist_deg, found.starts.window[0]), ("rise", best.rise_A, found.starts.window[1])):
        low, high = ranges[name]
        if min(value - low, high - value) < NEAR_EDGE * step:
            events.warn("start_lattice_at_edge", f"the best start lattice, {best.twist_deg:.2f}° and {best.rise_A:.2f} Å, lies at the edge "
                        f"of the {name}s that were tried ({low:.4g} to {high:.4g}): the right one may lie beyond; widen {name}_range")
    if best.score <= 0:
        events.warn("start_lattice_foretells_nothing", f"under the best start lattice an unseen image is no likelier than noise (log odds "
                    f"{best.score:.1f}): no lattice was found. Take more start_images, or another range")
