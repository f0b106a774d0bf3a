"""Particles: a table with one row per (image, symmetry copy), and what stands beside it.

Units inside are angstrom, radians and volts; degrees, kilovolts, millimetres and pixels live in foreign files. `rotation` maps image
axes to map axes (k3D = R (kx, ky, 0)); `shift_A` is what is added to the image to centre the particle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from protomer.errors import InputError
from protomer.symmetry.operator_sets import OperatorSet
from protomer.tables.optics import OpticsGroup
from protomer.tables.shared_columns import SharedColumns, column_form, replaced, taken


@dataclass(frozen=True)
class Stack:
    """One file of images, as it was when it was imported. `box` and `number` are of the file; `digest` is a SHA-256 in hexadecimal."""

    path: str
    number: int
    box: int
    size_bytes: int
    mtime_ns: int
    digest: str


#: column -> (dtype, shape of one row, unit, description): the schema of the table and of particles.h5
COLUMNS: dict[str, tuple[str, tuple[int, ...], str, str]] = {
    "stack": ("i4", (), "", "index into the list of stacks"),
    "stack_index": ("i4", (), "", "image within the stack, from 0"),
    "image_uid": ("u8", (), "", "hash of stack digest and index; copies of one image share it"),
    "rotation": ("f8", (4,), "", "unit quaternion, scalar last: image axes to map axes"),
    "shift_A": ("f8", (2,), "angstrom", "x, y: added to the image to centre the particle"),
    "half": ("i1", (), "", "gold-standard half-set, 0 or 1"),
    "optics": ("i4", (), "", "index into the optics table"),
    "defocus_u_A": ("f8", (), "angstrom", "defocus along the first principal direction, underfocus positive"),
    "defocus_v_A": ("f8", (), "angstrom", "defocus along the second principal direction"),
    "defocus_angle_rad": ("f8", (), "radian", "angle of the first principal direction from image x"),
    "phase_shift_rad": ("f8", (), "radian", "phase shift of a phase plate"),
    "ctf_bfactor_A2": ("f8", (), "angstrom^2", "envelope: the CTF is multiplied by exp(-B s^2 / 4)"),
    "scale": ("f8", (), "", "grey scale of the image relative to the map"),
    "grey_offset": ("f8", (), "grey", "background mean of the raw image: prepared = grey_gain * (raw - grey_offset)"),
    "grey_gain": ("f8", (), "1/grey", "1 / background sd of the raw image; negative where contrast is inverted"),
    "class_number": ("i4", (), "", "class, from 1; 0 where none was given"),
    "class_posterior": ("f8", (), "", "posterior probability of the class"),
    "copy": ("i4", (), "", "symmetry copy, 0 is the original"),
    "pose_covariance": (
        "f4",
        (15,),
        "radian, angstrom",
        "lower triangle of the 5x5 covariance of (rotation about map x, y, z; shift x, y)",
    ),
    "pose_posterior": ("f8", (), "", "probability that the pose is right: within 10 degrees of the truth"),
    "log_likelihood": ("f8", (), "", "log-likelihood of the best pose"),
    "micrograph": ("O", (), "", "micrograph or tilt series, empty where unknown"),
    "filament": ("i4", (), "", "helical tube on its micrograph, 0 where none"),
    "coordinate_px": ("f8", (2,), "pixel", "x, y of the particle on its micrograph, NaN where unknown"),
}
DEFAULTS: dict[str, Any] = {
    "rotation": (0.0, 0.0, 0.0, 1.0),
    "scale": 1.0,
    "grey_gain": 1.0,
    "class_posterior": 1.0,
    "pose_posterior": 1.0,
    "micrograph": "",
    "coordinate_px": np.nan,
    "half": -1,
}


@dataclass(frozen=True)
class Particles:
    """n rows of COLUMNS (`columns`), and beside them optics groups, stacks, applied operators, foreign columns and provenance.

    In an expanded table columns and foreign columns may be SharedColumns: what copies of an image have in common is then held once.
    """

    columns: Mapping[str, np.ndarray]
    optics_groups: tuple[OpticsGroup, ...]
    stacks: tuple[Stack, ...]
    has_poses: bool = False
    operators: OperatorSet = field(default_factory=OperatorSet.identity)  # what made the copies: copy c is operator c of them
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)  # foreign columns, (n,) each, under their foreign names
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, (dtype, shape, _, _) in COLUMNS.items():
            form = column_form(self.columns, name)
            if form != (np.dtype(dtype), (len(self), *shape)):
                raise ValueError(f"column {name}: expected {dtype} of shape {(len(self), *shape)}, found {form}")
        require_copies_in_one_half(*self.by_image("image_uid", "half"))

    def __len__(self) -> int:
        form = column_form(self.columns, "stack")
        return form[1][0] if form is not None else 0

    def __getattr__(self, name: str) -> np.ndarray:
        if name in COLUMNS:
            return self.columns[name]
        raise AttributeError(name)

    @property
    def is_expanded(self) -> bool:
        """Whether any row is a symmetry copy."""
        (copy,) = self.by_image("copy")
        return bool(np.any(copy > 0))

    def by_image(self, *names: str) -> tuple[np.ndarray, ...]:
        """Columns of the same length that hold every combination of their values: one row per image where copies share them all."""
        if isinstance(self.columns, SharedColumns) and all(name in self.columns.shared for name in names):
            return tuple(self.columns.shared[name] for name in names)
        return tuple(self.columns[name] for name in names)

    def at(self, name: str, rows: np.ndarray) -> np.ndarray:
        """A column at some rows, without making a shared column as long as the table."""
        columns = self.columns
        if isinstance(columns, SharedColumns) and name in columns.shared:
            return np.asarray(columns.shared[name][columns.image_row[rows]])
        return np.asarray(columns[name][rows])

    def pictures(self, rows: np.ndarray) -> np.ndarray:
        """Which picture in which stack some rows show, as one integer for each: int64 (n,)."""
        return (self.at("stack", rows).astype(np.int64) << 32) | self.at("stack_index", rows)

    def take(self, rows: np.ndarray) -> Particles:
        """The given rows, in the given order."""
        return replace(self, columns=taken(self.columns, rows), extra=taken(self.extra, rows))

    def with_columns(self, **columns: np.ndarray) -> Particles:
        """The same particles with some columns replaced (cast to the schema's dtype)."""
        new = {name: np.asarray(column, COLUMNS[name][0]) for name, column in columns.items()}
        return replace(self, columns=replaced(self.columns, new))


def empty_columns(n: int, *names: str) -> dict[str, np.ndarray]:
    """n rows of every column of COLUMNS, or of some, at its default."""
    table = {}
    for name in names or COLUMNS:
        dtype, shape, _, _ = COLUMNS[name]
        table[name] = np.zeros((n, *shape), dtype)
        if name in DEFAULTS:
            table[name][...] = DEFAULTS[name]
    return table


def require_copies_in_one_half(image_uid: np.ndarray, half: np.ndarray) -> None:
    """Raise InputError where copies of one image lie in different half-sets."""
    _, inverse = np.unique(image_uid, return_inverse=True)
    groups = int(inverse.max()) + 1 if len(inverse) else 0
    lowest, highest = np.full(groups, 127), np.full(groups, -128)
    np.minimum.at(lowest, inverse, half)
    np.maximum.at(highest, inverse, half)
    torn = int((lowest != highest).sum())
    if torn:
        raise InputError(
            f"{torn} images have copies in both half-sets",
            "all copies of an image in one half-set",
            "import the particles again, or re-split them by image; their FSC would not be gold standard",
        )
