"""ctf-refine: defocus of each particle, aberrations and magnification of each optics group."""

from __future__ import annotations

from dataclasses import dataclass

from protomer.config.settings import Input, Job, JobSettings, setting


@dataclass(frozen=True)
class CtfRefineSettings(JobSettings):
    """Settings of `ctf-refine`."""

    defocus: bool = setting(True, "refine one defocus for each image")
    beam_tilt: bool = setting(True, "refine the beam tilt (axial coma) of each optics group")
    trefoil: bool = setting(True, "refine the threefold astigmatism of each optics group")
    tetrafoil: bool = setting(False, "refine the fourfold astigmatism of each optics group")
    spherical_aberration: bool = setting(False, "refine the spherical aberration of each optics group")
    magnification: bool = setting(False, "refine the anisotropic magnification of each optics group")
    max_resolution: float | None = setting(
        None, "finest resolution used; unset: somewhat beyond where the half maps' FSC falls below 0.143", unit="A", minimum=0.1
    )
    min_resolution: float = setting(30.0, "coarsest resolution used", unit="A", minimum=1.0)
    defocus_range: float = setting(1000.0, "how far a defocus may change", unit="A", minimum=1.0)
    defocus_prior: float | None = setting(None, "standard deviation of the changes that are expected; unset: as the data have it", unit="A",
                                          minimum=1.0)
    rounds: int = setting(3, "times that defocus and aberrations are refined in turn", minimum=1, maximum=20)
    fewest_images: int = setting(200, "optics groups of fewer images keep their aberrations", minimum=1)


JOB = Job(
    name="ctf-refine", summary="Defocus per particle, beam tilt, trefoil, tetrafoil, Cs and anisotropic magnification per optics group",
    teaches="Compares each image with the half map of its own half-set at its pose, and finds the CTF under which they agree best: "
            "the defocus of every image, and for every optics group what the microscope did to all of its images. An image's own "
            "part of the map, whose noise would hold its values where they are, is taken out. It pays above about 4 Å, where errors "
            "of a hundred ångström of defocus or half a milliradian of tilt turn the phase of the finest detail. Refine again "
            "afterwards: poses and map follow. Give the half maps that these particles made. Symmetry copies of an image share one "
            "value. Groups of few images keep their aberrations; give images of one session and beam-shift position one optics "
            "group. Every value comes with its standard error: what is smaller than twice that is nothing. Large tilts are found "
            "too; a defocus wrong by more than defocus_range is not. Examples: protomer ctf-refine --particles refined --volume "
            "refined --output ctf. protomer ctf-refine --particles refined --volume refined --set magnification=on --set "
            "tetrafoil=on --output ctf. Then: protomer refine --particles ctf --volume refined --output again",
    inputs=(Input("particles", "particles.h5 or a job folder, with poses and half-sets", file="particles.h5", required=True),
            Input("volume", "volume.h5 or the folder of the job whose poses these are: its half maps", file="volume.h5",
                  alternatives=(".mrc", ".map", ".h5"), required=True, repeatable=True),
            Input("mask", "keep this part of the maps, .mrc; unset: all density, found by rule", file="mask.mrc", alternatives=(".map",))),
    settings=CtfRefineSettings, entry="protomer.jobs.ctf_refine", ranks=True)
