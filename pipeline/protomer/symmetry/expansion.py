"""Symmetry expansion: rows for all copies of every image, and back to one row for each.

Row i g + c of an expanded table is copy c of image i, g copies of each; copy 0 is the image as it was, bit for bit. Rotation, shift and
pose covariance are those of the copy (symmetry_copies.py); all else is the image's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from protomer.errors import InputError
from protomer.imaging.aberrations import magnification_of
from protomer.symmetry.operator_sets import OperatorSet
from protomer.tables.particles import COLUMNS, Particles
from protomer.tables.shared_columns import SharedColumns
from protomer_kernels.rotations import quaternions_from_matrices
from protomer_kernels.symmetry_copies import copy_covariances, copy_rotations, copy_shifts

ROWS_AT_ONCE = 400_000


def require_expandable(particles: Particles) -> None:
    """Raise InputError for a table without poses, or one with several rows of an image."""
    if not particles.has_poses:
        raise InputError("these particles have no poses", "particles with rotations and shifts", "refine them first")
    images = len(np.unique(particles.by_image("image_uid")[0]))
    if particles.is_expanded or images < len(particles):
        raise InputError(
            f"these particles are symmetry-expanded already: {len(particles)} rows of {images} images",
            "one row for each image",
            "expand their parent, with all operators at once (a helix and Cn or Dn may be given together), or take the expansion back with "
            "--undo",
        )


def own_columns(particles: Particles) -> tuple[str, ...]:
    """The columns in which copies of an image differ."""
    (covariance,) = particles.by_image("pose_covariance")
    return ("rotation", "shift_A", "copy", *(("pose_covariance",) if covariance.any() else ()))


def copies_in_blocks(particles: Particles, operators: OperatorSet) -> Iterator[dict[str, np.ndarray]]:
    """The own columns of all copies, block by block, in the order of the expanded table."""
    quaternions, names = quaternions_from_matrices(operators.rotations), own_columns(particles)
    quaternions[0] = 0, 0, 0, 1
    step, number = max(1, ROWS_AT_ONCE // len(operators)), len(operators)
    for start in range(0, len(particles), step):
        rotation, shift_A = (np.ascontiguousarray(particles.columns[n][start : start + step]) for n in ("rotation", "shift_A"))
        rotations, shifts_A = np.empty((len(rotation), number, 4)), np.empty((len(rotation), number, 2))
        copy_rotations(quaternions, rotation, rotations)
        copy_shifts(operators.translations_A, rotations, shift_A, shifts_A)
        magnification = magnification_of(particles.optics_groups, particles.columns["optics"][start : start + step])
        if magnification is not None:  # an image that is stretched by M shows a displacement d as M^T d
            shifts_A = shift_A[:, None] + (shifts_A - shift_A[:, None]) @ magnification
        block: dict[str, np.ndarray] = {"rotation": rotations.reshape(-1, 4), "shift_A": shifts_A.reshape(-1, 2),
                 "copy": np.tile(np.arange(number, dtype=np.int32), len(rotation))}
        if "pose_covariance" in names:
            parents = particles.columns["pose_covariance"][start : start + step]
            covariances = np.empty((len(rotation), number, 15), np.float32)
            copy_covariances(operators.rotations, operators.translations_A, rotations, parents, covariances)
            covariances[:, 0] = parents
            block["pose_covariance"] = covariances.reshape(-1, 15)
        yield block


def expanded(particles: Particles, operators: OperatorSet) -> Particles:
    """All copies in memory. Raises InputError as require_expandable."""
    require_expandable(particles)
    names, blocks = own_columns(particles), list(copies_in_blocks(particles, operators))
    own = {name: np.concatenate([block[name] for block in blocks]) for name in names}
    image_row = np.repeat(np.arange(len(particles), dtype=np.int32), len(operators))
    columns = SharedColumns(own, {name: particles.columns[name] for name in COLUMNS if name not in own}, image_row)
    return replace(particles, columns=columns, extra=SharedColumns({}, dict(particles.extra), image_row), operators=operators)


def one_row_per_image(particles: Particles, keep: str) -> np.ndarray:
    """Row numbers: of each image the copy with the highest log-likelihood (keep: best; the lowest copy where several have it) or the
    lowest copy (original), in the order in which the images first appear. Raises InputError where no row is a copy."""
    _, first, image = np.unique(particles.image_uid, return_index=True, return_inverse=True)
    if not particles.is_expanded and len(first) == len(particles):
        raise InputError("these particles are not symmetry-expanded", "rows that are copies of images", "use them as they are")
    likelihood = np.nan_to_num(particles.log_likelihood, nan=-np.inf) if keep == "best" else np.zeros(len(particles))
    appearance = first[image]
    order = np.lexsort((particles.copy, -likelihood, appearance))
    return np.asarray(order[np.flatnonzero(np.diff(appearance[order], prepend=-1))])


def no_longer_copies(particles: Particles, rows: np.ndarray) -> Particles:
    """The given rows, one for each image, as images of their own."""
    kept = particles.take(rows)
    columns = {name: kept.columns[name] for name in COLUMNS}
    extra = {name: kept.extra[name] for name in kept.extra}
    return replace(kept, columns={**columns, "copy": np.zeros(len(rows), np.int32)}, extra=extra, operators=OperatorSet.identity())


def axial_shifts_A(particles: Particles) -> np.ndarray:
    """|shift| (n,) along the projection of the map's z, the helical axis; 0 where the axis is seen end on."""
    x, y, z, w = particles.rotation.T
    axis = np.stack([2 * (x * z - y * w), 2 * (y * z + x * w)], axis=1)
    return np.asarray(np.abs((particles.shift_A * axis).sum(axis=1)) / np.maximum(np.linalg.norm(axis, axis=1), 1e-6))


def torn_filaments(particles: Particles) -> int:
    """How many filaments have segments in both half-sets; those whose micrograph or number is unknown do not count."""
    known = (particles.filament > 0) & (particles.half >= 0)
    halves: dict[tuple[str, int], set[int]] = {}
    for name, tube, half in zip(particles.micrograph[known].tolist(), particles.filament[known].tolist(), particles.half[known].tolist(),
                                strict=True):
        halves.setdefault((name, tube), set()).add(half)
    return sum(len(seen) > 1 for seen in halves.values())
