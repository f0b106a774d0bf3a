"""report.html of a helical refinement."""

from __future__ import annotations

import numpy as np

from protomer.engine.confidence import Confidence
from protomer.helical.outcome import Found
from protomer.helical.start_lattice import StartLattice
from protomer.maps.volumes import MapRecord
from protomer.refinement.report import add_poses, refinement_report
from protomer.refinement.setup import Setup, State
from protomer.report.build import Report
from protomer.report.helix_pictures import lattice_figure, lattice_path_figure, starts_figure
from protomer.running.job_run import JobRun
from protomer.tables.particles import Particles

SHOWN = 10


def write_report(
    record: MapRecord,
    particles: Particles,
    lattices: tuple[Found, StartLattice | None],
    refined: tuple[Setup, State],
    confidence: Confidence | None,
    low_passes_A: tuple[float, float],
    job: JobRun,
) -> None:
    """Warnings first, then resolution, map, lattice, orientations, poses and noise. lattices: found, and what trying starts found."""
    (setup, state), (found, tried) = refined, lattices
    lattice, winding = found.lattice, setup.winding
    assert winding is not None
    facts = {"asymmetric units per image": winding.units_per_image(lattice, setup.width_A) * len(setup.operators),
             "outer diameter": f"{2 * winding.radius_A:.4g} Å",
             "filaments": len(set(zip(particles.micrograph.tolist(), particles.filament.tolist(), strict=True)))}
    report = refinement_report("Helical refinement", record, particles, state.history, confidence, low_passes_A, facts, job)
    hand = "right" if lattice.twist_deg > 0 else "left"
    report.headline("twist", f"{lattice.twist_deg:.3f}°", said_sd(lattice.twist_sd_deg, "°") + f"; {hand}-handed in this map")
    report.headline("rise", f"{lattice.rise_A:.3f} Å", said_sd(lattice.rise_sd_A, " Å"))
    given = f"{found.first.twist_deg:g}° and {found.first.rise_A:g} Å"
    report.section("Lattice", f"Twist and rise were refined from {given}, from half maps on which no lattice was imposed. Under the one "
                   f"found these agree with themselves by {lattice.score:.3f} (as their noise allows: {found.expected:.3f}), mean over all "
                   f"subunits that the map reaches, down to {found.finest_A:.1f} Å; under the opposite twist by {lattice.other_hand:.3f}. "
                   "A map and its mirror image have opposite twists and explain the images alike: the hand must be known from elsewhere, "
                   "or seen in the map.")
    report.figure(lattice_figure(*found.picture, (lattice.twist_deg, lattice.rise_A), (found.first.twist_deg, found.first.rise_A)),
                  "Mean self-correlation of the half maps over twist and rise, within the ranges that were searched. Circle: found; cross: "
                  "given. One sharp peak is healthy; a ridge says that only one combination of the two is known.")
    told = [(h["lattice"]["twist_deg"], h["lattice"]["rise_A"]) for h in state.history if "lattice" in h]
    report.figure(lattice_path_figure(np.array([(found.first.twist_deg, found.first.rise_A), *told])),
                  "Twist and rise that were imposed, iteration by iteration.")
    rows = [(a.twist_deg, a.rise_A, a.score, a.coarse_score, a.what) for a in [*found.alike[:SHOWN], found.other_hand]]
    report.table(("twist (degrees)", "rise (Å)", f"score at {found.finest_A:.1f} Å", "score at lower resolution", "what it is"),
                 [tuple(round(c, 3) if isinstance(c, float) else c for c in row) for row in rows],
                 "Lattices under which the map agrees with itself. Multiples of the one found say the same with fewer subunits; a "
                 "pseudo-lattice looks alike where detail is missing, and its score falls first as the resolution improves.")
    if tried is not None:
        add_starts(report, tried, found)
    add_poses(report, particles, state.history, setup.width_A)
    with job.output.writing("report.html") as path:
        path.write_text(report.html(), encoding="utf-8")


def add_starts(report: Report, tried: StartLattice, found: Found) -> None:
    """The start lattices that were tried, and why the chosen one was gone on from."""
    best, starts, scores = tried.ends[0], tried.starts, tried.scores
    told = "The images do not tell it from others (below): believe none of them yet." if tried.rivals else (
        "It was the only one in which starts ended." if len(tried.ends) == 1 else
        f"The next lattice is {tried.ends[1].behind:.1f} ± {tried.ends[1].behind_sd:.1f} behind (standard error over filaments).")
    report.section(
        "Start lattices",
        "A cylinder shows no lattice, and half maps to which the same wrong one was given agree all the same. So "
        f"{len(starts)} lattices were refined on {tried.images} images down to {starts.finest_A:g} Å, and scored by images that "
        "their maps had not seen: the log odds, mean over images, that an image shows the map of the other half-set against noise "
        f"alone. {best.twist_deg:.3f}° and {best.rise_A:.3f} Å foretell them best ({best.score:.1f}). {told} The refinement began "
        f"with this lattice and its map down to {tried.shared_A:g} Å, which both half-sets then share.")
    figure = starts_figure((starts.twists_deg, starts.rises_A), scores.first, (starts.lattices, scores.ends, scores.mean),
                           ((best.twist_deg, best.rise_A), (found.first.twist_deg, found.first.rise_A)))
    report.figure(figure, "Left: the score of every start lattice after four passes. Right: where the best third ended, and their "
                  "scores, each with a line from its start. Circle: gone on from; cross: given. Several starts that end at one place "
                  "with the best score are healthy; as good a score elsewhere is an ambiguity that these images do not resolve.")
    rows = [(round(e.twist_deg, 3), round(e.rise_A, 3), round(e.score, 2), round(e.behind, 2), round(e.behind_sd, 2), e.starts,
             round(e.spread, 2), e.what)
            for e in tried.ends[:SHOWN]]
    report.table(("twist (degrees)", "rise (Å)", "log odds of an unseen image", "behind the best", "± (standard error)", "starts",
                  "their spread", "what"), rows, "Lattices in which the best starts ended. The best is told from another where it leads by "
                 "more than four standard errors, and by more than the scores of starts differ that ended at the same lattice.")


def said_sd(deviation: float, unit: str) -> str:
    """A standard error in words."""
    return f"± {deviation:.3g}{unit}, half the difference of the halves" if np.isfinite(deviation) else "not told by the last maps"
