"""The report of an import: counts in and out with reasons, a few images, defocus, half-sets, optics, and orientations if there are any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from protomer.imaging.images import read_images
from protomer.report.build import Report
from protomer.report.figures import histogram_figure
from protomer.report.pictures import image_pairs_figure, orientation_figure
from protomer.running.job_run import JobRun
from protomer.tables.optics import describe
from protomer.tables.particles import Particles
from protomer_kernels.fourier import low_pass

EXAMPLES = 6  # images read for the report, whatever the size of the stacks
LOW_PASS_A = 20.0
EDGE_SHELLS = 2.0


def import_report(particles: Particles, counts: Mapping[str, Any], job: JobRun) -> str:
    """The whole report as HTML. counts: what the job's summary says of rows, images and half-sets."""
    images = counts["images"]
    facts = {"images": images, "stacks": counts["stacks"], "poses": "from the table" if particles.has_poses else "none"}
    if particles.is_expanded:
        facts["symmetry copies"] = f"{len(particles)} rows show {images} images"
    report = Report("Import", job.events.warnings, facts)
    report.headline("particles", str(counts["rows_out"]), f"of {counts['rows_in']} rows of the table")
    report.headline("left out", str(counts["rows_rejected"]), "listed in rejected.csv with their reasons")
    report.headline("half-sets", " + ".join(map(str, counts["half_sets"])), "0 and 1")
    report.section("Counts")
    report.table(("rows", "number"), [("in the table", counts["rows_in"]), *((f"left out: {reason}", number)
                                                                             for reason, number in counts["rejected"].items()),
                                      ("kept", counts["rows_out"])], "What became of every row of the table.")
    report.section("Images")
    report.figure(examples(particles), f"Examples, each in its own greys. Above: as prepared. Below: low-passed at {LOW_PASS_A:g} Å, or at "
                                       "a quarter of Nyquist where the pixels are large.")
    defocus_um = 0.5e-4 * (particles.defocus_u_A + particles.defocus_v_A)
    report.figure(histogram_figure(defocus_um, "defocus (µm)"), "Mean of the two principal defocus values, underfocus positive.")
    if particles.has_poses:
        report.figure(orientation_figure(particles.rotation), "Viewing directions that came with the table.")
    report.section("Optics")
    report.table(("group", "particles", "half 0", "half 1", "box (px)", "pixel size (Å)", "voltage (kV)", "Cs (mm)", "amplitude contrast",
                  "aberrations"),
                 optics_rows(particles), "Optics groups, as they will be used.")
    return report.html()


def examples(particles: Particles) -> Any:
    """A figure of images spread evenly over the table."""
    rows = np.unique(np.linspace(0, len(particles) - 1, EXAMPLES).astype(int))
    prepared = [read_images(particles, np.array([row]), {})[0] for row in rows]
    smooth = [low_pass(image, low_pass_shells(particles, row, len(image)), EDGE_SHELLS) for row, image in zip(rows, prepared, strict=True)]
    return image_pairs_figure(prepared, smooth, [f"particle {row + 1}" for row in rows])


def low_pass_shells(particles: Particles, row: int, box: int) -> float:
    """Radius of the low-pass in shells of the stack's own box."""
    group = particles.optics_groups[int(particles.optics[row])]
    return min(group.box * group.pixel_size_A / LOW_PASS_A, box / 8)


def optics_rows(particles: Particles) -> list[tuple[object, ...]]:
    """One row for each optics group, in the units of a microscope."""
    rows: list[tuple[object, ...]] = []
    for number, group in enumerate(particles.optics_groups):
        half = particles.half[particles.optics == number]
        rows.append((group.name, len(half), int((half == 0).sum()), int((half == 1).sum()), group.box, group.pixel_size_A,
                     group.voltage_V / 1e3, group.spherical_aberration_A / 1e7, group.amplitude_contrast, describe(group)))
    return rows
