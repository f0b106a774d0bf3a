"""Columns of several tables one after the other, and what stands where a table has no such column."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from protomer.errors import InputError
from protomer.formats.cs_export import cs_fields
from protomer.subtraction.table import ORIGINAL
from protomer.tables.particles import Particles
from protomer.tables.shared_columns import SharedColumns

Table = Mapping[str, np.ndarray]
#: RELION 3.0 says in every row what 3.1 says of an optics group; a row that says its voltage makes an exported table one of 3.0
OLD_OPTICS = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnMagnification", "rlnDetectorPixelSize",
              "rlnImagePixelSize")
UNKNOWN_TEXT, UNKNOWN_NUMBER = b"None", b"0"  # in a STAR file: RELION's word for no text, and a number that no reader trips over


def joined_columns(parts: Sequence[Table]) -> Table:
    """Tables with the same columns, one after the other; what all of them hold once for each image stays so."""
    sharing = [part for part in parts if isinstance(part, SharedColumns)]
    return joined_table(parts, _joined_image_rows(sharing) if len(sharing) == len(parts) and all(part.shared for part in sharing) else None)


def joined_table(parts: Sequence[Table], image_row: np.ndarray | None) -> Table:
    """The same, where it is known which row of the joined tables of images each row belongs to; None: nothing is shared."""
    sharing = [part for part in parts if isinstance(part, SharedColumns)] if image_row is not None else []
    shared = [name for name in parts[0] if len(sharing) == len(parts) and all(name in part.shared for part in sharing)]
    own = {name: concatenated(name, [part[name] for part in parts]) for name in parts[0] if name not in shared}
    if image_row is None:
        return own
    return SharedColumns(own, {name: concatenated(name, [part.shared[name] for part in sharing]) for name in shared}, image_row)


def with_images_once(columns: Table, extra: Table) -> tuple[Table, Table]:
    """Columns and foreign columns in which an image that several parts held stands once, where all of them say the same of all images."""
    if not isinstance(columns, SharedColumns) or "image_uid" not in columns.shared:
        return columns, extra
    foreign = extra.shared if isinstance(extra, SharedColumns) else {}
    _, first, inverse = np.unique(columns.shared["image_uid"], return_index=True, return_inverse=True)
    inverse = inverse.reshape(-1)
    if len(first) == len(inverse) or not all(_same_bits(column, column[first][inverse])
                                             for column in (*columns.shared.values(), *foreign.values())):
        return columns, extra
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    image_row = place[inverse][columns.image_row].astype(np.int32)
    once = SharedColumns(columns.own, {name: column[first[order]] for name, column in columns.shared.items()}, image_row)
    if not isinstance(extra, SharedColumns):
        return once, extra
    return once, SharedColumns(extra.own, {name: column[first[order]] for name, column in foreign.items()}, image_row)


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two columns of one type are equal, NaN where the other is NaN."""
    if a.dtype.kind == "f":
        a, b = a.view(f"u{a.dtype.itemsize}"), b.view(f"u{b.dtype.itemsize}")
    return bool(np.array_equal(a, b))


def _joined_image_rows(parts: Sequence[SharedColumns]) -> np.ndarray:
    """image_row of tables whose tables of images stand one after the other."""
    sizes = [len(next(iter(part.shared.values()))) for part in parts]
    starts = np.cumsum([0, *sizes[:-1]])
    return np.concatenate([part.image_row + start for part, start in zip(parts, starts, strict=True)]).astype(np.int32)


def concatenated(name: str, parts: Sequence[np.ndarray]) -> np.ndarray:
    """Columns one after the other, in a type that loses nothing: texts where numbers and texts meet, or integers that no integer holds.

    Raises InputError where rows have other shapes.
    """
    if len({part.shape[1:] for part in parts}) > 1:
        shapes = " and ".join(str(shape) for shape in sorted({part.shape[1:] for part in parts}))
        raise InputError(f"the column {name} has rows of the shapes {shapes}", "rows of one shape in all sets",
                         "take the column out of one of the tables that were imported")
    kinds = {part.dtype.kind for part in parts}
    lossy = kinds <= {"i", "u"} and np.result_type(*parts).kind == "f"
    if len(kinds) > 1 and (kinds & {"S", "O"} or lossy):
        parts = [_as_texts(part) for part in parts]
    return np.concatenate(parts)


def _as_texts(column: np.ndarray) -> np.ndarray:
    """UTF-8 bytes of what a column says."""
    if column.dtype.kind == "O":
        return np.array([str(value).encode() for value in column.ravel().tolist()], "S").reshape(column.shape)
    return column if column.dtype.kind == "S" else column.astype("S")


def filled(tables: Sequence[Particles]) -> tuple[list[Table], dict[str, str]]:
    """Foreign columns of every table, all with the same names, in the order in which these appear; and the names of those that some table
    lacked, with what was put in their place."""
    tables = without_old_optics(tables)
    names = list(dict.fromkeys(name for table in tables for name in table.extra))
    said: dict[str, str] = {}
    parts: list[Table] = []
    for table in tables:
        missing = [name for name in names if name not in table.extra]
        own = _cs_fields_of(table) if any("/" in name or name == "uid" for name in missing) else {}
        new: dict[str, np.ndarray] = {}
        for name in missing:
            others = [other.extra[name] for other in tables if name in other.extra]
            known = own.get(name)
            if known is not None and all(known.shape[1:] == other.shape[1:] for other in others):
                new[name], said[name] = known.astype(others[0].dtype) if others[0].dtype.kind != "S" else known, "what the table says of it"
            else:
                value = unknown_value(name, others)
                dtype = f"S{max(len(value), 1)}" if isinstance(value, bytes) else others[0].dtype
                new[name], said[name] = np.full((len(table), *others[0].shape[1:]), value, dtype), _in_words(value)
        parts.append(_in_order(table.extra, new, names))
    return parts, said


def without_old_optics(tables: Sequence[Particles]) -> Sequence[Particles]:
    """The tables; where not all of them say in every row what their optics groups say, none does."""
    if all(("rlnVoltage" in table.extra and "rlnOpticsGroup" not in table.extra) for table in tables):
        return tables
    return [replace(table, extra=_without(table.extra, OLD_OPTICS)) for table in tables]


def _without(columns: Table, names: Sequence[str]) -> Table:
    if isinstance(columns, SharedColumns):
        return SharedColumns(dict(_without(columns.own, names)), dict(_without(columns.shared, names)), columns.image_row)
    return {name: column for name, column in columns.items() if name not in names}


def _in_order(extra: Table, new: Mapping[str, np.ndarray], names: Sequence[str]) -> Table:
    """Columns with the new ones among them, in the order of the names where nothing is shared."""
    if isinstance(extra, SharedColumns):
        return extra.replaced(new)
    together = {**extra, **new}
    return {name: together[name] for name in names}


def _cs_fields_of(table: Particles) -> Mapping[str, np.ndarray]:
    """What an export of the table to a .cs file would say of its rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # aberrations that .cs has no field for: an export says so
        return cs_fields("joined.cs", table)


def unknown_value(name: str, others: Sequence[np.ndarray]) -> Any:
    """What stands for nothing in a column that other tables have."""
    kind = others[0].dtype.kind
    if kind == "S":
        return b"" if name == ORIGINAL else UNKNOWN_NUMBER if all(_are_numbers(other) for other in others) else UNKNOWN_TEXT
    return {"O": "", "f": np.nan}.get(kind, 0)


def _are_numbers(column: np.ndarray) -> bool:
    try:
        column.astype(np.float64)
    except ValueError:
        return False
    return True


def _in_words(value: Any) -> str:
    return value.decode() or "nothing" if isinstance(value, bytes) else str(value) or "nothing"
