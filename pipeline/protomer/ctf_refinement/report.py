"""What a refinement of CTFs says in summary.json and report.html, in a microscope's units."""

from __future__ import annotations

from typing import Any

import numpy as np

from protomer.ctf_refinement.changes import TETRAFOIL, TREFOIL
from protomer.ctf_refinement.loop import Found
from protomer.ctf_refinement.passes import Band
from protomer.declarations.ctf_refine import CtfRefineSettings
from protomer.imaging.aberrations import odd_correction
from protomer.report.build import Report
from protomer.report.ctf_pictures import phase_figure
from protomer.report.figures import histogram_figure
from protomer.running.events import Events
from protomer.tables.optics import OpticsGroup
from protomer.tables.particles import Particles

SHOWN_GROUPS = 4  # whose phases are drawn
SIGNIFICANT = 2.0


def numbers_of(group: OpticsGroup) -> dict[str, float]:
    """What is refined of an optics group, by the name of its standard error's and in the units of the report."""
    odd, even = (*group.odd_zernike, *[0.0] * 6), (*group.even_zernike, *[0.0] * 9)
    a, b, c, d = group.magnification
    return {"beam tilt x (mrad)": 1e3 * group.beam_tilt_rad[0], "beam tilt y (mrad)": 1e3 * group.beam_tilt_rad[1],
            "trefoil 0 (rad Å³)": odd[TREFOIL[0]], "trefoil 1 (rad Å³)": odd[TREFOIL[1]],
            "Cs (mm)": 1e-7 * group.spherical_aberration_A, "tetrafoil 0 (rad Å⁴)": even[TETRAFOIL[0]],
            "tetrafoil 1 (rad Å⁴)": even[TETRAFOIL[1]], "stretch x - y (%)": 100.0 * (a - d), "stretch xy (%)": 100.0 * (b + c)}


def errors_of(group: OpticsGroup, errors: dict[str, float]) -> dict[str, float]:
    """Standard errors, under the names of numbers_of; those that were not refined are left out."""
    tilt = 1e3 / max(group.spherical_aberration_A, 1.0)
    scaled = {"coma_x": ("beam tilt x (mrad)", tilt), "coma_y": ("beam tilt y (mrad)", tilt), "trefoil_0": ("trefoil 0 (rad Å³)", 1.0),
              "trefoil_1": ("trefoil 1 (rad Å³)", 1.0), "spherical_aberration": ("Cs (mm)", 1e-7),
              "tetrafoil_0": ("tetrafoil 0 (rad Å⁴)", 1.0), "tetrafoil_1": ("tetrafoil 1 (rad Å⁴)", 1.0),
              "stretch_0": ("stretch x - y (%)", 200.0), "stretch_1": ("stretch xy (%)", 200.0)}
    return {name: factor * errors[key] for key, (name, factor) in scaled.items() if key in errors}


def group_rows(before: Particles, found: Found) -> list[tuple[object, ...]]:
    """Group, quantity, before, after, standard error, and whether it is more than nothing."""
    rows: list[tuple[object, ...]] = []
    for old, new, errors in zip(before.optics_groups, found.particles.optics_groups, found.errors, strict=True):
        was, now, known = numbers_of(old), numbers_of(new), errors_of(new, errors)
        for name, error in known.items():
            changed = abs(now[name] - was[name]) > SIGNIFICANT * error
            rows.append((new.name, name, was[name], now[name], error, "changed" if changed else "within its error"))
    return rows


def report_of(before: Particles, found: Found, band: Band, finest_A: float, settings: CtfRefineSettings, events: Events) -> str:
    """report.html."""
    report = Report("CTF refinement", events.warnings, {"rows": f"{len(before):,}", "optics groups": len(before.optics_groups), "band":
                                                        f"{settings.min_resolution:g} to {finest_A:.2f} Å", "rounds": settings.rounds})
    if settings.defocus:
        report.headline("defocus changed by", f"{np.std(found.change_A):.0f} Å", "standard deviation")
        report.headline("standard error", f"{np.median(found.error_A):.0f} Å", "of one image's defocus, median")
    rows = group_rows(before, found)
    if rows:
        report.section("Optics groups", "Values before and after, with the standard error of the latter. What changed by less than twice "
                       "its error may as well be nothing.")
        report.table(("group", "quantity", "before", "after", "standard error", "verdict"), rows)
    if found.pixels is not None and (settings.beam_tilt or settings.trefoil):
        report.section("Odd aberrations", "Phases between images and map that change sign with the frequency: beam tilt and trefoil. "
                       "The last round's, on top of what was known then; even noise is what a good fit leaves.")
        for g in [g for g, errors in enumerate(found.errors) if errors][:SHOWN_GROUPS]:
            change = phase_change(before.optics_groups[g], found.particles.optics_groups[g], band)
            report.figure(phase_figure(found.pixels[g], change, band.plane, before.optics_groups[g].pixel_size_A),
                          f"{before.optics_groups[g].name}: phase left in the last round (left) and what was changed in all (right).")
    if settings.defocus:
        report.section("Defocus", f"A prior of {found.spread_A:.0f} Å kept changes that the images do not bear small."
                       if np.isfinite(found.spread_A) else "Without a prior.")
        report.figure(histogram_figure(np.abs(found.change_A), "change of defocus (Å)", settings.defocus_range, "range"),
                      "How far the defocus of each row changed.")
        report.figure(histogram_figure(found.error_A, "standard error of the defocus (Å)"), "How well each image tells its own defocus.")
    return report.html()


def phase_change(old: OpticsGroup, new: OpticsGroup, band: Band) -> np.ndarray:
    """chi of the new optics group less that of the old one, within half a turn (K,)."""
    one, other = (odd_correction(group, band.plane) for group in (old, new))
    unit = np.ones(len(band.plane), np.complex64)
    turned = (unit if other is None else other.conj()) * (unit if one is None else one)
    return np.asarray(np.angle(turned[: band.length]), np.float64)


def summary_of(before: Particles, found: Found, finest_A: float, settings: CtfRefineSettings) -> dict[str, Any]:
    """What summary.json says."""
    groups = []
    for group, errors in zip(found.particles.optics_groups, found.errors, strict=True):
        known, now = errors_of(group, errors), numbers_of(group)
        groups.append({"name": group.name, "refined": {name: {"value": now[name], "error": error} for name, error in known.items()}})
    told = {"defocus_change_A": round(float(np.std(found.change_A)), 3), "defocus_error_A": round(float(np.median(found.error_A)), 3),
            "defocus_prior_A": round(found.spread_A, 3) if np.isfinite(found.spread_A) else None, "at_range": found.at_end}
    return {"particles_in": len(before), "particles_out": len(found.particles), "images": len(np.unique(before.image_uid)),
            "finest_A": round(finest_A, 4), "rounds": settings.rounds, **(told if settings.defocus else {}), "optics_groups": groups}
