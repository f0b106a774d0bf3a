"""Columns of a table of which some are stored once for each image, however many symmetry copies of it there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False)
class SharedColumns(Mapping[str, np.ndarray]):
    """n rows: `own` columns (n, ...), and `shared` ones (m, ...), of which row r has the value at image_row[r]; no name in both.

    A shared column is made as long as the table when it is first asked for, and kept; what nobody asks for takes no room.
    """

    own: Mapping[str, np.ndarray]
    shared: Mapping[str, np.ndarray]
    image_row: np.ndarray  # (n,) integers
    _made: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def __getitem__(self, name: str) -> np.ndarray:
        if name in self.own:
            return self.own[name]
        if name not in self._made:
            self._made[name] = self.shared[name][self.image_row]
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in self.own or name in self.shared

    def __iter__(self) -> Iterator[str]:
        yield from self.own
        yield from self.shared

    def __len__(self) -> int:
        return len(self.own) + len(self.shared)

    def take(self, rows: np.ndarray) -> SharedColumns:
        """Some rows; images of which none is left are dropped."""
        used, image_row = np.unique(self.image_row[rows], return_inverse=True)
        return SharedColumns({name: column[rows] for name, column in self.own.items()},
                             {name: column[used] for name, column in self.shared.items()}, image_row.astype(self.image_row.dtype))

    def replaced(self, columns: Mapping[str, np.ndarray]) -> SharedColumns:
        """Some columns replaced, or added, as columns of their own."""
        kept = {name: column for name, column in self.shared.items() if name not in columns}
        return SharedColumns({**self.own, **columns}, kept, self.image_row)


def column_form(columns: Mapping[str, np.ndarray], name: str) -> tuple[np.dtype, tuple[int, ...]] | None:
    """Type and shape of a column as the whole table has it, or None where there is none of that name; nothing is made for it."""
    if isinstance(columns, SharedColumns) and name in columns.shared:
        column = columns.shared[name]
        return column.dtype, (len(columns.image_row), *column.shape[1:])
    return (columns[name].dtype, columns[name].shape) if name in columns else None


def taken(columns: Mapping[str, np.ndarray], rows: np.ndarray) -> Mapping[str, np.ndarray]:
    """Some rows of every column."""
    return columns.take(rows) if isinstance(columns, SharedColumns) else {name: column[rows] for name, column in columns.items()}


def replaced(columns: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Some columns replaced or added."""
    return columns.replaced(new) if isinstance(columns, SharedColumns) else {**columns, **new}
