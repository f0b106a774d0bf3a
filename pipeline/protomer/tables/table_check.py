"""What a particle table must not hold: rows that say the same twice or nothing, pixel sizes that quarrel, numbers of no microscope."""

from __future__ import annotations

import numpy as np

from protomer.errors import InputError
from protomer.tables.particles import COLUMNS, Particles

VOLTAGE_KV, CS_MM, USUAL_DEFOCUS_A = (1.0, 5000.0), (-50.0, 50.0), (50.0, 200_000.0)
SAME_ROTATION = 1e-6  # of a quaternion's components: about 0.0001 degrees
SAME_SHIFT_A = 1e-3
PIXEL_TOLERANCE = 1e-3
_MAY_BE_NAN = ("coordinate_px",)


def duplicates(particles: Particles) -> np.ndarray:
    """bool (n,): rows that repeat an earlier row's image and pose (or its image, where there are no poses)."""
    keys = [particles.image_uid.astype(np.uint64)[:, None].view(np.int64)]
    if particles.has_poses:
        first = np.argmax(np.abs(particles.rotation) > 0.4999, axis=1)  # some component is at least 1/2: its sign fixes the quaternion's
        sign = np.sign(np.take_along_axis(particles.rotation, first[:, None], axis=1))
        for values in (particles.rotation * sign / SAME_ROTATION, particles.shift_A / SAME_SHIFT_A):
            keys.append(np.rint(np.nan_to_num(values)).astype(np.int64))
    _, first_row = np.unique(np.concatenate(keys, axis=1), axis=0, return_index=True)
    repeated = np.ones(len(particles), bool)
    repeated[first_row] = False
    return repeated


def not_finite(particles: Particles) -> np.ndarray:
    """bool (n,): rows with a NaN or infinite number in a column that must have one."""
    bad = np.zeros(len(particles), bool)
    for name, (dtype, shape, _, _) in COLUMNS.items():
        if dtype.startswith("f") and name not in _MAY_BE_NAN:
            finite = np.isfinite(particles.columns[name])
            bad |= ~(finite.all(axis=1) if shape else finite)
    return bad


def zero_defocus(particles: Particles) -> np.ndarray:
    """bool (n,): rows whose two defoci are both exactly 0, which no microscope gives and empty columns do."""
    return np.asarray((particles.defocus_u_A == 0) & (particles.defocus_v_A == 0))


def numbered_copies(particles: Particles) -> Particles:
    """The same rows, `copy` counting the appearances of each image where a table repeats images without saying that they are copies."""
    if particles.is_expanded or len(np.unique(particles.image_uid)) == len(particles):
        return particles
    order = np.argsort(particles.image_uid, kind="stable")
    starts = np.flatnonzero(np.diff(particles.image_uid[order].view(np.int64), prepend=0) != 0)
    starts = np.unique(np.concatenate([[0], starts]))
    copy = np.zeros(len(particles), np.int32)
    copy[order] = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    return particles.with_columns(copy=copy)


def pixel_size_notes(particles: Particles, table_pixel_sizes_A: np.ndarray, header_pixel_sizes_A: np.ndarray) -> list[str]:
    """What to say about pixel sizes: table (per optics group) against stack headers (per stack, 0: silent), and between the groups."""
    notes = []
    stack, first = np.unique(particles.stack, return_index=True)
    said = table_pixel_sizes_A[particles.optics[first]]
    header = header_pixel_sizes_A[stack]
    differing = np.flatnonzero((header > 0) & ~np.isclose(header, said, rtol=PIXEL_TOLERANCE))
    if len(differing):
        i = int(differing[0])
        notes.append(f"the headers of {len(differing)} stacks say another pixel size than the table: {particles.stacks[stack[i]].path} "
                     f"says {header[i]:.5g} Å; {said[i]:.5g} Å is used (if that is wrong, give --set pixel_size=...)")
    if len(table_pixel_sizes_A) and np.ptp(table_pixel_sizes_A) > PIXEL_TOLERANCE * table_pixel_sizes_A.min():
        notes.append(f"the optics groups have pixel sizes from {table_pixel_sizes_A.min():.5g} to {table_pixel_sizes_A.max():.5g} Å; "
                     "that is legal, each group keeps its own")
    return notes


def image_name(table: Particles, row: int) -> str:
    """N@stack of a row."""
    return f"{int(table.stack_index[row]) + 1}@{table.stacks[int(table.stack[row])].path}"


def require_possible_optics(particles: Particles) -> None:
    """Raise InputError where an optics group in use has numbers that no microscope has, such as a voltage in volts where kV are meant."""
    for group in (particles.optics_groups[i] for i in np.unique(particles.optics)):
        found = {"voltage": (group.voltage_V / 1e3, *VOLTAGE_KV, "kV"),
                 "spherical aberration": (group.spherical_aberration_A / 1e7, *CS_MM, "mm"),
                 "amplitude contrast": (group.amplitude_contrast, 0.0, 1.0, "(10 % is 0.1)")}
        for name, (value, least, greatest, unit) in found.items():
            if not least <= value <= greatest:
                raise InputError(f"optics group {group.name} has the {name} {value:.10g}", f"{least:g} to {greatest:g} {unit}",
                                 "correct the optics of the table")


def defocus_note(particles: Particles) -> str:
    """What to say of defoci that look like another unit than Å; nothing where they do not."""
    mean_A = 0.5 * np.abs(particles.defocus_u_A + particles.defocus_v_A)
    median_A = float(np.median(mean_A[mean_A > 0])) if (mean_A > 0).any() else 0.0
    if median_A == 0.0 or USUAL_DEFOCUS_A[0] <= median_A <= USUAL_DEFOCUS_A[1]:
        return ""
    return f"the median defocus is {median_A:.3g} Å: is the table's in Å, as it must be?"
