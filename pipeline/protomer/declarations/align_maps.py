"""align-maps: maps, and the particles that belong to them, brought onto one reference."""

from __future__ import annotations

from dataclasses import dataclass

from protomer.config.settings import Input, Job, JobSettings, setting


@dataclass(frozen=True)
class AlignMapsSettings(JobSettings):
    """Settings of `align-maps`."""

    low_pass: float | None = setting(None, "finest detail that is compared, after masking; unset: 3 voxels of the coarser map, or 1/48 of "
                                           "the box where that is coarser; what they do not share counts nothing", unit="A", minimum=0.1)
    max_angle: float = setting(180.0, "largest turn of a map (after the mirror, where its hand is flipped)", unit="deg", minimum=0.0,
                               maximum=180.0)
    max_shift: float | None = setting(None, "largest shift of a map's box centre; unset: any", unit="A", minimum=0.0)
    both_hands: bool = setting(True, "try the mirror image of each map too, and flip the hand of those that fit better so")
    apply_masks: bool = setting(False, "compare inside the masks that were given; where only the map or only the reference has one, such "
                                       "as that of a domain to be superposed, whole maps are compared first, and then both in it; off: "
                                       "masks by rule")
    align_masks: bool = setting(False, "write the masks of the volumes in the reference's frame too")
    update_particles: bool = setting(False, "move the poses of --particles with their volumes")
    update_flipped_poses: bool = setting(False, "also those of a volume whose hand is flipped: R' = M R M, M = diag(1, 1, -1)")
    figures: bool = setting(True, "pictures in the report, and maps of the differences from the reference")
    voxel_size: float | None = setting(None, "voxel size of the .mrc inputs whose header says none", unit="A", minimum=0.01)


JOB = Job(
    name="align-maps", summary="Bring maps, with their half maps, masks and particles, onto a reference",
    teaches="Finds how each --volume lies on the --reference, however it is turned, shifted or mirrored, and whatever its box and voxel "
            "size: no start from a viewer is needed. Each map is then moved once, with its half maps, sharpened map and masks, into the "
            "reference's frame; the reference stays as it is. With update_particles=true the poses of its particles move with it, so that "
            "classes of several runs can be refined together from particles.h5. Several volumes: one --mask (or one for all) and one "
            "--particles for each --volume, in order, `none` for a gap. The report says how sure the place and the hand are. "
            "Example: protomer align-maps --reference class_a --volume class_b --particles class_b --set update_particles=true "
            "--output aligned",
    inputs=(Input("reference", "the map that stays: volume.h5, a job folder, or .mrc", file="volume.h5", alternatives=(".mrc", ".map"),
                  required=True),
            Input("volume", "a map to be aligned: volume.h5 or a job folder (all its maps move), or .mrc; may be repeated",
                  file="volume.h5", alternatives=(".mrc", ".map"), required=True, repeatable=True),
            Input("mask", "mask of a volume, .mrc: none, one for all, or one for each --volume in order", file="mask.mrc",
                  alternatives=(".map",), repeatable=True),
            Input("reference-mask", "mask of the reference, .mrc", file="mask.mrc", alternatives=(".map",)),
            Input("particles", "particles of a volume, with poses: none, or one for each --volume in order", file="particles.h5",
                  repeatable=True)),
    settings=AlignMapsSettings, entry="protomer.jobs.align_maps")
