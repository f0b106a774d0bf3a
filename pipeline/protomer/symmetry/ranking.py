"""Which point groups a map carries.

A group is carried where the map agrees with itself under every one of its operators as well as its noise allows:

(1) the correlation c of the weakest operator (self_correlation.py, eq. 4) is at least CARRIED of what a perfect symmetry reaches, and
    at least LEAST where nothing tells the noise
(2) expected: the mean over the coefficients of 1 - (noise of the half maps) / power; without half maps the best group found stands for it
(3) it is beyond chance: above the mean plus CHANCE_SDS standard deviations of the best correlations that this map reaches for those cyclic
    groups of prime order that fail (1); the search for them was the same, so that they show what searching alone gives

What stays below (1) in the coarse band, where the signal is strongest, is not fitted any finer. A map that carries a group carries its
subgroups, so that a group is only tried where its subgroups of prime order were found: C4 after C2, D7 after C7 and C2. What fails is
listed with the reason. That a map carries C2 and not C4, or D7 and not D14, is decided by the same rule: an operator that only the larger
group has reaches the correlation of a wrong one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from protomer.maps.rigid_motion import RigidMotion
from protomer.symmetry.axis_fit import AxisFit
from protomer.symmetry.point_groups import operators, order_of
from protomer.symmetry.search import fine_fit, fits_about, fits_of_cyclic, highest_axis, turn_onto
from protomer.symmetry.self_correlation import LOWEST_SHELL, MapSpectrum

CARRIED = 0.7
LEAST = 0.5
CHANCE_SDS = 4.0
LIKELY = 0.8  # of the best coarse correlation of an axis: one below it is not the axis of a larger group
PRIMES = (2, 3, 5, 7, 11)
CANDIDATES = (*(f"C{n}" for n in range(2, 13)), *(f"D{n}" for n in range(2, 10)), "T", "O", "I")
_INSIDE = {"T": ("C2", "C3", "D2"), "O": ("C2", "C3", "C4", "D2", "D3", "D4", "T"), "I": ("C2", "C3", "C5", "D2", "D3", "D5", "T")}


@dataclass(frozen=True)
class GroupScore:
    """One group tried: its best fit (None where a subgroup was missing), whether the map carries it, and why or why not, in words."""

    name: str
    fit: AxisFit | None
    is_carried: bool
    reason: str

    @property
    def weakest(self) -> float:
        """The correlation under the operator that fits worst; 0 where the group was not tried."""
        return 0.0 if self.fit is None else float(self.fit.correlation[1:].min())


@dataclass(frozen=True)
class Ranking:
    """All groups tried, those that are carried first, by order; what the rule compared with."""

    scores: tuple[GroupScore, ...]
    expected: float  # eq. (2)
    chance: float  # eq. (3): what searching alone gives

    @property
    def carried(self) -> list[GroupScore]:
        """The groups that the map carries, the largest first."""
        return [score for score in self.scores if score.is_carried]

    @property
    def best(self) -> GroupScore | None:
        """The largest group that the map carries, if any."""
        return self.carried[0] if self.carried else None

    def subgroups(self) -> list[str]:
        """Carried groups that the best one contains."""
        return [] if self.best is None else [score.name for score in self.carried[1:] if is_subgroup(score.name, self.best.name)]


def expected_correlation(spectrum: MapSpectrum) -> float | None:
    """Eq. (2) from half maps: what a perfect symmetry would reach; None where there are none."""
    if spectrum.noise is None:
        return None
    shells = np.arange(LOWEST_SHELL, spectrum.limit + 1).astype(int)
    share = np.clip(1.0 - spectrum.noise[shells] / spectrum.power[shells], 0.0, 1.0)
    return float(np.average(share, weights=shells.astype(float) ** 2))


def least_correlation(expected: float | None) -> float:
    """Eq. (1): what the weakest operator of a group must reach."""
    return LEAST if expected is None else CARRIED * expected


def is_subgroup(name: str, of: str) -> bool:
    """Whether a group of one name lies in a group of another (up to where its axes are)."""
    if name == of or name == "C1":
        return True
    if of in _INSIDE:
        return name in _INSIDE[of]
    if name in _INSIDE:
        return False
    n, m = int(name[1:]), int(of[1:])
    if name[0] == "C":
        return m % n == 0 or (of[0] == "D" and n == 2)
    return of[0] == "D" and m % n == 0


def prime_parts(name: str) -> list[str]:
    """The cyclic groups of prime order in a group."""
    return [f"C{p}" for p in PRIMES if is_subgroup(f"C{p}", name)]


def rank_groups(spectrum: MapSpectrum, axes: str = "relion", after_each: Callable[[str], None] = lambda name: None) -> Ranking:
    """Every group of CANDIDATES by the rule above; axes: the setting of their axes. after_each is called with each name when it is done."""
    cyclic: dict[str, list[AxisFit]] = {}
    fits: dict[str, AxisFit] = {}
    for name in (f"C{p}" for p in PRIMES):
        fits[name] = _fit_of(spectrum, name, axes, cyclic)
        after_each(name)
    expected = expected_correlation(spectrum)
    best = max(_weakest(fit) for fit in fits.values())
    least = max(LEAST, CARRIED * best) if expected is None else CARRIED * expected
    failed = [_weakest(fit) for fit in fits.values() if _weakest(fit) < least]
    chance = float(np.mean(failed) + CHANCE_SDS * np.std(failed)) if len(failed) > 1 else 0.0
    threshold = max(least, min(chance, 0.95))
    carried = {name: _weakest(fit) >= threshold for name, fit in fits.items()}
    scores = [GroupScore(name, fit, carried[name], _words(fit, threshold)) for name, fit in fits.items()]
    for name in CANDIDATES:
        if name in fits:
            continue
        missing = [part for part in prime_parts(name) if not carried[part]]
        if missing:
            scores.append(GroupScore(name, None, False, f"not tried: the map does not carry {' and '.join(missing)}"))
            continue
        fit = _fit_of(spectrum, name, axes, cyclic)
        scores.append(GroupScore(name, fit, _weakest(fit) >= threshold, _words(fit, threshold)))
        after_each(name)
    ordered = sorted(scores, key=lambda score: (not score.is_carried, -order_of(score.name) if score.is_carried else -score.weakest))
    return Ranking(tuple(ordered), best if expected is None else expected, chance)


def _weakest(fit: AxisFit) -> float:
    return float(fit.correlation[1:].min())


def _words(fit: AxisFit, threshold: float) -> str:
    """The verdict on one group that was tried."""
    weakest = _weakest(fit)
    if weakest >= threshold:
        return f"every operator reaches {threshold:.2f}"
    return f"its weakest operator reaches {weakest:.2f}, less than {threshold:.2f}"


def _fit_of(spectrum: MapSpectrum, name: str, axes: str, cyclic: dict[str, list[AxisFit]]) -> AxisFit:
    """The best fit of a group, fine where it is worth it; `cyclic` keeps the coarse fits of axes, which other groups begin from."""
    these = operators(name, axes)
    axis, about = highest_axis(these)
    primary = f"C{len(about)}"
    if primary not in cyclic:
        cyclic[primary] = fits_of_cyclic(spectrum, operators(primary))
    coarse = cyclic[primary]
    if primary != name:
        onto = RigidMotion(turn_onto(np.array([0.0, 0.0, 1.0]), axis), np.zeros(3))
        likely = [fit for fit in coarse if _weakest(fit) > LIKELY * _weakest(coarse[0])]
        coarse = fits_about(spectrum, these, [replace(fit, motion=onto.after(fit.motion)) for fit in likely])
    hopeful = [fit for fit in coarse if _weakest(fit) >= least_correlation(expected_correlation(spectrum))]
    return fine_fit(spectrum, these, hopeful) if hopeful else coarse[0]
