"""The report of a simulated data set: what was simulated, examples of its images with and without noise, views and the maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from protomer.maps.volumes import Volume
from protomer.report.build import Report
from protomer.report.figures import histogram_figure
from protomer.report.pictures import image_pairs_figure, orientation_figure, projections_figure
from protomer.simulation.dataset import Simulator
from protomer.simulation.draws import PARTICLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXAMPLES = 6


def examples_figure(simulator: Simulator) -> Figure:
    """The first images that hold a particle: as written, and before the noise; each image in its own greys."""
    rows = np.flatnonzero(simulator.truth.junk == PARTICLE)[:EXAMPLES]
    clean = simulator.signal(simulator.truth.take(rows), rows)
    return image_pairs_figure(list(simulator.images(rows)), list(clean), [f"image {row + 1}" for row in rows])


def simulation_report(simulator: Simulator, volume: Volume, start: Volume, warnings: list[dict[str, str]]) -> str:
    """The whole report as HTML."""
    design, truth = simulator.design, simulator.truth
    junk = int((truth.junk != PARTICLE).sum())
    report = Report("Simulated particles", warnings, {
        "images": f"{design.number} of {design.box} pixels, {design.pixel_size_A:g} Å each", "seed": design.seed,
        "subunits that move": len(simulator.scatterers[0].body_centres_A) if design.motion_rotation_rad or design.motion_shift_A else 0,
        "classes": ", ".join(str(count) for count in np.bincount(truth.class_number)[1:]),
        "imperfections": "uneven views, contrast, envelopes, coloured noise, defocus errors" if design.realistic else "none"})
    report.headline("images", str(design.number), f"{junk} of them junk")
    report.headline("signal to noise", f"{design.snr:g}", "variances in the disc of 0.4 box, after the CTF")
    report.section("Images", "Above: as written. Below: the same before noise was added.")
    report.figure(examples_figure(simulator), "Examples, each in its own greys.")
    report.figure(orientation_figure(truth.rotation), "Viewing directions.")
    report.figure(histogram_figure(0.5e-4 * (truth.defocus_u_A + truth.defocus_v_A), "defocus (µm)"), "True defocus of the images.")
    report.section("The truth")
    report.figure(projections_figure(volume), "map.mrc: the particle in the grey scale of the images.")
    report.figure(projections_figure(start), "start.mrc: the same, low-passed, to start a refinement from.")
    return report.html()
