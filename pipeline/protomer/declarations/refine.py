"""refine: poses and half maps of one structure from an initial volume."""

from __future__ import annotations

from dataclasses import dataclass

from protomer.config.settings import Input, Job, setting
from protomer.declarations.engine import EngineSettings
from protomer.declarations.ewald import ewald_setting


@dataclass(frozen=True)
class RefineSettings(EngineSettings):
    """Settings of `refine`."""

    initial_low_pass: float = setting(30.0, "the start volume is low-passed to this resolution", unit="A", minimum=2.0)
    max_alignment_resolution: float | None = setting(
        None, "finest resolution used for alignment; unset: as far as the FSC allows", unit="A"
    )
    join_halves_below: float = setting(20.0, "half-set references share frequencies coarser than this; 0: never", unit="A", minimum=0.0)
    mask_mode: str = setting(
        "dynamic",
        "mask on the references: made from the map as it improves, the given one, or only a sphere",
        choices=("dynamic", "static", "none"),
    )
    dynamic_mask_threshold: float = setting(0.2, "threshold of the dynamic mask, as a share of the map's maximum", minimum=0.0, maximum=1.0)
    dynamic_mask_near: float = setting(6.0, "the dynamic mask is 1 up to this distance from the threshold's surface", unit="A", minimum=0.0)
    dynamic_mask_far: float = setting(14.0, "and 0 beyond this distance", unit="A", minimum=0.0)
    dynamic_mask_from: float = setting(20.0, "the dynamic mask is used once this resolution is reached", unit="A", minimum=0.0)
    rescale_reference: bool = setting(True, "fit the grey scale of the start volume to the images first")
    null_class: bool = setting(
        True, "once most images clearly hold the particle, one that is likelier noise alone counts by its probability (class_posterior)"
    )
    box: int | None = setting(None, "Fourier-crop the images to this box; unset: as imported", minimum=16, unit="px")
    shift_search_extent: float | None = setting(
        None, "largest shift tried by the global search; unset: 1/16 of the box", unit="A", minimum=0.0
    )
    align_to_symmetry: bool = setting(True, "find the axes of --symmetry in the start volume and move it onto them first")
    relaxation: str = setting(
        "none",
        "for a particle that has the group of --symmetry only nearly, such as a dimer with one modified protomer: each image tries all "
        "its symmetry mates and counts at each by its posterior (marginalise), in the final maps at the best one alone (maximise); no "
        "symmetry is imposed on the map",
        choices=("none", "maximise", "marginalise"),
    )
    ewald_sign: str = ewald_setting("in the last reconstruction, ")
    defocus_refine: bool = setting(
        False, "once poses have settled, if half maps agree to 6 Å or better, refine the defocus of each image, let poses settle again, "
        "and so on until neither changes"
    )
    aberration_refine: bool = setting(
        False, "the same for the beam tilt and trefoil of each optics group of 200 images or more; ctf-refine knows more of them"
    )


JOB = Job(
    name="refine",
    summary="Poses, gold-standard half maps and FSC of one structure from an initial volume",
    teaches="Aligns every particle to the map of its own half-set by an exhaustive search at low frequency and Gauss-Newton refinement at "
    "high frequency, reconstructs, and repeats until neither resolution nor poses move. The start volume may have any box and voxel "
    "size. With --symmetry it is first moved onto the group's axes, every image then counts once for each operator, and the report says "
    "what that gained and whether the copies differ; symmetry-find tells which group a map carries. Runs on any number of ranks with "
    "the same result, bit for bit: mpiexec -n 4 protomer refine ... . "
    "Example: protomer refine --particles imported --volume start.mrc --symmetry C1 --output consensus",
    inputs=(
        Input("particles", "particles.h5 or a job folder", file="particles.h5", required=True),
        Input(
            "volume",
            "initial volume, .mrc or volume.h5 or a job folder",
            file="volume.h5",
            alternatives=(".mrc", ".map", ".h5"),
            required=True,
        ),
        Input("mask", "mask for mask_mode static, .mrc", file="mask.mrc", alternatives=(".map",)),
        Input("symmetry", "point group, such as C1, C2, D7", file=None, default="C1"),
        Input("axes", "convention of the group's axes: relion, cryosparc or scipy", file=None, default="relion"),
    ),
    settings=RefineSettings,
    entry="protomer.jobs.refine",
    ranks=True,
    cuda=True,
)
