"""What a helical refinement starts from: a given volume, or a cylinder with the faint trace of a lattice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from protomer.declarations.helical_refine import HelicalRefineSettings
from protomer.errors import SettingsError
from protomer.helical.lattice import LEAST_VOXELS, Lattice, Winding, copies_in, score_grid
from protomer.maps.volumes import Halves, Volume
from protomer.randomness import generator
from protomer.refinement.asked import read_start
from protomer.refinement.setup import Setup
from protomer.refinement.start import resampled
from protomer.running.events import Events
from protomer.running.job_run import Inputs
from protomer.symmetry.helical_search import HelixScores, helix_scores, radius_px
from protomer_kernels.fourier import low_pass
from protomer_kernels.masks import cylinder_mask

GRAIN = 0.5  # of the random density on a cylinder, over the cylinder's own
WALL_PX = 1.0
CLEARLY_BETTER = 0.05  # of the self-correlation: by which the other hand is better


def start_volume(inputs: Inputs, box: int, pixel_A: float) -> Volume | None:
    """The given volume in the images' frame, or None. Raises InputError for one without density."""
    if inputs.volume is None:
        return None
    return Volume(resampled(read_start(inputs.volume), box, pixel_A), pixel_A)


def radius_of(settings: HelicalRefineSettings, start: Volume | None) -> float:
    """The filament's outer radius (Å), as set or as the start volume's density has it. Raises SettingsError where nothing says it."""
    if settings.outer_diameter is not None:
        return settings.outer_diameter / 2
    if start is None:
        raise SettingsError("neither a --volume nor an outer_diameter", "one of them to start from",
                            "give outer_diameter (Å), such as that of the filament in class averages, for a cylinder")
    return radius_px(start) * start.voxel_size_A


def first_lattice(
    start: Volume | None, lattice: Lattice, winding: Winding, settings: HelicalRefineSettings, events: Events
) -> Lattice:
    """The lattice that the first reference has: the start volume's own, where that shows one within the ranges, else the one given. Warns
    where the start volume agrees with itself better under the opposite twist."""
    if start is None:
        return lattice
    finest_A = max(settings.initial_low_pass, LEAST_VOXELS * start.voxel_size_A)
    scores = helix_scores(start, finest_A, winding.radius_A)
    copies = copies_in(scores, lattice.rise_A)
    same, other = (best_score(scores, replace(winding, twist_deg=twists), finest_A, copies)
                   for twists in (winding.twist_deg, (-winding.twist_deg[1], -winding.twist_deg[0])))
    if other > same + CLEARLY_BETTER:
        events.warn("start_of_other_hand", f"the start volume agrees with itself better under twists about {-lattice.twist_deg:g}° "
                    f"({other:.2f}) than about {lattice.twist_deg:g}° ({same:.2f}): it has the other hand. Change the sign of "
                    "helical_twist, or mirror the volume (protomer volume --set flip_hand=on)")
    fitted = winding.refitted(Halves(start, start), finest_A, lattice)
    if fitted.is_told:
        events.event("start_lattice", twist_deg=round(fitted.twist_deg, 4), rise_A=round(fitted.rise_A, 4), score=round(fitted.score, 4))
    return replace(fitted, twist_sd_deg=float("nan"), rise_sd_A=float("nan"), is_told=False)


def best_score(scores: HelixScores, winding: Winding, finest_A: float, copies: int) -> float:
    """The greatest mean self-correlation within the ranges."""
    axes = [np.arange(a, b, s) for (a, b), s in zip((winding.twist_deg, winding.rise_A), winding.steps(finest_A, copies), strict=True)]
    return float(score_grid(scores, axes[0], axes[1], copies).max())


def first_reference(setup: Setup, start: Volume | None, lattice: Lattice, settings: HelicalRefineSettings) -> np.ndarray:
    """The volume that all images meet first, low-passed, with the lattice imposed."""
    box = setup.store.plane.box
    if start is None:
        assert setup.winding is not None
        data = cylinder(box, setup, settings)
    else:
        data = low_pass(start.data, setup.width_A / settings.initial_low_pass, 2.0)
    return setup.arithmetic.on_host(setup.wound(setup.arithmetic.here(data), lattice) * setup.solid(box))


def cylinder(box: int, setup: Setup, settings: HelicalRefineSettings) -> np.ndarray:
    """A cylinder with random density on it, so that all images agree from the start on where rot and the axis begin; with the lattice
    imposed the random density is that of subunits."""
    outer_px, inner_px = (diameter / 2 / setup.pixel_size_A for diameter in (settings.outer_diameter or 0.0, settings.inner_diameter))
    solid = cylinder_mask(box, outer_px, 2.0 * box, WALL_PX)
    if inner_px > 0:
        solid = solid - cylinder_mask(box, inner_px, 2.0 * box, WALL_PX)
    random = low_pass(generator(setup.seed, 0, "helical start").standard_normal((box, box, box), np.float32), box / 4, 2.0)
    return np.asarray(solid * (1.0 + GRAIN * random / float(random.std())), np.float32)
