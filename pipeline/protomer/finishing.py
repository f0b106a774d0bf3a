"""From two half maps to what a job leaves behind: mask by rule, FSC, filtered and sharpened map, files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from protomer.formats.hdf5 import write_map_record
from protomer.formats.mrc import write_volume
from protomer.job_run import JobRun
from protomer.mask_rule import mask_by_rule
from protomer.resolution import FscSet, measure_fsc, write_fsc_csv
from protomer.sharpening import fit_guinier, fsc_weight, sharpened_map
from protomer.volumes import Halves, MapRecord, Volume

GUINIER_FROM_A = 10.0
SHARED_BEYOND = 2.0  # shells


def measure_maps(
    half_maps: Halves[Volume], mask: Volume | None, mask_name: str, symmetry: str, b_factor_A2: float | None, job: JobRun
) -> MapRecord:
    """FSC in the given mask, or in one made by rule before any FSC is read; filtered and sharpened map. Warns of what is amiss."""
    if mask is None:
        made = mask_by_rule(half_maps)
        mask, mask_name = made.mask, made.name
        if not made.found_density:
            job.events.warn("no_density", "the rule for the mask found no density above the noise; the FSC is measured in a sphere")
    fsc = measure_fsc(half_maps, mask, mask_name, job.seed)
    mean = Volume((half_maps.a.data + half_maps.b.data) * np.float32(0.5), half_maps.a.voxel_size_A)
    weight, resolution_A = fsc_weight(fsc), fsc.resolution_A_at("corrected")
    fit = fit_guinier(mean, weight, GUINIER_FROM_A, resolution_A) if np.isfinite(resolution_A) else None
    b_factor_A2 = b_factor_A2 if b_factor_A2 is not None else (fit.b_factor_A2 if fit else 0.0)
    return MapRecord(
        half_maps, sharpened_map(mean, weight, 0.0), sharpened_map(mean, weight, b_factor_A2), None, mask, fsc, symmetry, job.provenance
    )


def warn_of_resolution(fsc: FscSet, mask: Volume | None, job: JobRun, start_A: float) -> None:
    """Warn where the FSC says nothing, or no more than what both halves were given to begin with (start_A).

    What the halves share reaches further than start_A by a shell or two, and a mask of diameter d in a box of width w mixes w / d shells.
    """
    resolution_A = fsc.resolution_A_at("corrected")
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
        job.events.warn("limited_by_pixel_size", "the corrected FSC never falls below 0.143: the resolution is that of the pixels")


def diameter_px(mask: Volume) -> float:
    """Of a sphere with the volume of the mask, in voxels."""
    return float(np.cbrt(max(float(mask.data.sum(dtype=np.float64)), 1.0) * 6.0 / np.pi))


def write_maps(record: MapRecord, job: JobRun) -> None:
    """volume.h5, the .mrc copies and fsc.csv."""
    with job.output.writing("volume.h5") as path:
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
            with job.output.writing(name) as path:
                write_volume(path, volume)
    if record.fsc is not None:
        with job.output.writing("fsc.csv") as path:
            write_fsc_csv(path, record.fsc)


def with_map(record: MapRecord, volume: Volume) -> MapRecord:
    """The same record with another filtered map."""
    return replace(record, map=volume)
