"""The job `export`: particles and maps for other programs."""

from __future__ import annotations

from dataclasses import dataclass

from protomer.config.settings import Input, Job, JobSettings, setting


@dataclass(frozen=True)
class ExportSettings(JobSettings):
    """How things are written for others."""

    project_folder: str | None = setting(None, "write new stack names relative to this folder; unset: absolute")
    replace: bool = setting(False, "replace files that exist")
    map: str = setting("map", "which volume of volume.h5 goes to --mrc",
                       choices=("map", "sharpened", "half_a", "half_b", "refinement_mask", "fsc_mask"))


JOB = Job(
    name="export",
    summary="Particles to STAR or .cs, volumes to .mrc",
    teaches="""Writes what other programs read. What an imported table held comes back as it was where nobody changed it, with its
unknown columns; changed poses, half-sets and classes are written anew. Pixel sizes are those of the stacks on disk, whatever the images
were binned to. Stack names stay as they were where they lead to the stacks from the place of the new file, and are absolute elsewhere.

    protomer export --particles local --star local.star
    protomer export --particles local --cs local.cs
    protomer export --volume local --mrc sharpened.mrc --set map=sharpened""",
    inputs=(
        Input("particles", "particles.h5 or the folder of a job", file="particles.h5", alternatives=(".h5",)),
        Input("volume", "volume.h5 or the folder of a job", file="volume.h5", alternatives=(".h5",)),
        Input("star", "STAR file to be written"),
        Input("cs", ".cs file to be written"),
        Input("mrc", "map to be written"),
    ),
    settings=ExportSettings,
    entry="protomer.jobs.export",
    keeps_folder=False,
)
