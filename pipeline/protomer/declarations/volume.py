"""volume: maps, their half maps and masks resampled, cut, filtered, turned, made noisy, or made from nothing."""

from __future__ import annotations

from dataclasses import dataclass

from protomer.config.settings import Input, Job, JobSettings, setting


@dataclass(frozen=True)
class VolumeSettings(JobSettings):
    """Settings of `volume`, in the order in which they act."""

    create: str | None = setting(None, "make a map instead of reading one: model (from --model, atoms of B-factor 60), sphere:DIAMETER, "
                                       "shell:OUTER,INNER diameters, ellipsoid:X,Y,Z diameters, all in Å, or noise; on the grid of "
                                       "--volume, or of box and voxel_size")
    box: int | None = setting(None, "box of what is created without --volume", unit="px", minimum=8)
    voxel_size: float | None = setting(None, "voxel size of what is created without --volume, or of the .mrc inputs; unset: as their "
                                             "header says", unit="A", minimum=0.01)
    model_origin: str | None = setting(None, "where --model lies. map: its coordinates as they are, as fitted into --volume in a viewer; "
                                             "box: the file's (0, 0, 0) in the box centre; mass: its centre of mass there, as simulate "
                                             "places models; unset: map with --volume, else mass", choices=("map", "box", "mass"))
    resample: float | None = setting(None, "new voxel size, by Fourier interpolation: centre on centre, the box as wide as before or a "
                                           "little less; detail finer than the new voxels show is cut off", unit="A", minimum=0.01)
    crop: int | None = setting(None, "cut to this box around the centre", unit="px", minimum=4)
    pad: int | None = setting(None, "extend to this box around the centre, with the grey of the faces", unit="px", minimum=4)
    low_pass: float | None = setting(None, "remove detail finer than this; a cosine edge of 2 shells", unit="A", minimum=0.1)
    high_pass: float | None = setting(None, "remove detail coarser than this; a cosine edge of 2 shells", unit="A", minimum=0.1)
    b_factor: float | None = setting(None, "multiply by exp(-B s^2 / 4): positive blurs, negative sharpens", unit="A2")
    flip_hand: bool = setting(False, "the mirror image, z -> -z")
    centre_on_mask: bool = setting(False, "move the centre of mass of --mask to the box centre, and everything with it")
    rotate: str | None = setting(None, "turn about the box centre: 'x,y,z,angle', right-handed about an axis, or 'rot,tilt,psi' as Z-Y-Z "
                                       "Euler angles; degrees")
    shift: str | None = setting(None, "then move by 'x,y,z', in Å")
    add_noise: float | None = setting(None, "white noise, its standard deviation in units of the map's own: 1 makes the signal-to-noise "
                                            "ratio of the box 1; other noise in each half map, their mean in the map", minimum=0.0)
    phase_randomise: float | None = setting(None, "keep amplitudes and draw phases anew from this resolution on, others for each half map",
                                            unit="A", minimum=0.1)
    scale: float | None = setting(None, "multiply grey values by this; -1 inverts the contrast")
    update_flipped_poses: bool = setting(False, "with flip_hand: mirror the poses of --particles too, which are refused otherwise")


JOB = Job(
    name="volume", summary="Resample, crop, pad, filter, turn, shift or make a map, its half maps, masks and poses",
    teaches="Does to a map what its settings say, in the order in which --help lists them: create, resample, crop, pad, low_pass, "
            "high_pass, b_factor, flip_hand, centre_on_mask, rotate, shift, add_noise, phase_randomise, scale. Turning and moving is one "
            "interpolation in Fourier space, however many of these settings are given. Of a volume.h5 the map, the sharpened map, both "
            "half maps and the masks go through the same, each by itself, and the FSC is measured anew where the half maps' shells "
            "changed; masks are moved, resampled, cut and extended, never filtered. A --mask that belongs to the map goes along, and a "
            "mask may be given alone, to bring it to another box. "
            "--particles are the images that made the map: their poses follow it (centre_on_mask, rotate, shift), their images are not "
            "touched. To go on with one part of a complex in the middle: --set centre_on_mask=true with the part's mask. "
            "A mirrored map has no rotation that leads back to it: poses follow a flip only with update_flipped_poses, since they are "
            "right for the mirrored map alone. "
            "Examples: protomer volume --volume consensus --set resample=2.62A --output binned. "
            "protomer volume --volume consensus --particles copies --mask one --set centre_on_mask=true --output centred. "
            "protomer volume --mask mask.mrc --set resample=2.1A --set pad=128 --output mask_128. "
            "protomer volume --set create=sphere:120 --set box=128 --set voxel_size=2A --set low_pass=20A --output decoy",
    inputs=(Input("volume", "the map: volume.h5 or a job folder (half maps and masks go along), or .mrc", file="volume.h5",
                  alternatives=(".mrc", ".map")),
            Input("model", "an atomic model to make a map from, PDB or mmCIF", file="model.cif", shipped=True,
                  alternatives=(".pdb", ".ent", ".cif.gz", ".pdb.gz", ".ent.gz")),
            Input("mask", "a mask in the map's frame, .mrc: it goes along, and says where centre_on_mask centres; alone: what is changed",
                  file="mask.mrc", alternatives=(".map",)),
            Input("particles", "particles whose poses belong to this map: the poses follow it", file="particles.h5")),
    settings=VolumeSettings, entry="protomer.jobs.volume")
