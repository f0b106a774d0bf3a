"""Operators of point groups, helices and their products as one thing: x -> g x + t, in the frame of the map.

(1) A map that an operator leaves as it is looks from the pose (R, shift) as it does from the copy (CONVENTIONS: rotated by g, then moved)
        R' = g R,    shift' = shift + (R'^T t)_xy
(2) Helix along z, twist and rise per subunit, right-handed twist positive, rise > 0: copy n has g = Rz(n twist) and t = n rise z. Its
    copies are n = 0, -1, +1, -2, +2, ...; of an even number the last is negative: the set that relion_particle_symmetry_expand --helix
    gives, whose copy n is our -n.
(3) Product with Cn, or with Dn, whose 2-folds turn the helix upside down: every operator of the group, moved by every one of the helix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from protomer.errors import SettingsError
from protomer.symmetry.point_groups import Z, canonical_name, operators, rotation_about

MOST_COPIES = 1000


@dataclass(frozen=True, eq=False)
class OperatorSet:
    """g operators, the identity first. rotations (g, 3, 3) float64; translations_A (g, 3) float64 [x, y, z], along z but for those of a
    map that was moved off its axes. Raises ValueError."""

    name: str
    rotations: np.ndarray
    translations_A: np.ndarray

    def __post_init__(self) -> None:
        number = len(self.rotations)
        if number == 0 or self.rotations.shape != (number, 3, 3) or self.translations_A.shape != (number, 3):
            raise ValueError(f"operators of the shapes {self.rotations.shape} and {self.translations_A.shape}, not (g, 3, 3) and (g, 3)")
        if not (np.isfinite(self.rotations).all() and np.isfinite(self.translations_A).all()):
            raise ValueError("operators are no rotation matrices")

    def __len__(self) -> int:
        return len(self.rotations)

    @classmethod
    def identity(cls) -> OperatorSet:
        """No symmetry."""
        return cls.rotating(np.eye(3)[None], "C1")

    @classmethod
    def rotating(cls, rotations: np.ndarray, name: str = "") -> OperatorSet:
        """Rotations (g, 3, 3) about the box centre."""
        return cls(name, np.asarray(rotations, np.float64), np.zeros((len(rotations), 3)))

    @classmethod
    def of_group(cls, group: str, axes: str = "relion") -> OperatorSet:
        """A point group in one of the settings of point_groups.py. Raises SettingsError."""
        return cls.rotating(operators(group, axes), canonical_name(group))

    def mirrored(self) -> OperatorSet:
        """The operators of the map mirrored along z; a helix changes its hand."""
        mirror = np.diag([1.0, 1.0, -1.0])
        return OperatorSet(self.name and f"{self.name}, mirrored", mirror @ self.rotations @ mirror, self.translations_A @ mirror)

    def moved(self, rotation: np.ndarray, shift_A: np.ndarray) -> OperatorSet:
        """The operators of the map moved by x' = Q x + d: g' = Q g Q^T, t' = Q t + d - g' d, Q (3, 3) and d (3,)."""
        turned = rotation @ self.rotations @ rotation.T
        moved_A = self.translations_A @ rotation.T + shift_A - turned @ shift_A
        turned[0], moved_A[0] = np.eye(3), 0.0  # without rounding: copy 0 is the image itself
        name = self.name if self.name.endswith("moved") or not self.name else f"{self.name}, moved"
        return OperatorSet(name, turned, moved_A)


@dataclass(frozen=True)
class Helix:
    """Twist (rad, right-handed positive) and rise (Å) from one subunit to the next along z, and how many copies are made (order)."""

    twist_rad: float
    rise_A: float
    order: int

    @property
    def numbers(self) -> np.ndarray:
        """n of eq. (2), (order,) int64: 0, -1, 1, -2, 2, ..."""
        steps = np.arange(self.order)
        return np.where(steps % 2 == 1, -(steps + 1) // 2, steps // 2)

    def describe(self) -> str:
        """In words, with degrees."""
        return f"helix of {math.degrees(self.twist_rad):g}° and {self.rise_A:g} Å, {self.order} copies"


class HelicalSettings(Protocol):
    """Settings that say a helix: unset, or all three."""

    @property
    def helical_twist(self) -> float | None:
        """Degrees."""

    @property
    def helical_rise(self) -> float | None:
        """Å."""

    @property
    def helical_order(self) -> int | None:
        """Copies."""


def helix_of(settings: HelicalSettings) -> Helix | None:
    """The helix that settings ask for, or None where all three are unset. Raises SettingsError where it is none, or only half said."""
    said = {name: getattr(settings, name) for name in ("helical_twist", "helical_rise", "helical_order")}
    if all(value is None for value in said.values()):
        return None
    missing = [name for name, value in said.items() if value is None]
    if missing:
        given = ", ".join(f"{name}={value:g}" for name, value in said.items() if value is not None)
        raise SettingsError(f"a helix with {given} and no {' and no '.join(missing)}",
                            "helical_twist (deg), helical_rise (Å) and helical_order (copies) together",
                            f"add {' '.join(f'--set {name}=...' for name in missing)}, or leave all three out")
    if not said["helical_rise"] > 0:
        raise SettingsError(f"helical_rise = {said['helical_rise']:g} Å", "a rise above 0; the sign of helical_twist says the hand",
                            "give the rise as a positive number, and a left-handed helix a negative twist")
    if not 1 <= said["helical_order"] <= MOST_COPIES:
        raise SettingsError(f"helical_order = {said['helical_order']}", f"from 1 to {MOST_COPIES} copies of every image",
                            "give the number of subunits by which neighbouring images are apart along the helix, such as 5")
    return Helix(math.radians(said["helical_twist"]), said["helical_rise"], said["helical_order"])


def helical_operators(helix: Helix, group: OperatorSet | None = None) -> OperatorSet:
    """Eq. (2), and with a group eq. (3). Raises SettingsError for a group that no helix along z can have."""
    group = group or OperatorSet.identity()
    along = np.abs(group.rotations[:, 2, 2])
    if np.abs(along - 1).max() > 1e-9:
        raise SettingsError(f"a helix with the point group {group.name}", "Cn, or Dn: groups that leave the helical axis, z, where it is",
                            "give --symmetry C1, Cn or Dn")
    turns = np.array([rotation_about(Z, n * helix.twist_rad) for n in helix.numbers])
    rotations = np.einsum("nij,gjk->ngik", turns, group.rotations).reshape(-1, 3, 3)
    name = helix.describe() if len(group) == 1 else f"{group.name} times {helix.describe()}"
    return OperatorSet(name, rotations, np.repeat(helix.numbers * helix.rise_A, len(group))[:, None] * np.array(Z))


def operators_of(group: str, axes: str, settings: HelicalSettings) -> OperatorSet:
    """The operators of --symmetry, --axes and the helical settings together. Raises SettingsError."""
    points, helix = OperatorSet.of_group(group, axes), helix_of(settings)
    return points if helix is None else helical_operators(helix, points)
