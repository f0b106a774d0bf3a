"""postprocess: how good two half maps are, and the map they make together."""

from __future__ import annotations

from dataclasses import dataclass

from protomer.config.settings import Input, Job, JobSettings, setting


@dataclass(frozen=True)
class PostprocessSettings(JobSettings):
    """Settings of `postprocess`."""

    b_factor: float | None = setting(None, "decay of the map that sharpening undoes (a map that fades has a positive one); "
                                           "unset: from the Guinier plot", unit="A2")
    fit_from: float = setting(10.0, "coarse end of the Guinier fit; its fine end is the resolution of the map", unit="A", minimum=1.0)
    voxel_size: float | None = setting(None, "voxel size of .mrc half maps; unset: as their header says", unit="A", minimum=0.01)


JOB = Job(
    name="postprocess", summary="FSC of two half maps with phase randomisation, B-factor, filtered and sharpened map",
    teaches="Measures the Fourier shell correlation of two half maps without a mask, in a soft sphere, in a mask, and corrected for what "
            "the mask itself correlates (phases randomised; Chen et al. 2013). Unless a mask is given, one is made by a fixed rule before "
            "any FSC is read, and the report names it with its values. The mean of the half maps is weighted by the corrected FSC and "
            "sharpened by the B-factor of its Guinier plot. Give the folder or volume.h5 of a job, or the two half maps as .mrc. "
            "Example: protomer postprocess --volume half_a.mrc --volume half_b.mrc --mask mask.mrc --output postprocessed",
    inputs=(Input("volume", "volume.h5 or a job folder, or twice: the half maps as .mrc", file="volume.h5",
                  alternatives=(".mrc", ".map", ".h5"), required=True, repeatable=True),
            Input("mask", "mask in which the FSC is measured, .mrc; unset: made by rule", file="mask.mrc", alternatives=(".map",))),
    settings=PostprocessSettings, entry="protomer.jobs.postprocess")
