"""symmetry-find for helices: twist, rise and hand of a filament along z, with the score surface as a picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import yaml

from protomer.declarations.symmetry_find import SymmetryFindSettings
from protomer.errors import InputError
from protomer.maps.volumes import Halves, Volume
from protomer.report.build import Report
from protomer.report.figures import projections_figure
from protomer.report.symmetry_pictures import helix_figure
from protomer.running.job_run import JobRun
from protomer.symmetry.axis_fit import DEFAULT_VOXELS
from protomer.symmetry.helical_search import CARRIED, Helix, HelixScores, expected_score, find_helix, helix_scores

DEFAULT_FINEST_A = 6.0
LARGEST_RISE = 0.25  # of the box
MARKS = 8
SHOWN = 8


def run_helical(volume: Volume, half_maps: Halves[Volume] | None, settings: SymmetryFindSettings, job: JobRun) -> dict[str, Any]:
    """Search, check, write transformation.yaml and report.html; nothing is moved. Raises InputError where the map is no helix along z."""
    finest_A = settings.low_pass or max(DEFAULT_FINEST_A, DEFAULT_VOXELS * volume.voxel_size_A)
    ranges = ((settings.twist_from, settings.twist_to),
              (settings.rise_from or volume.voxel_size_A, settings.rise_to or LARGEST_RISE * volume.box * volume.voxel_size_A))
    scores = helix_scores(volume, finest_A)
    helix, candidates = find_helix(scores, *ranges)
    job.check_stop()
    least = CARRIED * (1.0 if half_maps is None else expected_score(half_maps, finest_A))
    check(helix, finest_A, least, settings.force, job)
    apart = None if half_maps is None else [find_helix(helix_scores(half, finest_A), *near(helix))[0] for half in half_maps]
    numbers = summary(helix, apart, finest_A)
    job.output.write_text("transformation.yaml", yaml.safe_dump({name: numbers[name] for name in ("twist_deg", "rise_A", "cyclic")}))
    write_report(volume, scores, (helix, candidates), numbers, job)
    return numbers


def near(helix: Helix) -> tuple[tuple[float, float], tuple[float, float]]:
    """Ranges close about a helix."""
    return (helix.twist_deg - 3.0, helix.twist_deg + 3.0), (0.9 * helix.rise_A, 1.1 * helix.rise_A)


def check(helix: Helix, finest_A: float, least: float, force: bool, job: JobRun) -> None:
    """Raise InputError, or warn where forced, for a map whose weakest copy is below `least`; warn of a rise finer than the detail."""
    if helix.weakest < least:
        said = (f"the best twist and rise ({helix.twist_deg:.2f}°, {helix.rise_A:.2f} Å) bring the map onto itself by only "
                f"{helix.weakest:.2f} over {helix.copies} copies")
        if not force:
            raise InputError(said, f"a correlation of at least {least:.2f} with every copy, for a helix along z through the box centre",
                             "put the filament's axis on z first; change the ranges or low_pass; or set force=true to see the scores")
        job.events.warn("no_helix", f"{said}; at least {least:.2f} is expected of a helix")
    if helix.rise_A < finest_A / 2:
        job.events.warn("rise_not_resolved", f"a rise of {helix.rise_A:.2f} Å is not to be seen in detail of {finest_A:.1f} Å: set "
                                             "low_pass below the rise, if the map is that good, or give a narrow range of rises")


def summary(helix: Helix, apart: list[Helix] | None, finest_A: float) -> dict[str, Any]:
    """What summary.json says; half the difference of the half maps is the standard error of their mean."""
    numbers: dict[str, Any] = {"group": "helical", "twist_deg": round(helix.twist_deg, 4), "rise_A": round(helix.rise_A, 4),
                               "hand": "right" if helix.twist_deg > 0 else "left", "cyclic": helix.cyclic, "copies": helix.copies,
                               "correlation": round(helix.score, 4), "weakest_correlation": round(helix.weakest, 4),
                               "compared_to_A": round(finest_A, 3)}
    if apart is not None:
        numbers |= {"twist_sd_deg": round(abs(apart[0].twist_deg - apart[1].twist_deg) / 2, 5),
                    "rise_sd_A": round(abs(apart[0].rise_A - apart[1].rise_A) / 2, 5)}
    return numbers


def write_report(volume: Volume, scores: HelixScores, found: tuple[Helix, list[Helix]], numbers: dict[str, Any], job: JobRun) -> None:
    """report.html."""
    helix, candidates = found
    report = Report("Helical symmetry", job.events.warnings, {"compared down to": f"{numbers['compared_to_A']:.1f} Å",
                                                              "copies compared": helix.copies, "rotation axis besides": f"C{helix.cyclic}"})
    report.headline("twist", f"{helix.twist_deg:.3f}°", f"{numbers['hand']}-handed in this map")
    report.headline("rise", f"{helix.rise_A:.3f} Å", "per subunit")
    report.headline("weakest copy", f"{helix.weakest:.3f}", "correlation with the map")
    report.section("Scores", "The axis is taken to be z through the box centre. A map and its mirror image have opposite twists: the hand "
                             "is that of this map, which may itself be the wrong one.")
    n = np.arange(1, MARKS + 1)
    inside = n * helix.rise_A <= scores.reach_A
    marks = [(float((k * helix.twist_deg + 180) % 360 - 180), float(k * helix.rise_A)) for k in n[inside]]
    report.figure(helix_figure(scores.surface, scores.step_A, marks), "Correlation of the map with itself, turned about z and moved along "
                  "it. Circles: the helix found (large) and its next copies.")
    report.table(["twist (degrees)", "rise (Å)", "mean correlation", "weakest", "copies"],
                 [[c.twist_deg, c.rise_A, c.score, c.weakest, c.copies] for c in candidates[:SHOWN]],
                 "Candidates, the best first. Multiples of one helix score alike; the one with the smallest rise holds them all.")
    report.section("Map")
    report.figure(projections_figure(volume), "Projections of the map.")
    job.output.write_text("report.html", report.html())
