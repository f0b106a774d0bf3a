"""The FSC curves between a pair of half maps, and the file that holds them."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from protomer.errors import InputError

CURVES = ("unmasked", "spherical", "masked", "randomised", "corrected")


@dataclass(frozen=True)
class FscSet:
    """All curves between one pair of half maps, (box // 2 + 1,) float64 each, shell 0 first (its resolution is infinite).

    randomised_from_shell: the first shell with random phases; box // 2 + 1 where the unmasked curve never fell below 0.8, so that nothing
    was randomised and `randomised` and `corrected` equal `masked`.
    """

    shell: np.ndarray
    resolution_A: np.ndarray
    unmasked: np.ndarray
    spherical: np.ndarray
    masked: np.ndarray
    randomised: np.ndarray
    corrected: np.ndarray
    mask_name: str
    randomised_from_shell: int
    box: int
    voxel_size_A: float

    def __post_init__(self) -> None:
        lengths = {len(getattr(self, name)) for name in ("shell", "resolution_A", *CURVES)}
        if lengths != {self.box // 2 + 1}:
            raise ValueError(f"expected curves of {self.box // 2 + 1} shells for box {self.box}, found {sorted(lengths)}")

    def curve(self, name: str) -> np.ndarray:
        """One curve by its name, one of CURVES."""
        if name not in CURVES:
            raise ValueError(f"no FSC curve is called {name!r}; there are {', '.join(CURVES)}")
        return np.asarray(getattr(self, name))

    def shell_at(self, curve_name: str, threshold: float) -> float:
        """Where the curve first falls below the threshold, in shells, linear between them; 0 if at once, box // 2 if never."""
        return first_crossing(self.curve(curve_name), threshold)

    def resolution_A_at(self, curve_name: str, threshold: float = 0.143) -> float:
        """The same in angstrom: infinity if the first shell is already below, the resolution of the last shell if none is."""
        shell = self.shell_at(curve_name, threshold)
        return self.box * self.voxel_size_A / shell if shell > 0 else float("inf")

    def is_limited_by_nyquist(self, curve_name: str, threshold: float = 0.143) -> bool:
        """Whether the curve stays at or above the threshold to its last shell, so that the sampling and not the data is the limit."""
        return self.shell_at(curve_name, threshold) == self.box // 2

    def describe(self, curve_name: str, threshold: float = 0.143) -> str:
        """The resolution as a person should read it, with its limit said."""
        value = self.resolution_A_at(curve_name, threshold)
        if not np.isfinite(value):
            return f"not reached (FSC below {threshold:g} from the first shell)"
        limit = " (limited by the pixel size, not by the data)" if self.is_limited_by_nyquist(curve_name, threshold) else ""
        return f"{value:.2f} Å{limit}"

    def summary(self, threshold: float = 0.143) -> dict[str, object]:
        """What summary.json says of resolution: angstrom per curve (None where not reached), mask, and which curves end at Nyquist."""
        names = ("unmasked", "spherical", "masked", "corrected")
        values = {name: self.resolution_A_at(name, threshold) for name in names}
        limited = [name for name in names if self.is_limited_by_nyquist(name, threshold)]
        return {**{name: round(value, 4) if np.isfinite(value) else None for name, value in values.items()},
                "threshold": threshold, "mask": self.mask_name, "limited_by_pixel_size": limited}


def first_crossing(curve: np.ndarray, threshold: float) -> float:
    """Shell (linear between shells) at which a curve first falls below a threshold; 0 if shell 1 is below, the last shell if none is."""
    below = np.flatnonzero(~(curve[1:] >= threshold)) + 1
    if not len(below):
        return float(len(curve) - 1)
    first = int(below[0])
    if first == 1:
        return 0.0
    before, after = float(curve[first - 1]), float(curve[first])
    return first - 1 + (before - threshold) / (before - after)


def write_fsc_csv(path: Path, fsc: FscSet) -> None:
    """Write all curves with their frequencies; the facts about them stand in `# name: JSON` lines before the header."""
    facts = {name: getattr(fsc, name) for name in ("mask_name", "randomised_from_shell", "box", "voxel_size_A")}
    with open(path, "w", newline="", encoding="utf-8") as file:
        file.writelines(f"# {name}: {json.dumps(value)}\n" for name, value in facts.items())
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["shell", "frequency_per_A", "resolution_A", *CURVES])
        for i in range(len(fsc.shell)):
            frequency = int(fsc.shell[i]) / (fsc.box * fsc.voxel_size_A)
            writer.writerow([int(fsc.shell[i]), frequency, float(fsc.resolution_A[i]), *[float(fsc.curve(name)[i]) for name in CURVES]])


def read_fsc_csv(path: Path) -> FscSet:
    """Read what `write_fsc_csv` wrote, to the last bit. Raises InputError for a file that is not of this form."""
    facts: dict[str, Any] = {}
    lines = []
    with open(path, newline="", encoding="utf-8") as file:
        for line in file:
            if line.startswith("#"):
                name, _, value = line[1:].partition(":")
                facts[name.strip()] = json.loads(value)
            else:
                lines.append(line)
    rows = list(csv.DictReader(lines))
    try:
        columns: dict[str, Any] = {name: np.array([float(row[name]) for row in rows]) for name in ("shell", "resolution_A", *CURVES)}
        return FscSet(**{**columns, "shell": columns["shell"].astype(int)}, **facts)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} cannot be read as FSC curves: {error}", "an fsc.csv that Protomer wrote",
                         "give the fsc.csv of a job folder") from error
