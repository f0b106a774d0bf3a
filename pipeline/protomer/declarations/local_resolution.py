"""local-resolution: how far two half maps agree, place by place, and the map filtered accordingly."""

from __future__ import annotations

from dataclasses import dataclass

from protomer.config.settings import Input, Job, JobSettings, setting


@dataclass(frozen=True)
class LocalResolutionSettings(JobSettings):
    """Settings of `local-resolution`."""

    threshold: float = setting(0.5, "local correlation of the half maps that a place must reach to be resolved", minimum=0.05, maximum=0.95)
    false_discovery: float = setting(0.01, "of the places called resolved, the share that noise alone may have made so", minimum=1e-6,
                                     maximum=0.2)
    window: float | None = setting(None, "least width of the window about a place (half its height to half its height); unset: as narrow "
                                         "as each frequency allows, 2 to 4 wavelengths", unit="A", minimum=0.0)
    coarsest: float = setting(40.0, "resolution of the first band; a place that fails there has none", unit="A", minimum=4.0)
    b_factor: float | None = setting(None, "decay that sharpening of the filtered map undoes, 0: none; unset: from the Guinier plot",
                                     unit="A2")
    fit_from: float = setting(10.0, "coarse end of the Guinier fit", unit="A", minimum=1.0)
    voxel_size: float | None = setting(None, "voxel size of .mrc half maps; unset: as their header says", unit="A", minimum=0.01)


JOB = Job(
    name="local-resolution", summary="Resolution place by place, coloured surfaces, and the map filtered locally",
    teaches="Half maps are correlated in bands of frequencies, from coarse to fine, in a window about every voxel of the mask. A place is "
            "resolved as far as its correlation stays above the threshold and above what noise gives by chance: the share of places that "
            "noise alone would call resolved is held down (false discovery rate), so that solvent gets no resolution. Such voxels hold "
            "twice the coarsest resolution in local_resolution.mrc, which colours map_locally_filtered.mrc in ChimeraX: open "
            "colour_by_resolution.cxc. A local resolution is a mean over a window of a few wavelengths, and a rigid core outshines a "
            "floppy loop beside it. Read it as a guide to where side chains may be built, not as a number for each atom. Give half maps "
            "as they were reconstructed: a mask applied to both correlates them at its edge. "
            "Examples: protomer local-resolution --volume refined --output resolved. "
            "protomer local-resolution --volume half_a.mrc --volume half_b.mrc --mask mask.mrc --set threshold=0.143 --output resolved",
    inputs=(Input("volume", "volume.h5 or a job folder, or twice: the half maps as .mrc", file="volume.h5",
                  alternatives=(".mrc", ".map", ".h5"), required=True, repeatable=True),
            Input("mask", "where resolution is measured, .mrc; unset: mask by rule, as postprocess makes it", file="mask.mrc",
                  alternatives=(".map",))),
    settings=LocalResolutionSettings, entry="protomer.jobs.local_resolution")
