"""mask: masks from shapes, densities and other masks."""

from __future__ import annotations

from dataclasses import dataclass

from protomer.settings import Input, Job, JobSettings, setting


@dataclass(frozen=True)
class MaskSettings(JobSettings):
    """Settings of `mask`, in the order in which they act."""

    low_pass: float | None = setting(None, "low-pass of the volume before the threshold; unset: none, or that of the rule", unit="A",
                                     minimum=0.1)
    threshold: float | None = setting(None, "density at and above this grey value of the (low-passed) volume")
    threshold_fraction: float | None = setting(None, "density at and above this fraction of the maximum of the (low-passed) volume",
                                               minimum=0.0, maximum=1.0)
    sphere: float | None = setting(None, "a sphere of this diameter; with a threshold, the density inside it", unit="A", minimum=0.0)
    cylinder: str | None = setting(None, "a cylinder along z, 'diameter,height' in Å; with a threshold, the density inside it")
    centre: str | None = setting(None, "centre of sphere and cylinder, 'x,y,z' in voxels from the corner of the box; unset: its centre")
    largest: bool | None = setting(None, "keep the largest connected part only; unset: on for the rule, off otherwise")
    fill_holes: bool | None = setting(None, "fill enclosed holes; unset: on for the rule, off otherwise")
    combine: str = setting("and", "how masks given with --mask act on what the volume and shapes gave (or on the first mask)",
                           choices=("and", "or", "not"))
    dilate: float | None = setting(None, "grow by this distance before the soft edge; unset: a third of the rule's low-pass, or nothing",
                                   unit="A", minimum=0.0)
    soft_edge: float | None = setting(None, "width of the cosine edge; unset: 5 times the resolution, at most an eighth of the box and at "
                                            "least 5 voxels", unit="A", minimum=0.0)
    asymmetric_unit: str | None = setting(None, "keep one asymmetric unit of this point group", later=True)
    voxel_size: float | None = setting(None, "voxel size of the .mrc inputs; unset: as their header says", unit="A", minimum=0.01)


JOB = Job(
    name="mask", summary="A soft mask from a shape, a threshold, other masks, or by rule",
    teaches="Starts from the density of --volume above a threshold, from a sphere or a cylinder (with a threshold: the density inside "
            "it), or from the first --mask; where a volume is given and neither threshold nor shape, the rule decides that postprocess "
            "uses too. Then, in this order: largest part, holes, combination with further masks (and, or, not), growth, soft edge. "
            "Warns where the edge is sharper than the map's resolution, since such a mask correlates half maps by itself. "
            "Example: protomer mask --volume consensus --set threshold_fraction=0.2 --set low_pass=15A --set soft_edge=12A --output mask",
    inputs=(Input("volume", "the map to threshold, and the box and voxel size of the mask", file="volume.h5",
                  alternatives=(".mrc", ".map")),
            Input("mask", "a mask to start from or to combine with, .mrc", file="mask.mrc", alternatives=(".map",), repeatable=True),
            Input("model", "an atomic model to cover (in a later version)", file="model.cif", alternatives=(".pdb", ".cif"))),
    settings=MaskSettings, entry="protomer.jobs.mask")
