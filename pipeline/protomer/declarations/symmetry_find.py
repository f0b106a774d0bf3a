"""symmetry-find: the symmetry of a map, its axes, and everything moved onto them."""

from __future__ import annotations

from dataclasses import dataclass

from protomer.config.settings import Input, Job, JobSettings, setting


@dataclass(frozen=True)
class SymmetryFindSettings(JobSettings):
    """Settings of `symmetry-find`."""

    low_pass: float | None = setting(None, "finest detail that is compared; unset: 8 Å or 3 voxels, whichever is coarser, and no finer "
                                           "than half of it is signal where half maps tell", unit="A", minimum=0.1)
    max_angle: float = setting(180.0, "largest turn of the map that is tried", unit="deg", minimum=0.0, maximum=180.0)
    max_shift: float | None = setting(None, "largest shift of the map; unset: any", unit="A", minimum=0.0)
    force: bool = setting(False, "go on where the map does not carry the group asked for; this is recorded")
    twist_from: float = setting(-180.0, "helical: smallest twist, right-handed positive", unit="deg", minimum=-180.0, maximum=180.0)
    twist_to: float = setting(180.0, "helical: largest twist", unit="deg", minimum=-180.0, maximum=180.0)
    rise_from: float | None = setting(None, "helical: smallest rise per subunit; unset: 1 voxel", unit="A", minimum=0.01)
    rise_to: float | None = setting(None, "helical: largest rise per subunit; unset: a quarter of the box", unit="A", minimum=0.01)
    voxel_size: float | None = setting(None, "voxel size of the .mrc inputs; unset: as their header says", unit="A", minimum=0.01)


JOB = Job(
    name="symmetry-find", summary="Find the symmetry of a map and move map, masks and particles onto its axes",
    teaches="Compares the map with itself turned about every axis. With the name of a group it finds where its axes and centre lie, "
            "however the map is turned; with --symmetry any it tries C2 to C12, D2 to D9, T, O and I, and says which of them the map "
            "carries and which it only resembles. The map, its half maps and masks, and the poses of --particles are then moved "
            "together, so that the axes stand where --axes puts them and the next refinement can use the group. Nothing is averaged. "
            "With --symmetry helical the axis must lie along z; twist and rise are searched over their ranges. "
            "Example: protomer symmetry-find --volume consensus --particles consensus --symmetry C2 --output on_axis",
    inputs=(Input("volume", "the map: volume.h5 or a job folder (its half maps tell how much agreement to expect), or .mrc",
                  file="volume.h5", alternatives=(".mrc", ".map"), required=True),
            Input("symmetry", "a point group such as C2, D7, O; `any`; or `helical`", file=None, default="any"),
            Input("particles", "particles whose poses belong to this map, to be moved with it", file="particles.h5"),
            Input("mask", "where to compare, .mrc; it moves with the map; unset: made by rule", file="mask.mrc", alternatives=(".map",)),
            Input("axes", "convention of the group's axes: relion, cryosparc or scipy", file=None, default="relion")),
    settings=SymmetryFindSettings, entry="protomer.jobs.symmetry_find")
