"""Point groups as rotation matrices. A group's operators act on the left of a pose: the copies of R are g R.

A name alone is not a convention, so the setting of the axes is a second argument and the matrices are what is stored:

    relion (default)  Cn: n-fold on z. Dn: n-fold on z, 2-fold on x. T: 3-fold on z, a 2-fold at (0, sqrt(2/3), sqrt(1/3)).
                      O: 4-folds on x, y, z. I = I2: 2-folds on x, y, z and a 5-fold at (0.526, 0, 0.851). I1: I2 turned by
                      90 degrees about z. I3, I4: I2 turned about y by -31.72 and +31.72 degrees, which puts a 5-fold on z.
    cryosparc         as relion, but Dn has its 2-fold on y.
    scipy             as scipy.spatial.transform.Rotation.create_group: T with 2-folds on x, y, z; I = I1.

Each group is generated from its defining rotations by closure, so that no table of matrices has to be trusted.
"""

from __future__ import annotations

import difflib
import math
import re
from itertools import product

import numpy as np

from protomer.errors import SettingsError

AXES = ("relion", "cryosparc", "scipy")
GOLDEN = (1 + math.sqrt(5)) / 2
HIGHEST_ORDER = 100
Z = (0.0, 0.0, 1.0)


def rotation_about(axis: tuple[float, float, float] | np.ndarray, angle_rad: float) -> np.ndarray:
    """Right-handed rotation by an angle about an axis (x, y, z), any length but 0: (3, 3) float64, by Rodrigues' formula."""
    x, y, z = np.asarray(axis, float) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle_rad) * cross + (1 - math.cos(angle_rad)) * cross @ cross


def operators(group: str, axes: str = "relion") -> np.ndarray:
    """The rotations of a point group, (order, 3, 3) float64, the identity first, in an order that depends on the name alone.

    group: Cn, Dn (n up to 100), T, O, I, I1, I2, I3 or I4, in either case. axes: relion, cryosparc or scipy (above).
    Raises SettingsError for a name that is none of these, suggesting one that is.
    """
    if axes not in AXES:
        raise SettingsError(f"unknown convention of axes {axes!r}", f"one of {', '.join(AXES)}", _nearest(axes, AXES))
    name = canonical_name(group)
    if name[0] in "CD":
        return _cyclic_or_dihedral(name[0], int(name[1:]), axes)
    return _closure(_generators(name, axes))


def order_of(group: str) -> int:
    """How many rotations the group has. Raises SettingsError as `operators` does."""
    name = canonical_name(group)
    if name[0] in "CD":
        return int(name[1:]) * (2 if name[0] == "D" else 1)
    return {"T": 12, "O": 24, "I": 60}[name[0]]


def canonical_name(group: str) -> str:
    """The group's name as it is written (C4, D2, T, O, I, I3). Raises SettingsError where there is no such group."""
    name = str(group).strip().upper()
    match = re.fullmatch(r"([CD])0*([1-9][0-9]*)", name)
    if match and int(match[2]) <= HIGHEST_ORDER:
        return f"{match[1]}{int(match[2])}"
    if name in ("T", "O", "I", "I1", "I2", "I3", "I4"):
        return name
    legal = [f"{letter}{n}" for n in range(1, HIGHEST_ORDER + 1) for letter in "CD"] + ["T", "O", "I", "I1", "I2", "I3", "I4"]
    if name.startswith("HELI"):
        raise SettingsError(f"the point group {group!r}", "Cn, Dn, T, O or I: a helix is no point group",
                            "reconstruct and symmetry-expand take helical_twist, helical_rise and helical_order; symmetry-find finds them")
    remedy = f"choose an order from 1 to {HIGHEST_ORDER}, such as {name[0]}2" if re.fullmatch("[CD][0-9]*", name) else _nearest(name, legal)
    raise SettingsError(f"unknown point group {group!r}", f"C1 to C{HIGHEST_ORDER}, D1 to D{HIGHEST_ORDER}, T, O, I, I1, I2, I3 or I4",
                        remedy)


def _nearest(name: str, legal: tuple[str, ...] | list[str]) -> str:
    """A remedy that names the nearest legal choice, if any is near."""
    near = difflib.get_close_matches(name, legal, n=1, cutoff=0.4)
    return f"did you mean {near[0]!r}?" if near else f"choose one of them, such as {legal[0]!r}"


def _cyclic_or_dihedral(letter: str, n: int, axes: str) -> np.ndarray:
    """Cn, and for Dn the same followed by its products with the 2-fold."""
    cyclic = np.array([rotation_about(Z, 2 * math.pi * k / n) for k in range(n)])
    if letter == "C":
        return _cleaned(cyclic)
    across = rotation_about((0, 1, 0) if axes == "cryosparc" else (1, 0, 0), math.pi)
    return _cleaned(np.concatenate([cyclic, cyclic @ across]))


def _generators(name: str, axes: str) -> list[np.ndarray]:
    """Rotations that generate T, O or I in the setting asked for."""
    half_turn, third = math.pi, 2 * math.pi / 3
    if name == "O":
        return [rotation_about(Z, math.pi / 2), rotation_about((1, 1, 1), third)]
    if name == "T":
        if axes == "scipy":
            return [rotation_about(Z, half_turn), rotation_about((1, 1, 1), third)]
        return [rotation_about(Z, third), rotation_about((0, math.sqrt(2 / 3), math.sqrt(1 / 3)), half_turn)]
    if name == "I":
        name = "I1" if axes == "scipy" else "I2"
    base = [rotation_about(Z, half_turn), rotation_about((1, 0, GOLDEN), 2 * math.pi / 5)]
    turn = _from_i2(name)
    return [turn @ g @ turn.T for g in base]


def _from_i2(name: str) -> np.ndarray:
    """The rotation that takes the axes of I2 to those of I1, I2, I3 or I4."""
    tilt = math.atan2(1, GOLDEN)  # between z and the 5-fold (1, 0, golden): 31.72 degrees
    if name == "I1":
        return rotation_about(Z, math.pi / 2)
    if name == "I3":
        return rotation_about((0, 1, 0), -tilt)
    if name == "I4":
        return rotation_about((0, 1, 0), tilt)
    return np.eye(3)


def _closure(generators: list[np.ndarray]) -> np.ndarray:
    """All products of the generators, breadth first from the identity."""
    found = [np.eye(3)]
    i = 0
    while i < len(found):
        for generator in generators:
            candidate = _cleaned(found[i] @ generator)
            if all(np.abs(candidate - known).max() > 1e-6 for known in found):
                found.append(candidate)
        i += 1
        if len(found) > 60:
            raise AssertionError("the generators do not close on a point group")
    return np.array(found)


def _cleaned(matrices: np.ndarray) -> np.ndarray:
    """Entries within 1e-12 of 0, 1/2 or 1 (either sign) set to exactly that, so that simple operators are exact."""
    out = np.array(matrices)
    for value, sign in product((0.0, 0.5, 1.0), (1, -1)):
        out[np.abs(out - sign * value) < 1e-12] = sign * value
    return out + 0.0  # no negative zeros
