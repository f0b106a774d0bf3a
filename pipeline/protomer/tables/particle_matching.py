"""Which rows of different particle tables are the same image, or the same copy of it; and how far their poses lie apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from protomer.tables.particles import Particles
from protomer.tables.shared_columns import SharedColumns
from protomer_kernels.rotations import quaternions_from_matrices


def is_of_copies(particles: Particles) -> bool:
    """Whether a table was symmetry-expanded, also where only copies 0 are left of it."""
    return particles.is_expanded or len(particles.operators) > 1


def row_keys(tables: Sequence[Particles], with_copy: bool) -> list[np.ndarray]:
    """int64 (n,) for every table: equal where the image (and the copy) is the same, in one table or in several."""
    parts = [table.by_image("image_uid")[0] for table in tables]
    _, inverse = np.unique(np.concatenate(parts), return_inverse=True)
    images = np.split(inverse.reshape(-1).astype(np.int64), np.cumsum([len(part) for part in parts])[:-1])
    keys = [_by_row(table, of_image) for table, of_image in zip(tables, images, strict=True)]
    if not with_copy:
        return keys
    copies = [table.columns["copy"].astype(np.int64) for table in tables]
    lowest = min((int(copy.min()) for copy in copies if len(copy)), default=0)
    span = max((int(copy.max()) for copy in copies if len(copy)), default=0) - lowest + 1
    return [key * span + copy - lowest for key, copy in zip(keys, copies, strict=True)]


def _by_row(table: Particles, of_image: np.ndarray) -> np.ndarray:
    """What belongs to image_uid as `by_image` gives it, for every row."""
    columns = table.columns
    return of_image[columns.image_row] if isinstance(columns, SharedColumns) and "image_uid" in columns.shared else of_image


def rows_of(wanted: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """int64 (n,): for each wanted key the first position where `keys` (m,) has it, -1 where it has not."""
    known, first = np.unique(keys, return_index=True)
    if not len(known):
        return np.full(len(wanted), -1, np.int64)
    place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[place] == wanted, first[place], -1)


def turns_rad(before: np.ndarray, after: np.ndarray, operators: np.ndarray) -> np.ndarray:
    """Angles (n,) between rotations (n, 4), from the mate g R of the one that is nearest to the other, operators g (g, 3, 3).

    Of unit quaternions a and b, the angle is 4 asin(|a -+ b| / 2), the sign that of the shorter chord: exact also for small angles.
    """
    nearest = np.full(len(before), np.inf)
    for x, y, z, w in quaternions_from_matrices(np.asarray(operators, np.float64)).tolist():
        left = np.array([[w, -z, y, x], [z, w, -x, y], [-y, x, w, z], [-x, -y, -z, w]])  # the quaternion product g q as a matrix on q
        mate = before @ left.T
        np.minimum(nearest, ((mate - after) ** 2).sum(axis=1), out=nearest)
        np.minimum(nearest, ((mate + after) ** 2).sum(axis=1), out=nearest)
    return np.asarray(4.0 * np.arcsin(np.minimum(np.sqrt(nearest) / 2.0, 1.0)))
