"""From a map to a decision about its symmetry, in numbers and words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from protomer.errors import InputError
from protomer.maps.rigid_motion import RigidMotion
from protomer.maps.volumes import Halves, Volume
from protomer.running.job_run import JobRun
from protomer.symmetry.axis_fit import AxisFit, default_finest_A
from protomer.symmetry.point_groups import canonical_name, operators
from protomer.symmetry.ranking import CANDIDATES, Ranking, expected_correlation, least_correlation, rank_groups
from protomer.symmetry.search import find_axes
from protomer.symmetry.self_correlation import MapSpectrum, map_spectrum

SIGNAL_SHARE = 0.5  # of the power of the finest shell used, where half maps tell


@dataclass(frozen=True)
class Found:
    """What was found: the group ("C1" for none), its fit, the spectrum it was found in, the ranking where all groups were tried."""

    group: str
    fit: AxisFit | None
    spectrum: MapSpectrum
    ranking: Ranking | None
    least: float  # correlation that the weakest operator had to reach
    is_carried: bool

    @property
    def motion(self) -> RigidMotion:
        """What brings the map onto its axes; none where it has none."""
        return RigidMotion.none() if self.fit is None else self.fit.motion

    @property
    def weakest(self) -> float:
        """The correlation under the operator that fits worst."""
        return 0.0 if self.fit is None else float(self.fit.correlation[1:].min())


def spectrum_for(volume: Volume, mask: Volume | None, half_maps: Halves[Volume] | None, low_pass_A: float | None) -> MapSpectrum:
    """The map's spectrum as far as asked, or as far as it is mostly signal. Raises InputError where the box has too few shells."""
    finest_A = low_pass_A or default_finest_A(volume)
    try:
        spectrum = map_spectrum(volume, finest_A, mask, half_maps)
        if low_pass_A is None and spectrum.noise is not None:
            noisy = np.flatnonzero(spectrum.noise[1:] > SIGNAL_SHARE * spectrum.power[1:])
            limit = max(int(noisy[0]) if len(noisy) else spectrum.limit, 4)
            if limit < spectrum.limit:
                spectrum = map_spectrum(volume, spectrum.extent_A / (limit + 0.5), mask, half_maps)
    except ValueError as error:
        raise InputError(f"the map cannot be compared with itself: {error}", "a map with density, and a low-pass within its box",
                         "look at the map and the mask; set low_pass to a finer value for a small box") from error
    return spectrum


def find_named(spectrum: MapSpectrum, group: str, axes: str, limits: tuple[float, float], force: bool, job: JobRun) -> Found:
    """The axes of one group. limits: largest angle (degrees) and shift (angstrom). Raises InputError where the map does not carry it."""
    name = canonical_name(group)
    these = operators(name, axes)
    if len(these) == 1:
        raise InputError(f"--symmetry {group}", "a group with at least one axis, such as C2, or `any`", "C1 has nothing to be found")
    try:
        fit = find_axes(spectrum, these, *limits)
    except ValueError as error:
        raise InputError(str(error), "the axes within max_angle and max_shift", "raise max_angle or max_shift") from error
    expected = expected_correlation(spectrum)
    found = Found(name, fit, spectrum, None, least_correlation(expected), True)
    if found.weakest >= found.least:
        return found
    said = (f"the map does not carry {name}: under its weakest operator it agrees with itself by {found.weakest:.2f} "
            f"(down to {fit.resolution_A:.1f} Å)")
    if not force:
        raise InputError(said, f"a correlation of at least {found.least:.2f}" + (", from the half maps" if expected is not None else ""),
                         "see what it carries with --symmetry any; compare coarser detail with low_pass; or set force=true to go on")
    job.events.warn("group_not_carried", f"{said}, where at least {found.least:.2f} is expected; it was moved all the same (force)")
    return Found(name, fit, spectrum, None, found.least, False)


def find_any(spectrum: MapSpectrum, axes: str, job: JobRun) -> Found:
    """The largest group that the map carries."""
    with job.progress("groups", len(CANDIDATES)) as line:
        def tell(name: str) -> None:
            line.advance(1, note=name)
            job.check_stop()

        ranking = rank_groups(spectrum, axes, tell)
    least = max(least_correlation(expected_correlation(spectrum)), min(ranking.chance, 0.95))
    best = ranking.best
    if best is None:
        return Found("C1", None, spectrum, ranking, least, True)
    return Found(best.name, best.fit, spectrum, ranking, least, True)


def verdict(found: Found) -> str:
    """The decision in words."""
    if found.fit is None:
        return "No symmetry: the map carries none of the groups that were tried. It was not moved."
    if not found.is_carried:
        return f"The map does not carry {found.group}; it was moved to where it comes nearest to it."
    words = f"The map carries {found.group}: under each of its operators it agrees with itself by {found.weakest:.3f} or more."
    if found.ranking is None:
        return words
    below, others = found.ranking.subgroups(), [score.name for score in found.ranking.carried[1:]]
    apart = [name for name in others if name not in below]
    if below:
        words += f" {', '.join(below)} {'is a part' if len(below) == 1 else 'are parts'} of it."
    if apart:
        words += f" It also carries {', '.join(apart)}, which {found.group} does not contain: look at it with a finer low_pass."
    near = [score for score in found.ranking.scores if not score.is_carried and score.weakest > 0.35]
    if near:
        words += " It resembles " + ", ".join(f"{score.name} ({score.weakest:.2f})" for score in near) + ", but does not carry it."
    return words


def operator_names(group_operators: np.ndarray) -> list[str]:
    """Each operator but the identity in words: its angle and its axis."""
    names = []
    for operator in group_operators[1:]:
        vector = Rotation.from_matrix(operator).as_rotvec(degrees=True)
        angle = float(np.linalg.norm(vector))
        x, y, z = vector / angle + 0.0
        names.append(f"{angle:.4g}° about ({x:.3f}, {y:.3f}, {z:.3f})")
    return names


def as_mapping(found: Found) -> dict[str, Any]:
    """For transformation.yaml: the group, the motion (x' = rotation x + shift, angstrom from the box centre) and how well it is known."""
    fit = found.fit
    return {"group": found.group, "operators": [] if fit is None else fit.operators.tolist(), **found.motion.to_mapping(),
            "angle_deg": found.motion.angle_deg, "distance_A": found.motion.distance_A,
            "angle_sd_deg": None if fit is None else fit.angle_sd_deg, "shift_sd_A": None if fit is None else fit.shift_sd_A}
