"""cryoSPARC particles (.cs) to Particles.

Rotation vectors are SciPy's (image axes to map axes); shifts are in pixels of alignments3D/psize_A, which need not be blob/psize_A;
split and class count from 0 there; blob/sign = -1 marks dark particles, which a negative grey gain turns white. Every field is kept in
`extra`. Coordinates: fractions of the micrograph, the second from the bottom. A pixel size given by the caller stands for blob/psize_A
and scales the shifts.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np

from protomer.errors import InputError, naming
from protomer.formats.cs_aberrations import CsAberrations
from protomer.formats.cs_export import write_cs_particles
from protomer.formats.cs_fields import NUMBERS, micrograph_names, particle_coordinates, require_forms, rotation_from_poses, stack_name
from protomer.formats.cs_table import Fields, join, read_fields
from protomer.formats.stack_paths import StackSearch, common_box, open_stacks, require_inside
from protomer.tables.image_uids import common_identity, image_uids
from protomer.tables.optics import OpticsGroup
from protomer.tables.particles import Particles, empty_columns

__all__ = ["read_cs_particles", "write_cs_particles"]

_REQUIRED = ("uid", "blob/path", "blob/idx", "blob/psize_A")
_OPTICS = ("ctf/exp_group_id", "ctf/accel_kv", "ctf/cs_mm", "ctf/amp_contrast", "blob/psize_A", "blob/shape", "ctf/tilt_A",
           "ctf/trefoil_A", "ctf/tetra_A", "ctf/anisomag")
_ABERRATIONS = {"ctf/tilt_A": 2, "ctf/trefoil_A": 2, "ctf/tetra_A": 4}


def read_cs_particles(path: str | os.PathLike[str], passthrough: str | os.PathLike[str] | None = None, pixel_size_A: float | None = None,
                      project_folder: Path | None = None, require_stacks: bool = True, keep_halves: bool = True) -> Particles:
    """Read particles, with their passthrough file if given, and find their stacks (see `read_star_particles` for where and the rest).

    Raises InputError for what cannot be read, missing fields, uids that do not match, stacks that do not exist, rows past a stack's end.
    """
    path = Path(path)
    fields = read_fields(path)
    if passthrough is not None:
        fields = join(fields, read_fields(passthrough), path, Path(passthrough))
    require_forms(path, fields)
    n = len(next(iter(fields.values())))
    missing = [name for name in _REQUIRED if name not in fields]
    if missing and n:
        raise InputError(f"{path}{'' if passthrough is None else ' with its passthrough file'} has no {', '.join(missing)}",
                         "particles with their images", "give the job's passthrough file too (--passthrough)")
    columns = empty_columns(n)
    names = [stack_name(v) for v in fields.get("blob/path", np.zeros(n, "S1")).tolist()]
    distinct = list(dict.fromkeys(names))
    position = {name: i for i, name in enumerate(distinct)}
    columns["stack"][:] = [position[name] for name in names]
    columns["stack_index"][:] = fields.get("blob/idx", 0)
    stacks = open_stacks(distinct, StackSearch(path, project_folder, require_stacks))
    require_inside(stacks, columns["stack"], columns["stack_index"], path)
    columns["image_uid"][:] = image_uids(stacks, columns["stack"], columns["stack_index"])
    if "sym_expand/src_uid" in fields:
        columns["image_uid"][:] = common_identity(columns["image_uid"], fields["sym_expand/src_uid"])
    rows, columns["optics"][:] = _optics_rows(fields, n)
    groups = []
    for i, row in enumerate(rows):
        used = np.unique(columns["stack"][columns["optics"] == i])
        box = common_box(stacks, used, int(fields["blob/shape"][row][0]) if "blob/shape" in fields else 0, str(i + 1))
        with naming(path):
            groups.append(_group(path, fields, row, i, box, pixel_size_A))
    _fill(path, fields, columns)
    if not keep_halves:
        columns["half"][:] = -1
    has_poses = "alignments3D/pose" in fields
    if has_poses:
        columns["rotation"][:] = rotation_from_poses(fields["alignments3D/pose"])
        scale = pixel_size_A / fields["blob/psize_A"].astype(np.float64) if pixel_size_A else np.ones(n)
        columns["shift_A"][:] = fields["alignments3D/shift"].astype(np.float64) * (_align_pixel(fields) * scale)[:, None]
    try:
        return Particles(columns, tuple(groups), stacks, has_poses, extra=dict(fields), provenance={"source": os.path.abspath(path)})
    except InputError as error:
        raise error.within(path) from error


def _align_pixel(fields: Fields) -> np.ndarray:
    """Å per pixel in which the shifts are given."""
    return fields["alignments3D/psize_A" if "alignments3D/psize_A" in fields else "blob/psize_A"].astype(np.float64)


def _optics_rows(fields: Fields, n: int) -> tuple[list[int], np.ndarray]:
    """The first particle of each group of equal optics, in the order of the exposure groups, and each particle's group."""
    keys = [fields[name].reshape(n, -1).astype(np.float64) for name in _OPTICS if name in fields]
    if n == 0 or not keys:
        return [], np.zeros(n, np.int64)
    _, first, inverse = np.unique(np.concatenate(keys, axis=1), axis=0, return_index=True, return_inverse=True)
    return [int(i) for i in first], inverse.reshape(-1)


def _group(path: Path, fields: Fields, row: int, index: int, box: int, pixel_size_A: float | None) -> OpticsGroup:
    for name in ("ctf/accel_kv", "ctf/cs_mm", "ctf/amp_contrast"):
        if name not in fields:
            raise InputError(f"{path} has no {name}", "particles with a CTF", "give the job's passthrough file too (--passthrough)")
    exposure = int(fields["ctf/exp_group_id"][row]) if "ctf/exp_group_id" in fields else index
    pixel = float(fields["blob/psize_A"][row]) if pixel_size_A is None else pixel_size_A
    if not pixel > 0:
        raise InputError(f"{path}: blob/psize_A is {pixel}", "a pixel size above 0 Å", "give it with --set pixel_size=1.31A")
    aberration_A = float(fields["ctf/cs_mm"][row]) * 1e7
    voltage_V, magnification = float(fields["ctf/accel_kv"][row]) * 1e3, (1.0, 0.0, 0.0, 1.0)
    tilt, odd, even = CsAberrations(*_lengths(path, fields, row)).ours(voltage_V, aberration_A)
    if any((*tilt, *odd, *even)):
        warnings.warn(f"{path}: tilt, trefoil and tetrafoil are applied with factors and signs that cryoSPARC does not document; if the "
                      "map gets worse at high resolution, refine them with another program and import its STAR file", stacklevel=3)
    if "ctf/anisomag" in fields and fields["ctf/anisomag"][row].any():
        a, b, c, d = (float(v) for v in fields["ctf/anisomag"][row])
        magnification = (1.0 + a, b, c, 1.0 + d)
        warnings.warn(f"{path}: ctf/anisomag is taken as what the magnification matrix adds to the identity; not verified", stacklevel=3)
    name = f"exp_group_{exposure}" if index == 0 else f"exp_group_{exposure}_{index + 1}"
    return OpticsGroup(name, voltage_V, aberration_A, float(fields["ctf/amp_contrast"][row]), pixel, box, tilt, odd, even, magnification,
                       {"ctf/exp_group_id": exposure})


def _lengths(path: Path, fields: Fields, row: int) -> list[tuple[float, ...]]:
    """ctf/tilt_A, trefoil_A and tetra_A of one particle, zeros where the file has none. Raises InputError."""
    found = []
    for name, count in _ABERRATIONS.items():
        values = fields[name][row].ravel() if name in fields else np.zeros(count)
        if len(values) != count:
            raise InputError(f"{path}: {name} has {len(values)} numbers for each particle", f"{count}", "export the file again")
        found.append(tuple(float(value) for value in values))
    return found


def _fill(path: Path, fields: Fields, columns: dict[str, np.ndarray]) -> None:
    for number in NUMBERS:
        if number.field in fields:
            columns[number.column][:] = number.ours(fields[number.field])
    if "blob/sign" in fields:
        columns["grey_gain"][:] = np.where(fields["blob/sign"] < 0, -1.0, 1.0)
    if "location/micrograph_path" in fields:
        columns["micrograph"][:] = micrograph_names(fields["location/micrograph_path"])
    coordinates = particle_coordinates(fields)
    if coordinates is not None:
        columns["coordinate_px"][:] = coordinates
    if "ctf/shift_A" in fields and fields["ctf/shift_A"].any():
        warnings.warn(f"{path}: ctf/shift_A is not zero; it is kept for export but not applied: a refinement finds it among the shifts",
                      stacklevel=3)
