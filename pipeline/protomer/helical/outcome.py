"""What a helical refinement found: its lattice, those that look alike, and what it hands on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import yaml

from protomer.errors import InputError
from protomer.helical.lattice import MOST_POINTS, Lattice, Winding, copies_in, mean_score, score_grid, together
from protomer.maps.fsc_curves import FscSet
from protomer.maps.volumes import Halves, Volume
from protomer.refinement.setup import Setup, State
from protomer.running.events import Events
from protomer.symmetry.helical_search import CARRIED, USED_LENGTH, HelixScores, find_helix, helix_scores
from protomer.tables.particles import Particles
from protomer_kernels.fourier import low_pass
from protomer_kernels.masks import cylinder_mask

ITSELF, MULTIPLE, FINER, MIRRORED, OTHER = (
    "the lattice found", "every {n}. subunit of it", "pseudo-lattice: the one found is its every {n}. subunit", "the other hand",
    "pseudo-lattice")
SAME_TWIST_DEG, SAME_RISE = 2.0, 0.04  # within which two lattices are the same
MOST_TIMES = 8
COARSER = 1.6  # the lower resolution at which lattices are compared again, in units of the finest detail
LOOKS_ALIKE, AS_GOOD = 0.85, 0.95  # of the score of the lattice found
TRACK = "rlnHelicalTrackLengthAngst"
FARTHEST_RISES = 3.5  # how large rises are compared
CLEARLY_WORSE = 0.9


@dataclass(frozen=True)
class Alike:
    """A lattice whose self-correlation has a peak: twist and rise, S over the map's reach at the finest detail and at a coarser one, and
    what it is to the lattice found."""

    twist_deg: float
    rise_A: float
    score: float
    coarse_score: float
    what: str

    @property
    def is_pseudo(self) -> bool:
        """Whether it is another lattice than the one found, and of this hand."""
        return self.what.startswith("pseudo")


@dataclass(frozen=True)
class Found:
    """The lattice, the one started from, those that look alike, best first, and S about it: twists (t,), rises (r,), values (t, r); the
    finest detail that was compared."""

    lattice: Lattice
    first: Lattice
    alike: list[Alike]
    other_hand: Alike
    picture: tuple[np.ndarray, np.ndarray, np.ndarray]
    finest_A: float
    expected: float  # S of a perfect helix with the noise of these half maps

    @classmethod
    def of(cls, winding: Winding, half_maps: Halves[Volume], fsc: FscSet, state: State, first: Lattice) -> Found:
        """From half maps without the lattice, at the resolution that they reach with it."""
        lattice, voxel_A = state.lattice, half_maps.a.voxel_size_A
        assert lattice is not None
        resolution_A = fsc.resolution_A_at("corrected")
        finest_A = max(resolution_A if np.isfinite(resolution_A) else 10 * voxel_A, 2.5 * voxel_A)
        scores, coarse = (together(half_maps.map(lambda half, d=detail: helix_scores(half, d, winding.radius_A)))  # type: ignore[misc]
                          for detail in (finest_A, COARSER * finest_A))
        most = copies_in(scores, lattice.rise_A)
        here = mean_score(scores, np.array([lattice.twist_deg, lattice.rise_A]), most)
        alike = [scored(scores, coarse, twist, rise, lattice, winding.cyclic)
                 for twist, rise in [(lattice.twist_deg, lattice.rise_A), *peaks(scores, lattice.rise_A)]]
        mirrored = replace(winding, twist_deg=(-winding.twist_deg[1], -winding.twist_deg[0])).greatest(scores, finest_A)
        other = np.array([-lattice.twist_deg, lattice.rise_A]) if mirrored is None else mirrored
        hand = replace(scored(scores, coarse, float(other[0]), float(other[1]), lattice, winding.cyclic), what=MIRRORED)
        twists = np.linspace(*winding.twist_deg, MOST_POINTS)
        rises = np.linspace(*winding.rise_A, MOST_POINTS)
        picture = twists, rises, score_grid(scores, twists, rises, max(most // 2, 1))
        return cls(replace(lattice, score=here, other_hand=hand.score), first, without_twins(alike), hand, picture, finest_A,
                   agreement(half_maps, finest_A, winding.radius_A))

    @property
    def pseudo(self) -> list[Alike]:
        """The other lattices that look alike at the coarser detail."""
        own = max(self.alike[0].coarse_score, 1e-9)
        return [a for a in self.alike if a.is_pseudo and a.coarse_score >= LOOKS_ALIKE * own]

    def summary(self, setup: Setup) -> dict[str, Any]:
        """For summary.json."""
        lattice = self.lattice
        assert setup.winding is not None
        told = {name: None if not np.isfinite(value) else round(value, 5)
                for name, value in (("twist_sd_deg", lattice.twist_sd_deg), ("rise_sd_A", lattice.rise_sd_A))}
        return {"twist_deg": round(lattice.twist_deg, 4), "rise_A": round(lattice.rise_A, 4), **told,
                "start_twist_deg": self.first.twist_deg, "start_rise_A": self.first.rise_A, "lattice_told": lattice.is_told,
                "hand": "right" if lattice.twist_deg > 0 else "left", "self_correlation": round(lattice.score, 4),
                "self_correlation_expected": round(self.expected, 4),
                "self_correlation_other_hand": round(lattice.other_hand, 4), "compared_to_A": round(self.finest_A, 3),
                "pseudo_lattices": [{"twist_deg": round(a.twist_deg, 3), "rise_A": round(a.rise_A, 3), "score": round(a.score, 4),
                                     "coarse_score": round(a.coarse_score, 4), "what": a.what} for a in self.pseudo],
                "asymmetric_units_per_image": setup.winding.units_per_image(lattice, setup.width_A) * len(setup.operators),
                "helical_order": order_for_expansion(lattice, setup)}


def agreement(half_maps: Halves[Volume], finest_A: float, radius_A: float) -> float:
    """The correlation of two half maps in the cylinder: what each would agree with itself by under its lattice, noise included."""
    box, voxel_A = half_maps.a.box, half_maps.a.voxel_size_A
    inside = cylinder_mask(box, radius_A / voxel_A, USED_LENGTH * box, 0) > 0
    a, b = (low_pass(half.data, box * voxel_A / finest_A, 2)[inside] for half in half_maps)
    return max(float(np.corrcoef(a, b)[0, 1]), 0.0)


def peaks(scores: HelixScores, rise_A: float) -> list[tuple[float, float]]:
    """(twist, rise) of peaks of the self-correlation at rises about that of the lattice; none where there is none."""
    try:
        rises = max(0.2 * rise_A, scores.step_A / 2), min(FARTHEST_RISES * rise_A, scores.reach_A / 2)
        _, found = find_helix(scores, (-180.0, 180.0), rises)
    except InputError:
        return []
    return [(helix.twist_deg, helix.rise_A) for helix in found]


def scored(scores: HelixScores, coarse: HelixScores, twist_deg: float, rise_A: float, lattice: Lattice, cyclic: int) -> Alike:
    """A lattice with its scores at both details and its name."""
    at, copies = np.array([twist_deg, rise_A]), copies_in(scores, rise_A)
    return Alike(twist_deg, rise_A, mean_score(scores, at, copies), mean_score(coarse, at, copies), relation(at, lattice, cyclic))


def relation(at: np.ndarray, lattice: Lattice, cyclic: int) -> str:
    """What a lattice (twist, rise) is to the one found; a rotation axis of some order makes twists the same that differ by its angle."""
    own = np.array([lattice.twist_deg, lattice.rise_A])
    for n in range(1, MOST_TIMES + 1):
        if is_same(n * own, at, cyclic):
            return ITSELF if n == 1 else MULTIPLE.format(n=n)
    for n in range(2, MOST_TIMES + 1):
        if is_same(n * at, own, cyclic):
            return FINER.format(n=n)
    return MIRRORED if is_same(own * [-1, 1], at, cyclic) else OTHER


def is_same(first: np.ndarray, second: np.ndarray, cyclic: int) -> bool:
    """Whether two (twist, rise) are the same lattice."""
    period = 360.0 / cyclic
    apart = abs((first[0] - second[0] + period / 2) % period - period / 2)
    return bool(apart < SAME_TWIST_DEG and abs(first[1] - second[1]) < SAME_RISE * max(first[1], second[1]))


def without_twins(alike: Sequence[Alike]) -> list[Alike]:
    """The first, then the others by their score, one of each lattice."""
    kept = [alike[0]]
    for one in sorted(alike[1:], key=lambda a: -a.score):
        if not any(is_same(np.array([one.twist_deg, one.rise_A]), np.array([k.twist_deg, k.rise_A]), 1) for k in kept):
            kept.append(one)
    return kept


def central_mask(setup: Setup) -> tuple[Volume, str]:
    """The soft cylinder in which resolution is measured: as wide as the filament, as long as the part whose subunits count."""
    assert setup.winding is not None
    box = setup.store.plane.box
    mask = cylinder_mask(box, setup.winding.radius_A / setup.pixel_size_A, setup.winding.central * box, max(0.06 * box, 4.0))
    return Volume(mask.astype(np.float32), setup.pixel_size_A), "central cylinder"


def order_for_expansion(lattice: Lattice, setup: Setup) -> int:
    """How many copies of a segment show each subunit once: the subunits from one segment to the next where the table has the length along
    the filament, else those of the central part."""
    assert setup.winding is not None
    most = setup.winding.units_per_image(lattice, setup.width_A)
    step_A = segment_step_A(setup.particles)
    return max(most if step_A is None else min(round(step_A / lattice.rise_A), most), 1)


def segment_step_A(particles: Particles) -> float | None:
    """The median distance of neighbouring segments along their filaments; None where the table does not say it."""
    column = particles.extra.get(TRACK)
    if column is None:
        return None
    try:
        length = np.asarray(column).astype(np.float64)
    except ValueError:
        return None
    order = np.lexsort((length, particles.filament, particles.micrograph.astype(str)))
    filament, micrograph = particles.filament[order], particles.micrograph[order]
    steps = np.diff(length[order])[(filament[1:] == filament[:-1]) & (micrograph[1:] == micrograph[:-1])]
    steps = steps[steps > 0]
    return float(np.median(steps)) if len(steps) else None


def helix_settings(found: Found, setup: Setup) -> str:
    """helix.yaml: the settings of symmetry-expand and reconstruct that mean this helix."""
    lattice = found.lattice
    return yaml.safe_dump({"helical_twist": round(lattice.twist_deg, 5), "helical_rise": round(lattice.rise_A, 5),
                           "helical_order": order_for_expansion(lattice, setup)}, sort_keys=False)


def warn_of_lattice(found: Found, setup: Setup, state: State, events: Events) -> None:
    """Warnings of a lattice that the maps do not tell, or not from others."""
    lattice, winding = found.lattice, setup.winding
    assert winding is not None
    if winding.refines and not lattice.is_told:
        events.warn("lattice_not_told", f"the last maps did not tell twist and rise: {lattice.twist_deg:.3f}° and {lattice.rise_A:.3f} Å "
                    "are those of an earlier iteration, or those given. The right lattice may lie outside twist_range and rise_range, or "
                    "the maps are too poor: look at the score surface in the report")
    if lattice.score < CARRIED * found.expected:
        events.warn("lattice_not_carried", f"under the lattice found the half maps agree with themselves by {lattice.score:.3f} only, "
                    f"where their noise allows {found.expected:.3f}: the images do not have this lattice; look at the score "
                    "surface, and start elsewhere")
    rivals = [a for a in found.pseudo if a.score >= AS_GOOD * lattice.score]
    if rivals:
        said = "; ".join(f"{a.twist_deg:.2f}° and {a.rise_A:.2f} Å ({a.score:.3f})" for a in rivals[:3])
        events.warn("pseudo_lattices", "the map agrees with itself under other lattices nearly as well as under the one found "
                    f"({lattice.score:.3f}): {said}. One of these may be the true one: refine with each, and believe the one that resolves "
                    "what must be there, such as secondary structure")
    if lattice.other_hand >= CLEARLY_WORSE * lattice.score:
        events.warn("hand_not_told", f"the opposite twist scores {lattice.other_hand:.3f}, the one found {lattice.score:.3f}: at this "
                    "resolution the map has no hand")
