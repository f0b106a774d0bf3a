"""symmetry-expand: every image once for each symmetry operator, and back."""

from __future__ import annotations

from dataclasses import dataclass

from protomer.config.settings import Input, Job, JobSettings, setting


@dataclass(frozen=True)
class SymmetryExpandSettings(JobSettings):
    """Settings of `symmetry-expand`."""

    helical_twist: float | None = setting(None, "helix: turn from one subunit to the next, right-handed positive", unit="deg")
    helical_rise: float | None = setting(None, "helix: distance along z from one subunit to the next", unit="A")
    helical_order: int | None = setting(None, "helix: copies of every image: 0, -1, +1, -2, ... subunits along")
    max_axis_error: float = setting(1.0, "with --volume: refuse where the map's axes lie further than this from the operators'", unit="deg",
                                    minimum=0.0, maximum=180.0)
    force: bool = setting(False, "expand although the map's axes are too far off, or the map lacks the symmetry; it is recorded")
    undo: bool = setting(False, "back to one row per image")
    keep: str = setting("best", "undo: which copy's pose stays: that of the highest log_likelihood (the lowest copy where several have "
                                "it), or copy 0", choices=("best", "original"))


JOB = Job(
    name="symmetry-expand",
    summary="Every image once for each symmetry operator, so that single subunits can be refined; and back",
    teaches="A particle with C2 symmetry shows its subunit twice. This job writes a row for every image and every operator of the group, "
    "of a helix, or of both, with the pose from which the map looks as it does from the image's own; local refinement, "
    "classification without alignment and reconstruct then treat every subunit as a particle. No image is written, and what copies "
    "have in common is stored once. Copies stay in the half-set of their image; a search over all orientations would let them fall "
    "onto one another, so refine refuses them. The axes of the map must stand where the operators have them: give --volume, and "
    "this is measured first; symmetry-find brings a map and its particles there. The check: reconstruct without symmetry from the "
    "copies equals reconstruct with symmetry from the images. Example: protomer symmetry-expand --particles consensus --volume "
    "consensus --symmetry D7 --output copies",
    inputs=(
        Input("particles", "particles.h5 or a job folder, with poses", file="particles.h5", required=True),
        Input("volume", "the map that the poses belong to: its axes are compared with the operators'", file="volume.h5",
              alternatives=(".mrc", ".map")),
        Input("symmetry", "point group, such as C2, D7, T, O, I1", file=None, default="C1"),
        Input("axes", "convention of the group's axes: relion, cryosparc or scipy", file=None, default="relion"),
    ),
    settings=SymmetryExpandSettings,
    entry="protomer.jobs.symmetry_expand",
)
