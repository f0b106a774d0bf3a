"""Start lattices that are tried where no start volume shows the lattice: which, and on which images.

A cylinder shows nothing of a lattice, so that the first maps have the one that is imposed on it, and refining it leads to the right one
only from near: from within about the detail that is seen, at the ends of the central part. There, n = L / (2 rise) subunits from the
middle (L: the length of the central part), an error d of the twist and e of the rise move the surface of a filament of radius r by

(1) n (r d, e)

Start lattices therefore lie on a grid about the given one, its steps in twist such that n r d is the finest detail, and in rise such that
n e is a third of it: of starts about the right lattice several then end there (measured in benchmarks/results/helical.md).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from protomer.declarations.helical_refine import HelicalRefineSettings
from protomer.errors import SettingsError
from protomer.helical.lattice import Lattice, Winding
from protomer.randomness import uniform
from protomer.running.job_run import Plan
from protomer.tables.particles import Particles

MOST_STARTS = 400
RISE_SHARE = 1 / 3  # of the detail, for steps in rise
WINDOW = 1.5  # steps that a lattice may move from its start
FIRST_PASSES, FIRST_APART = 4, 1  # from every start: passes, and how many of them leave half-sets apart
LEAST_KEPT, KEPT_SHARE = 4, 1 / 3  # of all starts, that are refined anew with more
SECONDS_PER_PASS = 8e-3  # of an image, measured


@dataclass(frozen=True)
class Starts:
    """A grid of lattices: twists (t,) in degrees and rises (r,) in Å, how far from its start each may be refined (degrees, Å), and the
    finest detail (Å) by which they are compared."""

    twists_deg: np.ndarray
    rises_A: np.ndarray
    window: tuple[float, float]
    finest_A: float

    def __len__(self) -> int:
        return len(self.twists_deg) * len(self.rises_A)

    @property
    def lattices(self) -> np.ndarray:
        """(n, 2): twist and rise, rises of the first twist first."""
        twists, rises = np.meshgrid(self.twists_deg, self.rises_A, indexing="ij")
        return np.stack([twists.ravel(), rises.ravel()], axis=1)

    def winding(self, winding: Winding, start: Lattice) -> Winding:
        """How a lattice is refined from one of these starts: near it, and within the ranges of all."""
        (low, high), (least, most) = winding.twist_deg, winding.rise_A
        away_deg, away_A = self.window
        return replace(winding, twist_deg=(max(low, start.twist_deg - away_deg), min(high, start.twist_deg + away_deg)),
                       rise_A=(max(least, start.rise_A - away_A), min(most, start.rise_A + away_A)))


def are_tried(settings: HelicalRefineSettings, has_volume: bool) -> bool:
    """Whether several start lattices are tried. Raises SettingsError where that contradicts another setting."""
    if settings.start_lattices == "many" and not settings.refine_lattice:
        raise SettingsError("start_lattices is many and refine_lattice off", "a lattice that may change",
                            "leave start_lattices out to impose the lattice as given, or refine_lattice to look for it")
    return settings.refine_lattice and (settings.start_lattices == "many" or (settings.start_lattices == "auto" and not has_volume))


def starts_of(settings: HelicalRefineSettings, winding: Winding, lattice: Lattice, width_A: float) -> Starts:
    """The grid about the given lattice, as far as the ranges go. Raises SettingsError for one of too many lattices."""
    finest_A, copies = settings.start_detail, max(winding.central * width_A / 2 / lattice.rise_A, 1.0)
    twist_step = settings.start_twist_step or float(np.rad2deg(finest_A / (copies * winding.radius_A)))
    rise_step = settings.start_rise_step or RISE_SHARE * finest_A / copies
    twists = spaced(lattice.twist_deg, *winding.twist_deg, twist_step)
    rises = spaced(lattice.rise_A, *winding.rise_A, rise_step)
    if len(twists) * len(rises) > MOST_STARTS:
        raise SettingsError(f"{len(twists)} twists and {len(rises)} rises to start from", f"at most {MOST_STARTS} lattices in all",
                            f"narrow twist_range or rise_range, or take wider steps (start_twist_step is {twist_step:.3g}°, "
                            f"start_rise_step {rise_step:.3g} Å): layer lines of a class average's power spectrum tell the rise closely")
    return Starts(twists, rises, (WINDOW * twist_step, WINDOW * rise_step), finest_A)


def spaced(middle: float, low: float, high: float, step: float) -> np.ndarray:
    """Values from low to high, at most a step apart on either side of the middle, which is one of them."""
    below, above = (max(int(np.ceil(there / step - 1e-9)), 0) for there in (middle - low, high - middle))
    return np.concatenate([np.linspace(low, middle, below + 1)[:-1], [middle], np.linspace(middle, high, above + 1)[1:]])


def chosen_rows(particles: Particles, number: int, seed: int) -> np.ndarray:
    """Rows of whole filaments, drawn by a hash: of each half-set as many filaments as hold half the number of images."""
    filament = filament_numbers(particles)
    least_uid = np.full(int(filament.max()) + 1, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(least_uid, filament, particles.image_uid.astype(np.uint64))
    drawn, rows = uniform(seed, least_uid, "start lattices"), []
    for half in (0, 1):
        own = np.flatnonzero(particles.half == half)
        order = own[np.lexsort((own, filament[own], drawn[filament[own]]))]
        ends = np.flatnonzero(np.diff(filament[order], append=-1) != 0) + 1  # after each filament
        rows.append(order[: ends[min(int(np.searchsorted(ends, number / 2)), len(ends) - 1)]])
    return np.sort(np.concatenate(rows))


def filament_numbers(particles: Particles) -> np.ndarray:
    """For each row the number of its filament, from 0 (n,) int64."""
    names = np.array([f"{name}\n{tube}" for name, tube in zip(particles.micrograph.tolist(), particles.filament.tolist(), strict=True)])
    return np.asarray(np.unique(names, return_inverse=True)[1], np.int64)


def kept_of(starts: int) -> int:
    """How many of so many starts are refined with all passes."""
    return min(max(LEAST_KEPT, int(np.ceil(KEPT_SHARE * starts))), starts)


def with_starts(plan: Plan, settings: HelicalRefineSettings, starts: Starts, images: int, workers: int) -> Plan:
    """A plan with the time of trying start lattices, and what is tried."""
    used, kept = min(settings.start_images, images), kept_of(len(starts))
    passes = len(starts) * (FIRST_PASSES + 1) + kept * (settings.start_passes + 1)  # one more of each scores
    (low, high), (least, most) = ((float(axis[0]), float(axis[-1])) for axis in (starts.twists_deg, starts.rises_A))
    note = (f"{len(starts)} start lattices are tried first on about {used} images down to {starts.finest_A:g} Å: {len(starts.twists_deg)} "
            f"twists from {low:.4g} to {high:.4g}°, {len(starts.rises_A)} rises from {least:.4g} to {most:.4g} Å; the best {kept} refined "
            "longer")
    return replace(plan, seconds=plan.seconds + passes * used * SECONDS_PER_PASS / workers, notes=(note, *plan.notes))
