"""The text of STAR files: blocks of columns of unparsed values, so that what is not understood comes back as it was."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from protomer.errors import InputError
from protomer.running.output import writing_atomically

#: tag without its underscore -> (n,) bytes, UTF-8, unquoted
Columns = dict[str, np.ndarray]


def read_blocks(path: str | os.PathLike[str]) -> dict[str, Columns]:
    """All blocks of a STAR file by name (`data_particles` is "particles", `data_` is ""). Raises InputError where it is no STAR file."""
    from gemmi import cif

    try:
        document = cif.read_file(os.fspath(path))
        return {block.name.strip(): _columns(path, block) for block in document}
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} cannot be read as STAR: {error}", "a readable STAR file", "check the path and the file") from error


def _columns(path: str | os.PathLike[str], block: Any) -> Columns:
    """The columns of one block, of loops and single values alike."""
    from gemmi import cif

    columns: Columns = {}
    for item in block:
        if item.loop is not None:
            width, values = item.loop.width(), item.loop.values
            for i, tag in enumerate(item.loop.tags):
                columns[tag.lstrip("_")] = _as_bytes([cif.as_string(v) for v in values[i::width]])
        elif item.pair is not None:
            columns[item.pair[0].lstrip("_")] = _as_bytes([cif.as_string(item.pair[1])])
    _require_even(path, block.name, columns)
    return columns


def write_blocks(path: str | os.PathLike[str], blocks: Mapping[str, Columns]) -> None:
    """Write blocks of columns as loops, atomically. Raises StorageError where the disk refuses."""
    with writing_atomically(Path(path)) as temporary, open(temporary, "w", encoding="utf-8") as handle:
        version = "# version 30001\n\n" if "optics" in blocks else ""
        for name, columns in blocks.items():
            handle.write(f"\n{version}data_{name}\n\nloop_\n")
            handle.writelines(f"_{tag} #{i + 1}\n" for i, tag in enumerate(columns))
            texts = [_padded(column) for column in columns.values()]
            handle.writelines(" ".join(row) + "\n" for row in zip(*texts, strict=True))
            handle.write("\n")


def numbers(path: str | os.PathLike[str], tag: str, column: np.ndarray) -> np.ndarray:
    """A column as float64. Raises InputError where a value is no number."""
    try:
        return column.astype(np.float64)
    except ValueError:
        bad = next(i for i, value in enumerate(column) if not _is_number(value))
        raise InputError(f"{path}: {tag} of row {bad + 1} is {column[bad].decode('utf-8', 'replace')!r}", "a number",
                         "correct the table") from None


def whole_numbers(path: str | os.PathLike[str], tag: str, column: np.ndarray) -> np.ndarray:
    """A column as int64. Raises InputError where a value is no whole number, or one of more than 31 bits."""
    values = numbers(path, tag, column)
    bad = np.flatnonzero(~(np.abs(values) < 2**31) | (values != np.rint(values)))
    if len(bad):
        raise InputError(f"{path}: {tag} of row {bad[0] + 1} is {column[bad[0]].decode('utf-8', 'replace')!r}", "a whole number",
                         "correct the table")
    return values.astype(np.int64)


def as_column(texts: Sequence[str]) -> np.ndarray:
    """Texts as a column of bytes."""
    return _as_bytes(texts)


def _as_bytes(texts: Sequence[str]) -> np.ndarray:
    return np.array([text.encode() for text in texts], "S") if len(texts) else np.zeros(0, "S1")


def _is_number(value: bytes) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _require_even(path: str | os.PathLike[str], name: str, columns: Columns) -> None:
    lengths = {len(column) for column in columns.values()}
    if len(lengths) > 1:
        raise InputError(f"{path}: the block data_{name} has columns of {sorted(lengths)} values", "one table per block",
                         "split the block, or repair the file")


def _padded(column: np.ndarray) -> list[str]:
    """Texts ready to be written: quoted where they must be, right-aligned to one width."""
    texts = [_quoted(value.decode()) for value in column.tolist()]
    width = max((len(text) for text in texts), default=0)
    return [text.rjust(width) for text in texts]


def _quoted(text: str) -> str:
    is_one_word = bool(text) and not any(c.isspace() for c in text)
    if is_one_word and text[0] not in "_#$'\"];" and not text.lower().startswith(("data_", "loop_", "save_")):
        return text  # a list of coefficients, [a,b,c], stands unquoted in RELION's files
    return f'"{text}"' if '"' not in text else f"'{text}'"
