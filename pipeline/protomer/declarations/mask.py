"""mask: masks from shapes, densities, atomic models, asymmetric units and other masks."""

from __future__ import annotations

from dataclasses import dataclass

from protomer.config.settings import Input, Job, JobSettings, setting


@dataclass(frozen=True)
class MaskSettings(JobSettings):
    """Settings of `mask`, in the order in which they act."""

    low_pass: float | None = setting(None, "low-pass of the volume before the threshold; unset: none (the rule has its own)", unit="A",
                                     minimum=0.1)
    threshold: float | None = setting(None, "density at and above this grey value of the (low-passed) volume")
    threshold_fraction: float | None = setting(None, "density at and above this fraction of the maximum of the (low-passed) volume",
                                               minimum=0.0, maximum=1.0)
    sphere: float | None = setting(None, "a sphere of this diameter; with a threshold, the density inside it", unit="A", minimum=0.0)
    cylinder: str | None = setting(None, "a cylinder along z, 'diameter,height' in Å; with a threshold, the density inside it")
    centre: str | None = setting(None, "centre of sphere and cylinder, 'x,y,z' in voxels from the corner of the box; unset: its centre")
    model_origin: str = setting("map", "where --model lies. map: its coordinates as they are, as fitted into the map in a viewer (the "
                                       "first voxel is at the header's origin; at 0 for volume.h5). box: the file's (0, 0, 0) in the box "
                                       "centre, where symmetry axes cross. mass: its centre of mass in the box centre, as `simulate` "
                                       "places models", choices=("map", "box", "mass"))
    model_chains: str | None = setting(None, "chains of --model to cover, joined by +, such as A+B; the whole model still says where it is")
    model_radius: float = setting(4.0, "how far from each atom of --model the mask reaches", unit="A", minimum=0.0)
    largest: bool | None = setting(None, "keep the largest connected part only; unset: on for the rule, off otherwise")
    fill_holes: bool | None = setting(None, "fill enclosed holes; unset: on for the rule, off otherwise")
    combine: str = setting("and", "how masks given with --mask act on what the volume and shapes gave (or on the first mask)",
                           choices=("and", "or", "not"))
    dilate: float | None = setting(None, "grow by this distance before the soft edge; unset: a third of the rule's low-pass, or nothing",
                                   unit="A", minimum=0.0)
    asymmetric_unit: str | None = setting(None, "keep one asymmetric unit of this point group, such as C2 or D7, whose axes go through the "
                                                "box centre; its copies cover all of the density")
    unit_method: str = setting("watershed", "watershed: the unit grows along the density from a seed, and is cut where density is thin; "
                                            "wedge: flat cuts half-way between a seed and its copies", choices=("watershed", "wedge"))
    unit_seed: str | None = setting(None, "a point inside the unit to keep, 'x,y,z' in voxels from the corner of the box; unset: of the "
                                          "density's peaks the one whose unit cuts the least density")
    unit_low_pass: float | None = setting(None, "smoothing of the density that the unit follows; unset: 15 Å or 6 voxels, whichever is "
                                                "coarser; below about 10 Å the gaps between helices look like gaps between molecules",
                                          unit="A", minimum=0.1)
    soft_edge: float | None = setting(None, "width of the cosine edge; unset: 5 times the resolution, at most an eighth of the box and at "
                                            "least 5 voxels", unit="A", minimum=0.0)
    voxel_size: float | None = setting(None, "voxel size of the .mrc inputs; unset: as their header says", unit="A", minimum=0.01)


JOB = Job(
    name="mask", summary="A soft mask from a shape, a threshold, a model, one asymmetric unit, other masks, or by rule",
    teaches="Starts from the density of --volume above a threshold, from a sphere, a cylinder or the surroundings of --model (with a "
            "threshold: the density inside it), or from the first --mask; where a volume is given and neither threshold nor shape, the "
            "rule decides that postprocess uses too. Then, in this order: largest part, holes, combination with further masks (and, or, "
            "not), growth, one asymmetric unit, soft edge. Warns where the edge is sharper than the map's resolution, since such a mask "
            "correlates half maps by itself; five times the resolution is safe. "
            "The asymmetric unit is for local refinement of one subunit after symmetry-expand. The watershed follows molecules where their "
            "contacts are thinner than they are themselves. Where subunits are entwined no such cut is right: cover the chains of a "
            "--model with model_chains instead. Look at the contours in the report. "
            "All inputs share one box and voxel size; `protomer volume --mask M.mrc --set resample=...` and crop or pad bring a mask to "
            "another. "
            "Examples: protomer mask --volume consensus --set threshold_fraction=0.2 --set low_pass=15A --set soft_edge=12A --output mask. "
            "protomer mask --volume consensus --set asymmetric_unit=C2 --set soft_edge=12A --output one. "
            "protomer mask --volume map.mrc --model fitted.cif --set model_chains=A --output chain_a",
    inputs=(Input("volume", "the map to threshold, and the box and voxel size of the mask", file="volume.h5",
                  alternatives=(".mrc", ".map")),
            Input("mask", "a mask to start from or to combine with, .mrc", file="mask.mrc", alternatives=(".map",), repeatable=True),
            Input("model", "an atomic model to cover, PDB or mmCIF; see model_origin for where it is taken to lie", file="model.cif",
                  shipped=True, alternatives=(".pdb", ".ent", ".cif.gz", ".pdb.gz", ".ent.gz")),
            Input("axes", "convention of the asymmetric unit's group: relion, cryosparc or scipy", file=None, default="relion")),
    settings=MaskSettings, entry="protomer.jobs.mask")
