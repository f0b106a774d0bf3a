"""RELION STAR particle tables, versions 3.0 (one table), 3.1 and 5 (optics and particles), to Particles.

Every column of the file is kept as text in `extra` (and every optics column in the group's `extra`), so that `write_star_particles` gives
back, to the letter, what nobody changed. A pixel size given by the caller stands for the file's: origins in pixels are taken in it, and
origins in angstrom are scaled with it, since it is the pixels that the images really have.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from protomer.errors import InputError, naming
from protomer.formats import star_columns as tags
from protomer.formats.stack_paths import StackSearch, common_box, open_stacks, require_inside
from protomer.formats.star_export import write_star_particles
from protomer.formats.star_text import Columns, as_column, numbers, read_blocks, whole_numbers
from protomer.tables.image_uids import common_identity, image_uids
from protomer.tables.optics import OpticsGroup
from protomer.tables.particles import Particles, empty_columns

__all__ = ["read_star_particles", "write_star_particles"]

_PER_PARTICLE_OPTICS = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnDetectorPixelSize", "rlnMagnification",
                        "rlnImagePixelSize", "rlnPixelSize", "rlnImageSize", "rlnBeamTiltX", "rlnBeamTiltY")
_WITHOUT_CTF = {"rlnVoltage": b"300.0", "rlnSphericalAberration": b"2.7", "rlnAmplitudeContrast": b"0.1"}


def read_star_particles(path: str | os.PathLike[str], pixel_size_A: float | None = None, project_folder: Path | None = None,
                        require_stacks: bool = True, keep_halves: bool = True) -> Particles:
    """Read a particle table and find its stacks (beside the table, in its parent folders, in the working folder).

    pixel_size_A overrides the file's. require_stacks=False keeps rows whose stacks do not exist (their box is then the table's).
    keep_halves=False leaves half-sets undrawn, even where the table has them (and perhaps tears copies apart).
    Raises InputError for what cannot be read, stacks that do not exist and rows past the end of a stack. Warns where something is odd.
    """
    path = Path(path)
    blocks = read_blocks(path)
    table = _particle_block(path, blocks)
    n = len(next(iter(table.values())))
    search = StackSearch(path, project_folder, require_stacks)
    columns = empty_columns(n)
    names, columns["stack"][:], columns["stack_index"][:] = _image_names(path, table["rlnImageName"])
    stacks = open_stacks(names, search)
    require_inside(stacks, columns["stack"], columns["stack_index"], path)
    columns["image_uid"][:] = image_uids(stacks, columns["stack"], columns["stack_index"])
    if tags.SOURCE in table:
        columns["image_uid"][:] = common_identity(columns["image_uid"], table[tags.SOURCE])
    rows, columns["optics"][:] = _optics_rows(path, blocks, table)
    groups = []
    for i, row in enumerate(rows):
        if require_stacks:
            _require_plain_images(path, row)
        used = np.unique(columns["stack"][columns["optics"] == i])
        name = row.get("rlnOpticsGroupName", f"opticsGroup{i + 1}".encode()).decode()
        box = common_box(stacks, used, _announced_box(path, row), name)
        with naming(path):
            groups.append(_group(path, name, row, box, pixel_size_A, "rlnDefocusU" in table))
    _fill_numbers(path, table, columns)
    if not keep_halves:
        columns["half"][:] = -1
    has_poses = _fill_poses(path, table, columns, groups, rows)
    with naming(path):
        return Particles(columns, tuple(groups), stacks, has_poses, extra=dict(table), provenance={"source": os.path.abspath(path)})


def _particle_block(path: Path, blocks: dict[str, Columns]) -> Columns:
    """The one block that lists particles."""
    lists = {name: block for name, block in blocks.items() if "rlnImageName" in block}
    if "particles" in lists:
        lists = {"particles": lists["particles"]}
    if len(lists) != 1:
        raise InputError(f"{path} has {len(lists)} tables with rlnImageName (blocks: {', '.join(map(repr, blocks)) or 'none'})",
                         "one table of particles with the column rlnImageName", "give a STAR file of particles")
    return next(iter(lists.values()))


def _image_names(path: Path, column: np.ndarray) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Stack names in order of appearance, and for each row the stack's number and the image's index from 0."""
    order: dict[bytes, int] = {}
    stack, index = np.zeros(len(column), np.int64), np.zeros(len(column), np.int64)
    for row, value in enumerate(column.tolist()):
        number, separator, name = value.partition(b"@")
        if not separator:
            number, name = b"1", value  # a name alone means a file of one image
        if not number.isdigit() or int(number) < 1 or int(number) > 2**31 - 1 or not name:
            raise InputError(f"{path}: rlnImageName of row {row + 1} is {value.decode('utf-8', 'replace')!r}", "N@stack with N from 1",
                             "correct the table")
        stack[row], index[row] = order.setdefault(name, len(order)), int(number) - 1
    return [name.decode("utf-8", "surrogateescape") for name in order], stack, index


def _optics_rows(path: Path, blocks: dict[str, Columns], table: Columns) -> tuple[list[dict[str, bytes]], np.ndarray]:
    """One row of texts per optics group, and each particle's index among them."""
    n = len(table["rlnImageName"])
    if "optics" not in blocks:
        own = [tag for tag in _PER_PARTICLE_OPTICS if tag in table] + [t for t in ("rlnOpticsGroup",) if t in table]
        if not own:
            return [{}], np.zeros(n, np.int64)
        stacked = np.array([b"\t".join(values) for values in zip(*(table[tag].tolist() for tag in own), strict=True)], "S")
        _, first, inverse = np.unique(stacked, return_index=True, return_inverse=True)
        return [{tag: bytes(table[tag][i]) for tag in own} for i in first], inverse
    optics = blocks["optics"]
    count = len(next(iter(optics.values()), ()))
    listed = whole_numbers(path, "rlnOpticsGroup", optics.get("rlnOpticsGroup", as_column([str(i + 1) for i in range(count)]))).tolist()
    wanted = whole_numbers(path, "rlnOpticsGroup", table["rlnOpticsGroup"]).tolist() if "rlnOpticsGroup" in table else listed[:1] * n
    position = {number: i for i, number in enumerate(listed)}
    unknown = sorted(set(wanted) - set(position))
    if unknown or len(position) < count or (n and not count):
        raise InputError(f"{path}: optics groups {unknown or listed}", f"those of data_optics, each once: {sorted(position)}",
                         "repair the optics table")
    rows = [{tag: bytes(column[i]) for tag, column in optics.items()} for i in range(count)]
    return rows, np.array([position[w] for w in wanted], int)


def _require_plain_images(path: Path, row: dict[str, bytes]) -> None:
    if (_number(path, row, "rlnImageDimensionality") or 2) != 2 or _number(path, row, "rlnCtfDataAreCtfPremultiplied"):
        raise InputError(f"{path}: images of {row.get('rlnImageDimensionality', b'2').decode()} dimensions, CTF-premultiplied: "
                         f"{row.get('rlnCtfDataAreCtfPremultiplied', b'0').decode()}", "two-dimensional images as they were recorded",
                         "extract plain two-dimensional particles; subtomograms and premultiplied images are not read")


def _announced_box(path: Path, row: dict[str, bytes]) -> int:
    return int(whole_numbers(path, "rlnImageSize", np.array([row["rlnImageSize"]]))[0]) if "rlnImageSize" in row else 0


def _number(path: Path, row: dict[str, bytes], tag: str) -> float | None:
    return float(numbers(path, tag, np.array([row[tag]]))[0]) if tag in row else None


def file_pixel_size(path: Path, row: dict[str, bytes]) -> float | None:
    """Å per pixel that a row of the optics says: directly, or as detector pixel (µm) over magnification; None where it is silent."""
    direct = _number(path, row, "rlnImagePixelSize")
    detector, magnification = _number(path, row, "rlnDetectorPixelSize"), _number(path, row, "rlnMagnification")
    if direct is None and detector is not None and magnification:
        return detector * 1e4 / magnification
    return direct if direct is not None else _number(path, row, "rlnPixelSize")


def _group(path: Path, name: str, row: dict[str, bytes], box: int, pixel_size_A: float | None, has_ctf: bool) -> OpticsGroup:
    pixel = pixel_size_A if pixel_size_A is not None else file_pixel_size(path, row)
    if pixel is None or not 0 < pixel < np.inf:
        raise InputError(f"{path}: optics group {name} has {'no pixel size' if pixel is None else f'pixel size {pixel}'}",
                         "a pixel size above 0 Å", "give it with --set pixel_size=1.31A")
    given = dict(row)
    for tag, text in _WITHOUT_CTF.items():
        if tag not in row and not has_ctf:
            warnings.warn(f"{path}: no {tag} and no defocus: {tag} is taken to be {text.decode()}", stacklevel=4)
            given[tag] = text
        elif tag not in row and tag == "rlnAmplitudeContrast":
            warnings.warn(f"{path}: no {tag}: 0.1 is taken", stacklevel=4)
            given[tag] = text
        elif tag not in row:
            raise InputError(f"{path}: optics group {name} has a defocus but no {tag}", f"{tag} in the optics table",
                             "add it: the CTF cannot be computed without it")
    values = {n.tag: n.factor * (_number(path, given, n.tag) or 0.0) for n in tags.OPTICS_NUMBERS if n.tag in given}
    extra: dict[str, Any] = {tag: text.decode("utf-8", "replace") for tag, text in row.items()}
    magnification = tuple(values.get(f"rlnMagMat{ij}", 1.0 if ij in ("00", "11") else 0.0) for ij in ("00", "01", "10", "11"))
    zernike = {ours: _coefficients(path, tag, row[tag]) if tag in row else () for tag, ours in tags.ZERNIKES.items()}
    return OpticsGroup(name, values["rlnVoltage"], values["rlnSphericalAberration"], values["rlnAmplitudeContrast"], float(pixel), box,
                       (values.get("rlnBeamTiltX", 0.0), values.get("rlnBeamTiltY", 0.0)), zernike["odd_zernike"], zernike["even_zernike"],
                       (magnification[0], magnification[1], magnification[2], magnification[3]), extra)


def _coefficients(path: Path, tag: str, text: bytes) -> tuple[float, ...]:
    try:
        found = tags.split_zernike(text.decode())
    except ValueError:
        found = (np.nan,)
    if not np.isfinite(found).all():
        raise InputError(f"{path}: {tag} is {text.decode('utf-8', 'replace')!r}", "coefficients as in [0.1,0,-0.2]",
                         "correct the optics table")
    return found


def _fill_numbers(path: Path, table: Columns, columns: dict[str, np.ndarray]) -> None:
    """Numbers of each row in our units. Raises InputError for one defocus without the other, and for what is no number."""
    defoci = {tag for tag in ("rlnDefocusU", "rlnDefocusV") if tag in table}
    if len(defoci) == 1:
        raise InputError(f"{path} has {defoci.pop()} and not the other defocus", "both rlnDefocusU and rlnDefocusV, or neither",
                         "check how the columns are spelt; where there is no astigmatism both have the same values")
    for number in tags.NUMBERS:
        if number.tag in table:
            read = whole_numbers if number.is_integer else numbers
            values, column = number.ours(read(path, number.tag, table[number.tag])), number.of(columns)
            if number.is_integer and (values != values.astype(column.dtype)).any():
                raise InputError(f"{path}: {number.tag} goes from {values.min() - number.offset:g} to {values.max() - number.offset:g}",
                                 "1 or 2" if number.column == "half" else "small whole numbers", "correct the table")
            column[...] = values
    if "rlnMicrographName" in table:
        columns["micrograph"][:] = [v.decode("utf-8", "replace") for v in table["rlnMicrographName"].tolist()]
    if (columns["ctf_bfactor_A2"] < 0).any():
        warnings.warn(f"{path}: rlnCtfBfactor is negative in {int((columns['ctf_bfactor_A2'] < 0).sum())} rows; as RELION reads it, "
                      "exp(-B s^2 / 4), that amplifies high frequencies", stacklevel=3)


def _fill_poses(path: Path, table: Columns, columns: dict[str, np.ndarray], groups: list[OpticsGroup],
                rows: list[dict[str, bytes]]) -> bool:
    """Rotations and shifts where the table has them; whether it has poses (all three angles, not all zero)."""
    for pair in (tags.ORIGINS_A, tags.ORIGINS_PX):
        if len(set(pair) & set(table)) == 1:
            raise InputError(f"{path} has {' and '.join(set(pair) & set(table))} alone", f"both {' and '.join(pair)}, or neither",
                             "add the other column")
    if tags.ORIGINS_A[0] in table:
        shift = np.stack([numbers(path, tag, table[tag]) for tag in tags.ORIGINS_A], axis=1)
        said = [file_pixel_size(path, row) or group.pixel_size_A for row, group in zip(rows, groups, strict=True)]
        columns["shift_A"][:] = shift * np.array([g.pixel_size_A / s for g, s in zip(groups, said, strict=True)])[columns["optics"], None]
    elif tags.ORIGINS_PX[0] in table:
        shift = np.stack([numbers(path, tag, table[tag]) for tag in tags.ORIGINS_PX], axis=1)
        columns["shift_A"][:] = shift * np.array([g.pixel_size_A for g in groups])[columns["optics"], None]
    if not all(tag in table for tag in tags.ANGLES):
        return False
    angles = np.stack([numbers(path, tag, table[tag]) for tag in tags.ANGLES], axis=1)
    if not angles.any():
        return False
    columns["rotation"][:] = tags.rotation_from_angles(angles)
    return True
