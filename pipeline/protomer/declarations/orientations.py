"""orientations: from where the particles were seen, and what that does to the map."""

from __future__ import annotations

from dataclasses import dataclass

from protomer.config.settings import Input, Job, JobSettings, setting


@dataclass(frozen=True)
class OrientationsSettings(JobSettings):
    """Settings of `orientations`."""

    voxel_size: float | None = setting(None, "voxel size of .mrc half maps; unset: as their header says", unit="A", minimum=0.01)


JOB = Job(
    name="orientations", summary="Viewing directions, sampling of Fourier space, resolution by direction; preferred views flagged",
    teaches="A map seen from some sides only is smeared along them, whatever its resolution says. This job shows the viewing directions; "
            "the sampling compensation factor SCF (1: even; 0.81: side views alone, which is enough; near 0: directions are missing); and, "
            "with half maps, Fourier shell correlations in cones and the ratio cFAR of the worst to the best direction. It warns of views "
            "so uneven that the map suffers. What helps: `select --rebalance` drops particles of crowded views, which makes a map less "
            "smeared, never sharper; missing views come from tilting the stage, other grids or detergents. Give --symmetry: a group "
            "shows the molecule from all directions that it makes equal. "
            "Examples: protomer orientations --particles refined --symmetry C2 --output views. "
            "protomer orientations --particles refined --volume refined --symmetry C2 --output views",
    inputs=(Input("particles", "particles.h5 or a job folder, with poses", file="particles.h5", required=True),
            Input("volume", "their half maps: volume.h5 or a job folder, or twice: the half maps as .mrc", file="volume.h5",
                  alternatives=(".mrc", ".map", ".h5"), repeatable=True),
            Input("mask", "mask in which correlations are measured, .mrc; unset: by rule, as postprocess makes it", file="mask.mrc",
                  alternatives=(".map",)),
            Input("symmetry", "point group of the map, such as C2", file=None, default="C1"),
            Input("axes", "convention of the group's axes: relion, cryosparc or scipy", file=None, default="relion")),
    settings=OrientationsSettings, entry="protomer.jobs.orientations")
