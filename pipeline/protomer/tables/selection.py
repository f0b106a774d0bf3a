"""Choosing rows of a particle table: criteria that all must be passed, and what each of them drops.

Criteria of one row by itself (a class, a threshold, being in another set) stand in selection_criteria.py. Others look at all rows that
passed those: selection_thinning.py, then the share of the best, and a random number of images. A row passes or not whatever the order of
rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from protomer.declarations.select import SelectSettings
from protomer.errors import InputError, SettingsError
from protomer.randomness import combine, uniform
from protomer.tables.particles import Particles

PURPOSE = "select"


@dataclass(frozen=True)
class Criterion:
    """asks: what a row must be, in words. passes: bool (n,), of rows that were dropped before it may say anything. alone: how many rows it
    would drop if there were no other. values (n,) with its label and limits, for a histogram; None where there is nothing to draw."""

    name: str
    asks: str
    passes: np.ndarray
    alone: int
    values: np.ndarray | None = None
    label: str = ""
    limits: tuple[float, ...] = ()

    @classmethod
    def of(cls, name: str, asks: str, passes: np.ndarray) -> Criterion:
        """One that asks every row by itself."""
        return cls(name, asks, passes, int((~passes).sum()))

    @classmethod
    def between(cls, name: str, values: np.ndarray, label: str, low: float | None, high: float | None) -> Criterion:
        """One that asks for a number between limits, both inclusive; NaN is nowhere."""
        limits = tuple(limit for limit in (low, high) if limit is not None)
        asks = " and ".join(text for text, limit in ((f"at least {low:g}" if low is not None else "", low),
                                                     (f"at most {high:g}" if high is not None else "", high)) if limit is not None)
        passes = (values >= (-np.inf if low is None else low)) & (values <= (np.inf if high is None else high))
        return cls(name, f"{label} {asks}", passes, int((~passes).sum()), values, label, limits)


#: a criterion that is made from the rows that passed those before it
Step = Callable[[Particles, SelectSettings, np.ndarray], Criterion]


@dataclass(frozen=True)
class Selection:
    """kept: bool (n,). dropped: for each criterion how many rows failed it and none before it. inverted: whether those are kept."""

    criteria: tuple[Criterion, ...]
    dropped: tuple[int, ...]
    kept: np.ndarray
    inverted: bool

    @property
    def table(self) -> list[tuple[str, str, int, int]]:
        """A row for each criterion: its name, what it asks, how many rows it would drop alone, and how many it dropped in order."""
        return [(c.name, c.asks, c.alone, dropped) for c, dropped in zip(self.criteria, self.dropped, strict=True)]


def select(particles: Particles, criteria: Sequence[Criterion], settings: SelectSettings, thinning: Sequence[Step] = ()) -> Selection:
    """The rows that pass the criteria, then those of `thinning`, of which those the best (keep_best), of which some at random (number).

    Raises SettingsError where nothing is asked, InputError where no row is left.
    """
    after = list(thinning)
    if settings.keep_best is not None:
        after.append(best)
    if settings.number is not None:
        after.append(drawn)
    if not criteria and not after:
        raise SettingsError("no criterion", "at least one thing to select by",
                            "give --class, --min-posterior, --half, --number or another of those that --help lists")
    passing, dropped, applied = np.ones(len(particles), bool), [], list(criteria)
    for number in range(len(criteria) + len(after)):
        if number >= len(criteria):
            applied.append(after[number - len(criteria)](particles, settings, passing))
        dropped.append(int((passing & ~applied[number].passes).sum()))
        passing = passing & applied[number].passes
    selection = Selection(tuple(applied), tuple(dropped), ~passing if settings.invert else passing, settings.invert)
    if not selection.kept.any():
        raise nothing_left(selection)
    return selection


def best(particles: Particles, settings: SelectSettings, passing: np.ndarray) -> Criterion:
    """The share keep_best of the passing rows whose log-likelihood is highest, to the nearest whole number of them and at least one."""
    values, share = np.nan_to_num(particles.log_likelihood, nan=-np.inf), settings.keep_best
    assert share is not None
    if share == 0:
        raise SettingsError("setting keep_best = 0", "above 0, at most 1", "give for example keep_best=0.8")
    key = combine(particles.image_uid, particles.columns["copy"].astype(np.int64))
    kept = _highest(values, key, passing, share)
    limits = (float(values[kept & passing].min()),) if (kept & passing).any() else ()
    alone = int((~_highest(values, key, np.ones(len(particles), bool), share)).sum())
    return Criterion("keep_best", f"among the best {share:.4g} of the rows left, by log-likelihood", kept, alone, particles.log_likelihood,
                     "log-likelihood", limits)


def _highest(values: np.ndarray, key: np.ndarray, among: np.ndarray, share: float) -> np.ndarray:
    """bool (n,): the share of the highest values among some rows; where values are equal the key decides."""
    rows, kept = np.flatnonzero(among), np.zeros(len(values), bool)
    order = np.lexsort((key[rows], -values[rows]))
    kept[rows[order[:max(1, round(share * len(rows)))]]] = True
    return kept


def drawn(particles: Particles, settings: SelectSettings, passing: np.ndarray) -> Criterion:
    """All passing rows of `number` images. Raises InputError where fewer images are left."""
    number = settings.number
    assert number is not None
    left = len(np.unique(particles.image_uid[passing]))
    if number > left:
        raise InputError(f"number = {number}, and {left} images pass the other criteria" if not passing.all() else
                         f"number = {number}, and the set has {left} images", f"at most {left}", "ask for fewer, or leave number out")
    kept = _some_images(particles.image_uid, passing, number, settings.seed)
    alone = int((~_some_images(particles.image_uid, np.ones(len(particles), bool), number, settings.seed)).sum())
    return Criterion("number", f"one of {number} images, drawn at random (seed {settings.seed})", kept, alone)


def _some_images(image_uid: np.ndarray, among: np.ndarray, number: int, seed: int) -> np.ndarray:
    """bool (n,): rows of the images, `number` of those in `among`, whose hash of (seed, image) is lowest."""
    uids = np.unique(image_uid[among])
    order = np.lexsort((uids, uniform(seed, uids, PURPOSE)))
    return np.asarray(np.isin(image_uid, uids[order[:number]])) & among


def nothing_left(selection: Selection) -> InputError:
    """The error for an empty outcome, with what each criterion dropped."""
    if selection.inverted:
        return InputError("every row passes, so that inverted nothing is left", "a criterion that some rows fail", "leave out invert")
    counts = "; ".join(f"{name} ({asks}) dropped {dropped}" for name, asks, _, dropped in selection.table)
    return InputError(f"no row passes all criteria: {counts}", "something left to go on with",
                      "loosen the criterion that dropped the most, or check what the columns hold in the report of the job before")
