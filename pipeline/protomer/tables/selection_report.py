"""What a selection says in summary.json, warnings and report.html."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from protomer.report.build import Report
from protomer.report.pictures import orientation_figure
from protomer.report.selection_pictures import threshold_figure
from protomer.running.events import Events
from protomer.tables.half_sets import warn_of_small_halves
from protomer.tables.particle_matching import is_of_copies
from protomer.tables.particles import Particles
from protomer.tables.selection import Selection

SHOWN_ROWS = 200_000  # viewing directions in a figure
QUANTITIES = {"class_posterior": "probability of the class", "pose_posterior": "probability that the pose is right",
              "log_likelihood": "log-likelihood", "defocus": "defocus (Å)"}


def warn_of_outcome(before: Particles, after: Particles, events: Events) -> None:
    """Warn where the half-sets of what was kept are few, unequal or one, and where images have lost copies."""
    warn_of_halves(after, events)
    if not is_of_copies(after):
        return
    order = max(len(before.operators), int(before.columns["copy"].max()) + 1)
    left = np.unique(after.image_uid, return_counts=True)[1]
    torn = int((left < order).sum())
    if torn:
        events.warn("incomplete_copies", f"{torn} of {len(left)} images no longer have all of their {order} symmetry copies: rows are "
                    "particles of their own from here on (local-refine, reconstruct and export take them so), the operators are kept, and "
                    "symmetry-expand --undo keeps of each image the best copy that is left")


def warn_of_halves(particles: Particles, events: Events) -> None:
    """Warn where the half-sets, counted in images, are few, unequal, or one."""
    _, first = np.unique(particles.image_uid, return_index=True)
    half = particles.half[first]
    if not (half >= 0).any():
        return
    if len(np.unique(half)) == 1:
        events.warn("one_half", f"all {len(half)} images are in half {'ab'[int(half[0])]}: nothing that needs two half maps will take "
                    "them; join them with the other half first")
    else:
        warn_of_small_halves(half, events)


def summary_of(before: Particles, after: Particles, selection: Selection) -> dict[str, Any]:
    """Counts in = out + dropped; by criterion where they went. Inverted, dropped are the rows that passed them all."""
    halves = {name: int((after.half == number).sum()) for number, name in enumerate("ab")}
    return {"images": len(np.unique(before.image_uid)), "images_out": len(np.unique(after.image_uid)), "rows_in": len(before),
            "rows_out": len(after), "rows_dropped": len(before) - len(after), "inverted": selection.inverted, "halves": halves,
            "criteria": [{"name": name, "asks": asks, "drops_alone": alone, "failed_in_order": dropped}
                         for name, asks, alone, dropped in selection.table]}


def report_of(before: Particles, after: Particles, selection: Selection, events: Events) -> str:
    """report.html of a selection."""
    counts = f"{len(before):,} in = {len(after):,} kept + {len(before) - len(after):,} dropped"
    report = Report("Selection", events.warnings, {"rows": counts, "inverted": "yes" if selection.inverted else "no"})
    report.headline("kept", f"{len(after):,}", f"of {len(before):,} rows: {100 * len(after) / max(len(before), 1):.1f}%")
    report.section("Criteria", "A row must pass all of them. In order: rows that failed this criterion and none before it; they add up to "
                   + ("what was kept, since the selection was inverted." if selection.inverted else "what was dropped."))
    report.table(("criterion", "asks", "fail by itself", "fail in order"), selection.table)
    report.table(("half", "rows before", "rows after"), [(name, int((before.half == number).sum()), int((after.half == number).sum()))
                                                         for number, name in enumerate("ab")], "Half-sets stay as they were drawn.")
    classes(report, before, after)
    figures(report, before, after, selection)
    return report.html()


def classes(report: Report, before: Particles, after: Particles) -> None:
    """A table of the classes, where there are some."""
    if before.class_number.any():
        numbers, rows = np.unique(before.class_number, return_counts=True)
        kept = [int((after.class_number == number).sum()) for number in numbers.tolist()]
        report.table(("class", "rows before", "rows after"), list(zip(numbers.tolist(), rows.tolist(), kept, strict=True)))


def figures(report: Report, before: Particles, after: Particles, selection: Selection) -> None:
    """Histograms of what was asked and of what else the table knows; viewing directions before and after."""
    report.section("Where the thresholds lie")
    for values, label, limits in quantities(before, selection):
        told = "the line: the threshold" if limits else "not asked"
        report.figure(threshold_figure(values, selection.kept, label, limits),
                      f"{label[0].upper()}{label[1:]}, of all rows and of those kept; {told}.")
    if not before.has_poses:
        return
    report.section("Viewing directions", "A selection that takes views away shows here: the map then lacks what only those views show.")
    for table, name in ((before, "Before"), (after, "After")):
        shown = np.arange(0, len(table), -(-len(table) // SHOWN_ROWS))
        report.figure(orientation_figure(table.rotation[shown]), f"{name}: {len(table):,} rows.")


def quantities(particles: Particles, selection: Selection) -> Iterator[tuple[np.ndarray, str, tuple[float, ...]]]:
    """Values, label and limits: of the criteria, then of other columns in which rows differ."""
    drawn: dict[str, tuple[np.ndarray, tuple[float, ...]]] = {}
    for criterion in selection.criteria:
        if criterion.values is not None:
            drawn[criterion.label] = criterion.values, (*drawn.get(criterion.label, (None, ()))[1], *criterion.limits)
    for name, label in QUANTITIES.items():
        values = (particles.defocus_u_A + particles.defocus_v_A) / 2 if name == "defocus" else particles.columns[name]
        if label not in drawn and (values != values[0]).any():
            drawn[label] = values, ()
    yield from ((values, label, limits) for label, (values, limits) in drawn.items())
