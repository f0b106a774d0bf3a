"""Whether a local refinement is to be believed: warnings of what healthy poses do not show, and the resolution that they leave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from protomer.engine.iteration_record import rotation_widths_deg
from protomer.local.pose_changes import PoseChanges
from protomer.maps.fsc_curves import FscSet
from protomer.maps.volumes import Volume
from protomer.refinement.noise_control import NoiseControl
from protomer.running.events import Events
from protomer.tables.particles import Particles

MANY_AT_EXTENT = 0.05  # more particles at the extent than this are a pile-up
AWAY_FROM_ZERO = 0.5  # mean change over its root mean square
NO_NARROWER = 0.9  # posterior width over the prior's
MANY_FALLEN = 0.01
SAME_SHELLS = 1.0  # maps whose resolutions differ by less are as good
PRIOR_OFF = 1.5  # times as wide, or as narrow, as the poses suggest
STRONG_PULL = 0.05  # of the resolution: by how much an iteration moves all poses out of their frame


@dataclass(frozen=True)
class Trust:
    """Changes of poses, FSC in the mask of the half maps found and of those given, the noise control, if any, and the codes of those
    warnings for which no resolution is given; effective: how many particles count, as far as posteriors and fallen copies tell."""

    changes: PoseChanges
    fsc: FscSet
    given_fsc: FscSet
    control: NoiseControl | None
    withheld: tuple[str, ...]
    effective: float

    @classmethod
    def judge(
        cls,
        changes: PoseChanges,
        particles: Particles,
        fscs: tuple[FscSet, FscSet],
        mask: Volume,
        control: tuple[bool, NoiseControl | None],
        events: Events,
    ) -> Trust:
        """Warn of all that is amiss.

        fscs: of the half maps found and given, in the mask; control: whether it was asked for, and what it gave, None where the
        resolution is too coarse for one.
        """
        asked, outcome = control
        better_map = fscs[0].shell_at("corrected", 0.143) > fscs[1].shell_at("corrected", 0.143) + SAME_SHELLS
        doubts = [*_of_extents(changes, events), *_of_widths(changes, particles, better_map, events), *_of_copies(changes, events)]
        if asked and outcome is None:
            events.warn("no_control", "the resolution is too coarse for a control with noise in place of detail: none was made")
        if outcome is not None and outcome.fits_noise(float(mask.data.mean())):
            doubts.append("noise_fitted")
            events.warn(
                "noise_fitted",
                f"images whose detail beyond {outcome.width_A / outcome.from_shell:.1f} Å is noise give an FSC {outcome.excess:.2f} above "
                "what the mask makes: poses are fitted to noise; give a prior or a larger part, or limit max_alignment_resolution",
            )
        _hints(changes, events)
        effective = float(particles.pose_posterior.sum()) * (1.0 - 0.5 * changes.fallen)
        return cls(changes, *fscs, outcome, tuple(doubts), effective)

    @property
    def resolution_A(self) -> float | None:
        """The corrected resolution, or that of the control where it is coarser; None where it is withheld or not reached."""
        found = max(self.fsc.resolution_A_at("corrected"), 0.0 if self.control is None else self.control.resolution_A)
        return found if np.isfinite(found) and not self.withheld else None

    def describe(self) -> str:
        """The resolution as a headline."""
        if self.withheld:
            return "withheld"
        return "not reached" if self.resolution_A is None else f"{self.resolution_A:.2f} Å"

    def summary(self) -> dict[str, Any]:
        """For summary.json."""
        control = None if self.control is None else {
            "noise_beyond_A": round(self.control.width_A / self.control.from_shell, 3),
            "fsc_of_noise": round(self.control.excess, 4),
            "resolution_A": rounded(self.control.resolution_A),
        }
        return {
            "given_resolution_A": rounded(self.given_fsc.resolution_A_at("corrected")),
            "believed_resolution_A": rounded(self.resolution_A),
            "resolution_withheld_for": list(self.withheld),
            "noise_control": control,
            "effective_particles": round(self.effective, 1),
        }


def rounded(resolution_A: float | None) -> float | None:
    """As summary.json has resolutions: None where it is not reached."""
    return None if resolution_A is None or not np.isfinite(resolution_A) else round(resolution_A, 4)


def _of_extents(changes: PoseChanges, events: Events) -> list[str]:
    """Doubts about poses that lie at the end of the search."""
    doubts = []
    for name, unit, share, extent in zip(("rotation", "shift"), ("°", " Å"), changes.piled_up, changes.extent, strict=True):
        if share > MANY_AT_EXTENT:
            doubts.append(f"{name}_at_extent")
            events.warn(
                doubts[-1],
                f"{100 * share:.0f} % of the {name} changes lie at the extent of {extent:g}{unit}: the part moves further, or the images "
                f"do not tell its pose; widen {name}_extent, or give a {name}_prior",
            )
    return doubts


def _of_widths(changes: PoseChanges, particles: Particles, better_map: bool, events: Events) -> list[str]:
    """Doubts about poses that the images do not tell; a map that is better nevertheless is not to be believed."""
    width, prior = float(np.median(rotation_widths_deg(particles.pose_covariance))), changes.prior[0] * np.sqrt(3.0)
    if width > NO_NARROWER * prior:
        events.warn(
            "prior_decides",
            f"posteriors ({width:.1f}° wide in the median) are hardly narrower than the prior ({prior:.1f}°): the images do not tell this "
            "part's pose; refine a larger part, or keep the given poses",
        )
        return ["prior_decides"]
    if not changes.is_better and changes.confidence is not None:
        events.warn(
            "poses_no_better",
            f"images made from this map are found {changes.confidence.median_error_deg:.1f}° from their poses, and the real ones changed "
            f"by {np.median(changes.angle_deg):.1f}°: the given poses were as good or better; give a rotation_prior of the motion you "
            "expect, or keep them",
        )
        return ["poses_no_better"] if better_map else []
    return []


def _of_copies(changes: PoseChanges, events: Events) -> list[str]:
    """Doubts about copies of one image that show the same part."""
    if changes.fallen <= MANY_FALLEN:
        return []
    events.warn(
        "copies_fallen_together",
        f"{100 * changes.fallen:.1f} % of the copies fell onto another of their image and count twice; narrow rotation_extent or "
        "give a prior",
    )
    return ["copies_fallen_together"]


def warn_of_pull(move_A: float, turn_deg: float, resolution_A: float, shows_rest: bool, events: Events) -> None:
    """A warning where each iteration would move the part's frame much: by move_A at the fulcrum and turn_deg (engine/frame.py).

    shows_rest: whether the images that are compared show what lies outside the mask too.
    """
    if not move_A > STRONG_PULL * resolution_A:
        return
    advice = ("take the rest from the images (subtract_on_the_fly), or draw the mask where there is less density" if shows_rest
              else "draw the mask where there is less density")
    events.warn(
        "mask_pulls",
        f"the mask cuts through density that images show, which pulls all poses to one side: by {move_A:.2f} Å and {turn_deg:.2f}° in "
        f"each iteration. They were put back, so that the map stays where it was, but poses are the worse for it: {advice}",
    )


def _hints(changes: PoseChanges, events: Events) -> None:
    """Warnings that leave the resolution as it is."""
    if changes.bias > AWAY_FROM_ZERO:
        events.warn(
            "turned_on_average",
            f"the poses turned to one side on average ({changes.bias:.2f} of their spread), though not most of them: they may be of two "
            "kinds, or the mask lies off the part",
        )
    if not np.isfinite(changes.prior[0]):
        events.warn(
            "no_prior",
            "without a rotation prior the FSC can rise while poses get worse, since half maps share what noise does to poses alike; "
            "compare with a run that has one (rotation_prior)",
        )
    elif changes.motion_deg and changes.is_better and not 1 / PRIOR_OFF < changes.prior[0] / changes.motion_deg < PRIOR_OFF:
        events.warn(
            "prior_off",
            f"the poses suggest that the part moves by {changes.motion_deg:.1f}° about each axis; rotation_prior is {changes.prior[0]:g}°",
        )
