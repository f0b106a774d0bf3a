"""reconstruct: half maps from particles with poses."""

from __future__ import annotations

from dataclasses import dataclass

from protomer.config.settings import Input, Job, JobSettings, setting
from protomer.declarations.ewald import ewald_setting


@dataclass(frozen=True)
class ReconstructSettings(JobSettings):
    """Settings of `reconstruct`."""

    half_precision: bool = setting(False, "keep the prepared images as 16-bit floats: half the memory")
    filter_resolution: float | None = setting(
        None, "low-pass map.mrc at this resolution; unset: weighted by the FSC", unit="A", minimum=0.1
    )
    filter_order: int = setting(8, "order of the Butterworth filter of filter_resolution", minimum=1)
    b_factor: float | None = setting(None, "decay that sharpening undoes; unset: from the Guinier plot", unit="A2")
    flip_hand: bool = setting(False, "mirror the map along z, and the poses with it")
    helical_twist: float | None = setting(None, "helix: turn from one subunit to the next, right-handed positive", unit="deg")
    helical_rise: float | None = setting(None, "helix: distance along z from one subunit to the next", unit="A")
    helical_order: int | None = setting(None, "helix: how many subunits along every image is inserted at: 0, -1, +1, -2, ...")
    ewald_sign: str = ewald_setting()


JOB = Job(
    name="reconstruct",
    summary="Half maps, map and FSC from particles with poses, without alignment",
    teaches="Inserts every particle at its pose into the map of its half-set. Takes symmetry-expanded particles too: without --symmetry "
    "their map must be that of the images with it, and --reference says whether it is. "
    "Example: protomer reconstruct --particles consensus --symmetry C2 --output again",
    inputs=(
        Input("particles", "particles.h5 or a job folder, with poses", file="particles.h5", required=True),
        Input("mask", "mask in which the FSC is measured; unset: made by rule", file="mask.mrc", alternatives=(".map",)),
        Input(
            "reference",
            "a map from the same images: the report says how far the new one agrees with it",
            file="volume.h5",
            alternatives=(".mrc", ".map"),
        ),
        Input("symmetry", "point group, such as C1, C2, D7", file=None, default="C1"),
        Input("axes", "convention of the group's axes: relion, cryosparc or scipy", file=None, default="relion"),
    ),
    settings=ReconstructSettings,
    entry="protomer.jobs.reconstruct",
    ranks=True,
    cuda=True,
)
