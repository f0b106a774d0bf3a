"""What subtraction shows: what was taken, what remains of it, a few images before and after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from protomer.maps.volumes import Volume
from protomer.report.build import Report
from protomer.report.figures import histogram_figure, slices_figure
from protomer.report.subtraction_pictures import examples_figure, remainder_figure
from protomer.running.events import Events
from protomer.running.job_run import JobRun
from protomer.subtraction.fit import Fit
from protomer.subtraction.images import Subtraction
from protomer.tables.particles import Particles
from protomer_kernels.fourier import low_pass

EXAMPLES_PER_HALF = 2
EXAMPLE_LOW_PASS_A, LEAST_SHELLS = 15.0, 6
MANY_RAISED = 0.5


@dataclass(frozen=True)
class Examples:
    """A few images, low-passed: as they were, what was taken, and what is left, (n, D, D) each; and how they are called."""

    before: np.ndarray
    taken: np.ndarray
    after: np.ndarray
    names: tuple[str, ...]
    low_pass_A: float


def examples_of(work: Subtraction, samples: tuple[np.ndarray, np.ndarray]) -> Examples:
    """The first images of each half-set's sample."""
    chosen = [rows[:EXAMPLES_PER_HALF] for rows in samples]
    before = np.concatenate([work.read(rows) for rows in chosen])
    taken = np.concatenate([work.taken(rows, half) for half, rows in enumerate(chosen)])
    width_A = work.density.box * work.density.pixel_A
    shells = max(width_A / EXAMPLE_LOW_PASS_A, LEAST_SHELLS)
    low = [np.stack([low_pass(image, shells, 2.0) for image in images]) for images in (before, taken, before - taken)]
    names = tuple(f"particle {row + 1}, half-set {half + 1}" for half, rows in enumerate(chosen) for row in rows)
    return Examples(low[0], low[1], low[2], names, width_A / shells)


def removed_percent(sums: np.ndarray) -> np.ndarray:
    """By how much (n,) the power of each image fell, in percent, from its SUMS (n, 3)."""
    return np.asarray(100.0 * (sums[:, 0] - sums[:, 1]) / np.maximum(sums[:, 0], 1e-30))


def warn_of_power(sums: np.ndarray, events: Events) -> None:
    """Warn where subtraction added power to most images."""
    raised = float(np.mean(sums[:, 1] > sums[:, 0]))
    if raised > MANY_RAISED:
        events.warn("power_added", f"in {100 * raised:.0f} % of the images there is more power after subtraction than before: what was "
                    "taken was not in them")


def summary_of(work: Subtraction, particles: Particles, sums: np.ndarray, fits: tuple[Fit, Fit]) -> dict[str, Any]:
    """For summary.json."""
    density, frame = work.density, work.frame
    return {
        "particles_in": len(work.particles), "particles_out": len(particles), "images": len(particles),
        "rest_share_of_density": round(density.rest_share, 5),
        "power_removed_percent": [round(float(v), 4) for v in np.percentile(removed_percent(sums), (5, 50, 95))],
        "amplitude_before": [round(fit.rest, 4) for fit in fits], "amplitude_after": [round(fit.remaining, 4) for fit in fits],
        "fit_sigmas": [round(fit.sigmas, 1) for fit in fits], "contrast_spread": round(float(np.mean([f.contrast for f in fits])), 4),
        "own_noise": [round(fit.own_noise, 4) if fit.is_own_noise_known else None for fit in fits],
        "centre_voxel": [int(c) + density.box // 2 for c in frame.centre_px],
        "moved_to_centre_A": [round(float(c) * density.pixel_A, 4) for c in frame.centre_px],
        "box": frame.new_box, "pixel_size_A": density.pixel_A, "support": density.support_name,
    }


def write_report(work: Subtraction, record_map: Volume, sums: np.ndarray, fits: tuple[Fit, Fit], shown: Examples, job: JobRun) -> None:
    """report.html."""
    density, frame = work.density, work.frame
    voxel = ", ".join(f"{c + density.box // 2:.0f}" for c in frame.centre_px)
    report = Report("Subtraction", job.events.warnings, {
        "images": f"{len(sums):,} of {frame.new_box} pixels of {density.pixel_A:.4g} Å", "support": density.support_name,
        "taken down to": f"{density.resolution_A:.2f} Å", "centre": f"voxel {voxel} (x, y, z from the corner of the box)"})
    before, after = (float(np.mean([getattr(fit, name) for fit in fits])) for name in ("rest", "remaining"))
    report.headline("removed", f"{100 * density.rest_share:.0f} %", "of the density's power")
    report.headline("found before", f"{before:.2f}", "of its amplitude, in a sample of the images; 1 is expected")
    report.headline("found after", f"{after:+.3f}", f"that is {100 * after**2:.2g} % of its power")
    report.section("What stays and what goes")
    report.figure(slices_figure(record_map, density.mask), "Central slices of the map, with contours of the mask around what stays.")
    taken = Volume(density.removed.a, density.pixel_A)
    report.figure(slices_figure(taken, density.mask), "What is taken from the images of the first half-set: its own half map outside the "
                  "mask, inside the support, each shell weighted by the half maps' FSC.")
    report.section("Images", f"Low-passed at {shown.low_pass_A:.0f} Å for the eye alone; what is written is not filtered.")
    report.figure(examples_figure([("before", shown.before), ("taken", shown.taken), ("after", shown.after)], shown.names),
                  "A column for each of a few images, in one grey scale: as it was, what was taken from it, and what is left.")
    report.section("How much was taken, and what remains")
    report.figure(histogram_figure(removed_percent(sums), "power removed (% of the image's)", 0.0, "nothing removed"),
                  "By how much the power of each image fell. Where the noise outweighs the density the values scatter about a small mean.")
    report.figure(remainder_figure([fit.rest_by_shell for fit in fits], [fit.remaining_by_shell for fit in fits], density.weight,
                                   density.box * density.pixel_A),
                  f"How much of what goes the images hold, shell by shell, in a sample of {' and '.join(str(fit.images) for fit in fits)} "
                  "images: before, and after. Where the half maps agree less, less is taken, and more remains.")
    job.output.write_text("report.html", report.html())
