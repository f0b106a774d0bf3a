"""local-refine: poses of one part of the particle, near given ones."""

from __future__ import annotations

from dataclasses import dataclass

from protomer.config.settings import Input, Job, setting
from protomer.declarations.engine import EngineSettings


@dataclass(frozen=True)
class LocalRefineSettings(EngineSettings):
    """Settings of `local-refine`."""

    rotation_prior: float | None = setting(
        None, "standard deviation about each axis of a Gaussian prior on the turn from the given pose, such as 15 for a part that moves "
        "much and 3 for a small one that is well aligned; unset: no prior", unit="deg"
    )
    shift_prior: float | None = setting(None, "standard deviation along x and y of a prior on the shift at the fulcrum, such as 7 or 2",
                                        unit="A")
    rotation_extent: float | None = setting(
        None, "no turn larger than this is taken; unset: 3 standard deviations of the prior, 20 degrees without one", unit="deg"
    )
    shift_extent: float | None = setting(
        None, "no shift at the fulcrum larger than this is taken; unset: 3 standard deviations of the prior, 10 Å without one", unit="A"
    )
    recentre_rotations: bool = setting(False, "prior and extent of rotations follow the poses, iteration by iteration (use a prior)")
    recentre_shifts: bool = setting(False, "prior and extent of shifts follow the poses (use a prior)")
    fulcrum: str = setting(
        "mask", "where the part turns about: the mask's centre of mass (mask), the box centre (box), or 'x,y,z' in pixels of the images "
        "from the corner of their box"
    )
    subtract_on_the_fly: bool = setting(
        False, "take the rest of the particle, each half's own map outside the mask at the given poses, from the images before comparing"
    )
    initial_low_pass: float = setting(12.0, "resolution of the first references", unit="A", minimum=1.0)
    max_alignment_resolution: float | None = setting(
        None, "never align to finer detail than this; unset: two shells beyond where the masked FSC falls to 0.5", unit="A", minimum=0.1
    )
    mask_mode: str = setting("static", "references are held in the given mask (static), or in the density they show in it (dynamic)",
                             choices=("static", "dynamic"))
    dynamic_mask_threshold: float = setting(0.2, "threshold of the dynamic mask, as a share of the map's maximum", minimum=0.0, maximum=1.0)
    dynamic_mask_near: float = setting(3.0, "the dynamic mask is 1 up to this distance from the threshold's surface", unit="A", minimum=0.0)
    dynamic_mask_far: float = setting(12.0, "and 0 beyond this distance", unit="A", minimum=0.0)
    relaxation: str = setting(
        "none",
        "for particles that are not expanded and have the group of --symmetry only nearly: each image tries its symmetry mates too, near "
        "each, and counts at each by its posterior (marginalise), in the final maps at the best one alone (maximise); no symmetry is "
        "imposed",
        choices=("none", "maximise", "marginalise"),
    )
    resplit: bool = setting(
        False, "draw the half-sets anew, by image, and begin with maps of the new ones: no longer gold standard, since the given poses "
        "come from the old ones (warned, recorded)"
    )
    noise_control: bool = setting(
        False, "refine once more with noise in place of the images' detail: what FSC that gives is taken from the real one, or withholds it"
    )


JOB = Job(
    name="local-refine",
    summary="Poses of one part of the particle, near given ones, from half maps and a mask",
    teaches="Takes particles with poses (symmetry-expanded ones too), the half maps that they made and a mask around one part, and refines "
    "the poses of that part: each half-set against its own map in the mask, within extents, best under a prior as wide as the part is "
    "believed to move. The map that comes out is not masked and stays where it was. Without a prior the FSC can rise while poses get "
    "worse: look at the histograms and the warnings. "
    "Example: protomer local-refine --particles expanded --volume consensus --mask protomer_mask --set rotation_prior=5deg --output local",
    inputs=(
        Input("particles", "particles.h5 with poses, or a job folder", file="particles.h5", required=True),
        Input("volume", "volume.h5 with half maps, or a job folder", file="volume.h5", alternatives=(".h5",), required=True),
        Input("mask", "mask around the part that is refined, .mrc", file="mask.mrc", alternatives=(".map",), required=True),
        Input("beside", "other refinements of the part: the report compares all in this mask", file="volume.h5", alternatives=(".h5",),
              repeatable=True),
        Input("symmetry", "point group about the box centre; C1 for expanded particles", file=None, default="C1"),
        Input("axes", "convention of the group's axes: relion, cryosparc or scipy", file=None, default="relion"),
    ),
    settings=LocalRefineSettings,
    entry="protomer.jobs.local_refine",
    ranks=True,
    cuda=True,
)
