"""subtract: what lies outside a mask taken from the images."""

from __future__ import annotations

from dataclasses import dataclass

from protomer.config.settings import Input, Job, JobSettings, setting


@dataclass(frozen=True)
class SubtractSettings(JobSettings):
    """Settings of `subtract`."""

    recentre: bool = setting(False, "move images and poses so that the mask's centre of mass (its nearest voxel) becomes the centre of map "
                                    "and images")
    recrop: str | None = setting(None, "cut images to a smaller box about their centre: a number of pixels, or auto (the mask and how far "
                                       "the CTF spreads its detail); unset: no cut")
    half_precision: bool = setting(False, "write 16-bit floats (MRC mode 12): half the disk; RELION 4 and cryoSPARC 4 read them")
    revert: bool = setting(False, "the other way: back to the images as they were before subtraction, with the present poses")


JOB = Job(
    name="subtract",
    summary="Take what lies outside a mask from the images, and write what is left",
    teaches="The density outside --mask, which is what stays, is seen from every particle's pose through its CTF and taken from its image: "
    "in each half-set from that half's own map, so that the halves stay independent. Only density that a map can know is taken: inside a "
    "support (by rule, or --support), and each shell as far as the half maps agree there. Images stay on the grey scale on which they "
    "were refined, and are not whitened. Symmetry copies get an image each, and keep their image's identity and half-set. "
    "The result goes wherever the particles went before: local-refine, reconstruct, export. "
    "local-refine --set subtract_on_the_fly=on does the same without writing images; this job is for other programs, for a smaller box, "
    "and for a look at what is left. "
    "Example: protomer subtract --particles copies --volume consensus --mask protomer_mask --set recentre=on --set recrop=auto "
    "--output subtracted",
    inputs=(
        Input("particles", "particles.h5 with poses and half-sets, or a job folder", file="particles.h5", required=True),
        Input("volume", "volume.h5 with the half maps that these poses made, or a job folder", file="volume.h5", alternatives=(".h5",)),
        Input("mask", "mask around the part that stays, .mrc", file="mask.mrc", alternatives=(".map",)),
        Input("support", "mask of all density, .mrc: nothing is taken from outside it; unset: made by rule from the half maps",
              file="mask.mrc", alternatives=(".map",)),
    ),
    settings=SubtractSettings,
    entry="protomer.jobs.subtract",
    ranks=True,
)
