"""From two half maps to what a job leaves behind: mask by rule, FSC, filtered and sharpened map, files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from protomer.errors import InputError
from protomer.formats.hdf5 import write_map_record
from protomer.formats.mrc import write_volume
from protomer.maps.fsc_curves import FscSet, write_fsc_csv
from protomer.maps.mask_rule import mask_by_rule
from protomer.maps.non_uniform import NonUniform, find_cut_offs
from protomer.maps.resolution import measure_fsc
from protomer.maps.sharpening import GuinierFit, fit_guinier, fsc_weight, sharpened_map, soft_end
from protomer.maps.volumes import Halves, MapRecord, Volume
from protomer.running.job_run import JobRun
from protomer.tables.particles import Particles

GUINIER_FROM_A = 10.0
SHARED_BEYOND = 2.0  # shells
LARGE_MASK_EFFECT = 0.1  # FSC of randomised half maps in the mask, at the resolution, from which the mask is called too tight


@dataclass(frozen=True)
class Sharpened:
    """Measured and sharpened half maps: the record; the Guinier fit, None where too few shells allow none; the decay undone."""

    record: MapRecord
    fit: GuinierFit | None
    b_factor_A2: float


def measure_maps(
    half_maps: Halves[Volume],
    together: Volume,
    mask: Volume | None,
    mask_name: str,
    symmetry: str,
    b_factor_A2: float | None,
    job: JobRun,
    non_uniform: NonUniform | None = None,
) -> MapRecord:
    """FSC in the given mask, or in one made by rule before any FSC is read; filtered and sharpened map. Warns of what is amiss.

    With `non_uniform` these are filtered place by place, and cut_off.mrc says where to which resolution (Å).
    """
    chosen = choose_mask(half_maps, mask, mask_name, job)
    done = sharpen(half_maps, together, chosen, symmetry, b_factor_A2, GUINIER_FROM_A, job)
    if non_uniform is None:
        return done.record
    box, voxel_size_A = together.box, together.voxel_size_A
    cut_offs = find_cut_offs(half_maps.map(lambda half: half.data), box / 2, non_uniform)
    if job.team.is_first:
        with job.output.writing("cut_off.mrc") as path:
            write_volume(path, Volume(cut_offs.resolution_A(voxel_size_A), voxel_size_A))
    finest = max(cut_offs.finest_in(chosen[0].data), float(done.record.fsc.shell_at("corrected", 0.143)) if done.record.fsc else 0.0)
    weight = soft_end(box, finest)  # sharpening raises what a Butterworth filter leaves beyond its cut-off
    maps = (Volume(cut_offs.apply(sharpened_map(together, weight, undone).data), voxel_size_A) for undone in (0.0, done.b_factor_A2))
    filtered, sharpened = maps
    return replace(done.record, map=filtered, sharpened=sharpened)


def sharpen(
    half_maps: Halves[Volume],
    together: Volume | None,
    mask: tuple[Volume, str],
    symmetry: str,
    b_factor_A2: float | None,
    fit_from_A: float,
    job: JobRun,
) -> Sharpened:
    """FSC in the mask (with its name), and the map of both halves (None: their mean) weighted by it and sharpened by the B-factor, as
    given or fitted."""
    fsc = measure_fsc(half_maps, *mask, job.seed)
    mean = together or Volume((half_maps.a.data + half_maps.b.data) * np.float32(0.5), half_maps.a.voxel_size_A)
    weight, resolution_A = fsc_weight(fsc), fsc.resolution_A_at("corrected")
    fit = fit_guinier(mean, weight, fit_from_A, resolution_A) if np.isfinite(resolution_A) else None
    if b_factor_A2 is None and fit is None:
        job.events.warn(
            "no_b_factor",
            f"too few shells between {fit_from_A:g} Å and the resolution for a Guinier fit: the sharpened map is only filtered",
        )
    undone_A2 = b_factor_A2 if b_factor_A2 is not None else fit.b_factor_A2 if fit else 0.0
    filtered, sharpened = sharpened_map(mean, weight, 0.0), sharpened_map(mean, weight, undone_A2)
    return Sharpened(MapRecord(half_maps, filtered, sharpened, None, mask[0], fsc, symmetry, job.provenance), fit, undone_A2)


def choose_mask(half_maps: Halves[Volume], mask: Volume | None, name: str, job: JobRun) -> tuple[Volume, str]:
    """The mask that was given, or the one by rule; in either case before any FSC is read. Raises InputError for values outside 0..1."""
    if mask is None:
        made = mask_by_rule(half_maps)
        if not made.found_density:
            job.events.warn("no_density", "the rule for the mask found no density above the noise; the FSC is measured in a sphere")
        return made.mask, made.name
    require_mask_values(mask, name)
    if max(mask.data.take(face, axis).max() for axis in range(3) for face in (0, -1)) > 0.5:
        job.events.warn("mask_touches_box", "the mask reaches the faces of the box and is cut off there")
    return mask, name


def require_mask_values(mask: Volume, name: str) -> None:
    """Raise InputError for values outside 0..1, and where no voxel is inside."""
    lowest, highest = float(mask.data.min()), float(mask.data.max())
    if lowest == highest == 0.0:
        raise InputError(f"the mask {name} is 0 everywhere", "a mask that is 1 around density", "make it with `protomer mask`")
    if not (lowest >= -1e-3 and 0 < highest <= 1 + 1e-3):
        raise InputError(
            f"the mask {name} has values from {lowest:.3g} to {highest:.3g}", "values from 0 to 1", "make it with `protomer mask`"
        )


def warn_of_resolution(fsc: FscSet, mask: Volume | None, job: JobRun, start_A: float) -> None:
    """Warn where the FSC says nothing, no more than what both halves were given to begin with (start_A), or mostly what its mask is.

    What the halves share reaches further than start_A by a shell or two, and a mask of diameter d in a box of width w mixes w / d shells.
    """
    resolution_A, shell = fsc.resolution_A_at("corrected"), int(np.ceil(fsc.shell_at("corrected", 0.143)))
    width_A = fsc.box * fsc.voxel_size_A
    beyond = SHARED_BEYOND + (fsc.box / diameter_px(mask) if mask is not None else 0.0)
    if not np.isfinite(resolution_A):
        job.events.warn("no_resolution", "the half maps do not agree in any shell: no resolution can be given")
    elif np.isfinite(start_A) and width_A / resolution_A <= width_A / start_A + beyond:
        job.events.warn(
            "no_better_than_start",
            f"the half maps agree to {resolution_A:.1f} Å, no further than the {start_A:.1f} Å that they shared from the start "
            f"reaches into their neighbours in this mask ({width_A / (width_A / start_A + beyond):.1f} Å): this is what noise alone gives; "
            "do not believe the map",
        )
    if fsc.is_limited_by_nyquist("corrected"):
        job.events.warn(
            "limited_by_pixel_size",
            "the corrected FSC never falls below 0.143: the resolution is that of the pixels, or the half maps are not independent",
        )
    if fsc.randomised_from_shell < shell <= fsc.box // 2 and fsc.randomised[shell] > LARGE_MASK_EFFECT:
        job.events.warn(
            "tight_mask",
            f"the mask alone correlates the half maps by {fsc.randomised[shell]:.2f} at their resolution: a wider or softer mask is safer",
        )


def diameter_px(mask: Volume) -> float:
    """Of a sphere with the volume of the mask, in voxels."""
    return float(np.cbrt(max(float(mask.data.sum(dtype=np.float64)), 1.0) * 6.0 / np.pi))


def write_maps(record: MapRecord, job: JobRun, folder: str = "") -> None:
    """volume.h5, the .mrc copies and fsc.csv; folder: such as "class_1/"."""
    with job.output.writing(folder + "volume.h5") as path:
        write_map_record(path, record)
    copies = {
        "map.mrc": record.map,
        "map_sharpened.mrc": record.sharpened,
        "half_a.mrc": record.half_maps.a,
        "half_b.mrc": record.half_maps.b,
        "mask.mrc": record.fsc_mask,
    }
    for name, volume in copies.items():
        if volume is not None:
            with job.output.writing(folder + name) as path:
                write_volume(path, volume)
    if record.fsc is not None:
        with job.output.writing(folder + "fsc.csv") as path:
            write_fsc_csv(path, record.fsc)


def with_map(record: MapRecord, volume: Volume) -> MapRecord:
    """The same record with another filtered map."""
    return replace(record, map=volume)


def map_summary(particles: Particles, record: MapRecord) -> dict[str, Any]:
    """What summary.json says of every map that is made from particles, none of which is left out."""
    assert record.fsc is not None
    return {
        "particles_in": len(particles),
        "particles_out": len(particles),
        "images": len(np.unique(particles.image_uid)),
        "resolution_A": record.fsc.summary(),
        "mask": record.fsc.mask_name,
        "symmetry": record.symmetry,
    }
