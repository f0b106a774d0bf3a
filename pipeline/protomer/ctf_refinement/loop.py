"""Defocus, aberrations and magnification refined in turn."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from protomer.ctf_refinement.changes import (
    Asked,
    changed_group,
    even_terms,
    odd_terms,
    stretched_group,
    with_adapted_defocus,
    with_defocus_change,
)
from protomer.ctf_refinement.passes import Engine, defocus_changes, group_sums
from protomer.declarations.ctf_refine import CtfRefineSettings
from protomer.tables.optics import OpticsGroup
from protomer.tables.particles import Particles
from protomer_kernels.ctf_fit import fit_terms

LEAST_SPREAD_A = 10.0  # of the prior on changes of defocus
MAD_TO_SD = 1.4826
STRETCH = ("stretch_0", "stretch_1")


@dataclass(frozen=True)
class Found:
    """errors: of each optics group the standard errors by name, and sums (K, 6) of the last pass behind them (None: kept as it was).
    Of each row's defocus (n,) change_A since the start, told_A, what the image says of it without a prior, and the latter's standard
    error; spread_A: sd of the prior that was used (infinity: none); at_end: images at the range."""

    particles: Particles
    errors: tuple[dict[str, float], ...]
    pixels: np.ndarray | None
    change_A: np.ndarray
    told_A: np.ndarray
    error_A: np.ndarray
    spread_A: float
    at_end: int

    @classmethod
    def nothing(cls, particles: Particles) -> Found:
        """Where a search begins."""
        number = len(particles)
        return cls(particles, tuple({} for _ in particles.optics_groups), None,
                   np.zeros(number), np.zeros(number), np.full(number, np.inf), np.inf, 0)


def refine_ctf(engine: Engine, found: Found, settings: CtfRefineSettings, images: np.ndarray) -> Found:
    """All that is asked for, `rounds` times. images (groups,): how many each optics group has."""
    asked = Asked(settings.beam_tilt, settings.trefoil, settings.tetrafoil, settings.spherical_aberration)
    has_enough = images >= settings.fewest_images
    for _ in range(settings.rounds):
        if settings.defocus:
            found = refined_defocus(engine, found, settings)
        if (asked.odd or asked.even or settings.magnification) and has_enough.any():
            found = refined_groups(engine, found, settings, asked, has_enough)
    return found


def refined_defocus(engine: Engine, found: Found, settings: CtfRefineSettings) -> Found:
    """One round of defocus. The prior is about changes since the start; where it is not given, the first round is without and tells it."""
    reach_A, is_known = settings.defocus_range, bool(np.isfinite(found.error_A).any())
    middle_A = float(np.median(found.told_A)) if is_known else 0.0
    spread_A = settings.defocus_prior or (spread_of(found.told_A, found.error_A) if is_known else np.inf)
    precision = 0.0 if np.isinf(spread_A) else spread_A**-2
    change_A, information = defocus_changes(engine, found.particles, reach_A, middle_A - found.change_A, precision)
    total_A = np.clip(found.change_A + change_A, -reach_A, reach_A)
    step_A = total_A - found.change_A
    own = np.maximum(information - precision, 1e-30)  # without the prior
    told_A = np.clip(total_A + precision / own * (total_A - middle_A), -reach_A, reach_A)
    form_A = np.stack([step_A, np.zeros_like(step_A), step_A], axis=1)
    particles = with_defocus_change(found.particles, np.arange(len(step_A)), form_A)
    at_end = int((np.abs(total_A) >= 0.999 * reach_A).sum())
    return replace(found, particles=particles, change_A=total_A, told_A=told_A, error_A=own**-0.5, spread_A=spread_A, at_end=at_end)


def spread_of(told_A: np.ndarray, error_A: np.ndarray) -> float:
    """Standard deviation of the true changes of defocus: what estimates without a prior spread more than their errors say; by medians."""
    spread_A = MAD_TO_SD * float(np.median(np.abs(told_A - np.median(told_A))))
    return float(np.sqrt(max(spread_A**2 - float(np.median(error_A**2)), LEAST_SPREAD_A**2)))


def refined_groups(engine: Engine, found: Found, settings: CtfRefineSettings, asked: Asked, has_enough: np.ndarray) -> Found:
    """One round of aberrations and magnification."""
    particles = found.particles
    sums = group_sums(engine, particles, settings.magnification)
    groups, errors, plane, length = list(particles.optics_groups), list(found.errors), engine.band.plane, engine.band.length
    for g in np.flatnonzero(has_enough).tolist():
        group, rows = groups[g], np.flatnonzero(particles.optics == g)
        copies = len(rows) / max(len(np.unique(particles.image_uid[rows])), 1)  # share their image's noise
        odd, odd_error = fitted(sums.pixels[g], odd_terms(group, plane, length, asked), True) if asked.odd else ({}, {})
        even, even_error = fitted(sums.pixels[g], even_terms(group, plane, length, asked), False) if asked.even else ({}, {})
        errors[g] = {name: error * np.sqrt(copies) for name, error in (odd_error | even_error).items()}
        groups[g] = changed_group(group, odd, even)
        particles = moved(particles, rows, group, odd, even)
        if settings.magnification:
            inverse = np.linalg.pinv(sums.curvature[g])
            before, groups[g] = groups[g], stretched_group(groups[g], inverse @ sums.slope[g])
            particles = with_adapted_defocus(particles, rows, before, groups[g])
            errors[g] |= dict(zip(STRETCH, np.sqrt(copies * np.diag(inverse)).tolist(), strict=True))
    return replace(found, particles=replace(particles, optics_groups=tuple(groups)), errors=tuple(errors), pixels=sums.pixels)


def fitted(sums: np.ndarray, terms: dict[str, np.ndarray], is_odd: bool) -> tuple[dict[str, float], dict[str, float]]:
    """Coefficients of terms and their standard errors, by name."""
    values, covariance = fit_terms(sums, np.stack(list(terms.values())), is_odd)
    return dict(zip(terms, values.tolist(), strict=True)), dict(zip(terms, np.sqrt(np.diag(covariance)).tolist(), strict=True))


def moved(particles: Particles, rows: np.ndarray, group: OpticsGroup, odd: dict[str, float], even: dict[str, float]) -> Particles:
    """What all images of a group share of shift, defocus and astigmatism, put into their rows."""
    if odd:
        shift_A = particles.shift_A.copy()
        shift_A[rows] += np.array([odd["shift_x"], odd["shift_y"]]) @ np.reshape(group.magnification, (2, 2))
        particles = particles.with_columns(shift_A=shift_A)
    if even:
        form_A = np.array([even["defocus"] + even["astigmatism_0"], even["astigmatism_1"], even["defocus"] - even["astigmatism_0"]])
        particles = with_defocus_change(particles, rows, np.tile(form_A, (len(rows), 1)))
    return particles
