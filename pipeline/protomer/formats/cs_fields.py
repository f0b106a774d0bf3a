"""cryoSPARC's fields and ours: ours = factor * theirs + offset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from protomer.errors import InputError

_KINDS = {"i": "whole numbers", "u": "whole numbers without sign", "f": "numbers", "S": "texts"}


@dataclass(frozen=True)
class FieldNumber:
    """A field that holds one number per particle, the column it fills, and the type it is written in."""

    field: str
    column: str
    offset: int = 0
    dtype: str = "<f4"

    def ours(self, theirs: np.ndarray) -> np.ndarray:
        """Our values (n,) from the field's."""
        return theirs.astype(np.float64 if self.dtype == "<f4" else np.int64) + self.offset

    def theirs(self, ours: np.ndarray) -> np.ndarray:
        """The field's values (n,) from ours; what lies below its zero (unknown) is 0."""
        values = ours - self.offset
        return (values if self.dtype == "<f4" else np.maximum(values, 0)).astype(self.dtype)


NUMBERS = (
    FieldNumber("ctf/df1_A", "defocus_u_A"),
    FieldNumber("ctf/df2_A", "defocus_v_A"),
    FieldNumber("ctf/df_angle_rad", "defocus_angle_rad"),
    FieldNumber("ctf/phase_shift_rad", "phase_shift_rad"),
    FieldNumber("ctf/scale", "scale"),
    FieldNumber("ctf/bfactor", "ctf_bfactor_A2"),
    FieldNumber("alignments3D/split", "half", 0, "<u4"),
    FieldNumber("alignments3D/class", "class_number", 1, "<u4"),
    FieldNumber("alignments3D/class_posterior", "class_posterior"),
    FieldNumber("sym_expand/idx", "copy", 0, "<u4"),
)


#: field -> (kinds of NumPy type it may have, shape of one row); those of NUMBERS are single numbers
FORMS: dict[str, tuple[str, tuple[int, ...]]] = {
    "uid": ("iu", ()), "blob/path": ("S", ()), "blob/idx": ("iu", ()), "blob/shape": ("iu", (2,)), "blob/psize_A": ("iuf", ()),
    "blob/sign": ("iuf", ()), "ctf/exp_group_id": ("iu", ()), "ctf/accel_kv": ("iuf", ()), "ctf/cs_mm": ("iuf", ()),
    "ctf/amp_contrast": ("iuf", ()), "ctf/tilt_A": ("iuf", (2,)), "ctf/shift_A": ("iuf", (2,)), "ctf/trefoil_A": ("iuf", (2,)),
    "ctf/tetra_A": ("iuf", (4,)), "ctf/anisomag": ("iuf", (4,)), "alignments3D/pose": ("iuf", (3,)), "alignments3D/shift": ("iuf", (2,)),
    "alignments3D/psize_A": ("iuf", ()), "location/micrograph_path": ("S", ()), "location/center_x_frac": ("iuf", ()),
    "location/center_y_frac": ("iuf", ()), "location/micrograph_shape": ("iuf", (2,)), "sym_expand/src_uid": ("iu", ()),
    **{number.field: ("iuf" if number.dtype == "<f4" else "iu", ()) for number in NUMBERS}}
_LARGEST = {"alignments3D/split": 1}
_WHOLE_AND_SMALL = ("blob/idx", "blob/shape", "ctf/exp_group_id", *(number.field for number in NUMBERS if number.dtype == "<u4"))


def require_forms(path: object, fields: Mapping[str, np.ndarray]) -> None:
    """Raise InputError where a field that is used has another type or shape than cryoSPARC's, or values that no such field can have."""
    for name, (kinds, shape) in FORMS.items():
        if name not in fields:
            continue
        column = fields[name]
        if column.dtype.kind not in kinds or column.shape[1:] != shape:
            raise InputError(f"{path}: the field {name} holds {column.dtype} of shape {column.shape[1:]} per particle",
                             f"{' or '.join(_KINDS[kind] for kind in kinds)}, shape {shape}", "export the particles from cryoSPARC again")
        if name in _WHOLE_AND_SMALL and len(column) and not 0 <= int(column.min()) <= int(column.max()) <= _LARGEST.get(name, 2**31 - 1):
            raise InputError(f"{path}: the field {name} goes from {column.min()} to {column.max()}",
                             f"numbers from 0 to {_LARGEST.get(name, 2**31 - 1)}", "export the particles from cryoSPARC again")
    if "alignments3D/pose" in fields and "alignments3D/shift" not in fields:
        raise InputError(f"{path} has alignments3D/pose and no alignments3D/shift", "both, or neither",
                         "give the job's passthrough file too (--passthrough), or export the particles again")


def stack_name(path: bytes) -> str:
    """A blob path as a file name; the `>` that marks a file inside the project is dropped."""
    return path.decode("utf-8", "surrogateescape").removeprefix(">")


def micrograph_names(paths: np.ndarray) -> list[str]:
    """Micrograph paths as texts, without `>`."""
    return [stack_name(value) for value in paths.tolist()]


def rotation_from_poses(poses: np.ndarray) -> np.ndarray:
    """Quaternions (n, 4), scalar last, from rotation vectors (n, 3) in radians."""
    from scipy.spatial.transform import Rotation

    return np.asarray(Rotation.from_rotvec(poses.astype(np.float64)).as_quat()) if len(poses) else np.zeros((0, 4))


def poses_from_rotation(rotation: np.ndarray) -> np.ndarray:
    """Rotation vectors (n, 3) float32 in radians from quaternions (n, 4)."""
    from scipy.spatial.transform import Rotation

    return np.asarray(Rotation.from_quat(rotation).as_rotvec(), np.float32) if len(rotation) else np.zeros((0, 3), np.float32)


def particle_coordinates(fields: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """x, y (n, 2) in pixels of the micrograph, y from its top, or None where the file is silent."""
    names = ("location/center_x_frac", "location/center_y_frac", "location/micrograph_shape")
    if not all(name in fields for name in names):
        return None
    x, y, shape = (fields[name].astype(np.float64) for name in names)
    return np.stack([x * shape[:, 1], (1.0 - y) * shape[:, 0]], axis=1)
