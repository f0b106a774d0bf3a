"""Where the axes of a named group lie in a map: every direction is tried, then the best are fitted.

1. The group's highest rotation axis alone (Cn): every direction on a half-sphere, in steps of a quarter of the finest wave at the
   particle's radius, and for each a lattice of places of the axis about the centre of mass; the score is the mean correlation between
   mates (self_correlation.py).
2. The best directions that are apart are fitted (axis_fit.py) in the same coarse band.
3. Dn, T, O, I: about each of them the whole group is turned, and moved along the axis; the best are fitted.
4. The best few are fitted in bands that widen to the finest wave; of equals the one that turns the map least is taken.

What a group leaves undetermined stays as it was: a Cn map is neither turned about nor moved along its axis, and for other groups the
turn is the smallest that puts the same axes in place.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.spatial.transform import Rotation

from protomer.maps.rigid_motion import RigidMotion
from protomer.symmetry.axis_fit import COARSE_WAVES, AxisFit, kept_directions, march
from protomer.symmetry.point_groups import operators as point_group
from protomer.symmetry.point_groups import rotation_about
from protomer.symmetry.self_correlation import LOWEST_SHELL, MapSpectrum, Orbits, orbits

STEP_WAVES = 0.25  # of the scan, in finest waves at the particle's radius
SHIFT_RADII = 0.35  # places of the axis that are tried about the centre of mass, in particle radii
SCAN_POINTS = 1200
DIRECTIONS_AT_ONCE = 50
KEPT_DIRECTIONS, KEPT_TURNS, KEPT_FITS = 6, 4, 3
EQUAL = 0.02  # correlations that differ by less are equally good


def find_axes(spectrum: MapSpectrum, operators: np.ndarray, max_angle_deg: float = 180.0, max_shift_A: float = np.inf) -> AxisFit:
    """The motion that best puts a map onto the axes of a group, among all turns up to an angle and shifts up to a length.

    operators: (g, 3, 3), identity first. Raises ValueError for C1, and where no motion within those limits is left.
    """
    fits = coarse_fits(spectrum, operators, max_angle_deg)
    allowed = [fit for fit in fits if fit.motion.angle_deg <= max_angle_deg and fit.motion.distance_A <= max_shift_A]
    if not allowed:
        raise ValueError(f"no axes within {max_angle_deg:.0f} degrees and {max_shift_A:.0f} Å of where the map is")
    return fine_fit(spectrum, operators, allowed)


def coarse_fits(spectrum: MapSpectrum, operators: np.ndarray, max_angle_deg: float = 180.0) -> list[AxisFit]:
    """The best places of the axes in the coarse band, fitted, best first: steps 1 to 3."""
    _, cyclic = highest_axis(operators)
    if len(cyclic) == len(operators):
        return fits_of_cyclic(spectrum, cyclic, max_angle_deg)
    return fits_about(spectrum, operators, fits_of_cyclic(spectrum, cyclic))


def fits_of_cyclic(spectrum: MapSpectrum, cyclic: np.ndarray, max_angle_deg: float = 180.0) -> list[AxisFit]:
    """The best places of one axis, fitted in the coarse band, best first: steps 1 and 2."""
    axis, radius = highest_axis(cyclic)[0], coarse_radius(spectrum)
    found = scan_directions(spectrum, cyclic, axis, radius, max_angle_deg)
    fits = (settled(march(spectrum, cyclic, motion, COARSE_WAVES, radius), cyclic) for motion in found)
    return sorted(fits, key=lambda fit: -fit.score)


def fits_about(spectrum: MapSpectrum, operators: np.ndarray, cyclic_fits: list[AxisFit]) -> list[AxisFit]:
    """The best places of a whole group with its highest axis where that was found, fitted in the coarse band, best first: step 3."""
    axis, radius = highest_axis(operators)[0], coarse_radius(spectrum)
    turns = [turned for fit in cyclic_fits for turned in scan_turns(spectrum, operators, axis, fit.motion, radius)]
    best = sorted(turns, key=lambda pair: -pair[0])[:KEPT_DIRECTIONS]
    fits = (settled(march(spectrum, operators, motion, COARSE_WAVES, radius), operators) for _, motion in best)
    return sorted(fits, key=lambda fit: -fit.score)


def fine_fit(spectrum: MapSpectrum, operators: np.ndarray, coarse: list[AxisFit]) -> AxisFit:
    """Step 4 from the first few of the coarse fits."""
    fine = [settled(march(spectrum, operators, fit.motion, COARSE_WAVES), operators) for fit in coarse[:KEPT_FITS]]
    best = max(fit.score for fit in fine)
    return min((fit for fit in fine if fit.score > best - EQUAL), key=lambda fit: fit.motion.angle_deg)


def coarse_radius(spectrum: MapSpectrum) -> float:
    """|q| of the coarse band."""
    return min(max(COARSE_WAVES * spectrum.extent_A / spectrum.radius_A, LOWEST_SHELL + 2.0), float(spectrum.limit))


def highest_axis(operators: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Direction (3,) of the group's axis of highest order, and the operators about it (n, 3, 3). Raises ValueError for C1."""
    if len(operators) < 2:
        raise ValueError("a group of one operator has no axes")
    angles = Rotation.from_matrix(operators).magnitude()
    first = 1 + int(np.argmin(np.round(angles[1:], 6)))
    vector = Rotation.from_matrix(operators[first]).as_rotvec()
    axis = vector / np.linalg.norm(vector)
    axis = axis * np.sign(axis[np.flatnonzero(np.abs(axis) > 1e-6)[-1]])
    return axis, operators[np.abs(operators @ axis - axis).max(axis=1) < 1e-6]


def half_sphere(step_rad: float) -> np.ndarray:
    """Directions (n, 3) on the half-sphere z >= 0, about `step_rad` apart (Fibonacci spiral)."""
    number = max(int(np.ceil(2 * np.pi / step_rad**2)), 20)
    z = (np.arange(number) + 0.5) / number
    angle = np.pi * (3 - np.sqrt(5)) * np.arange(number)
    return np.stack([np.sqrt(1 - z * z) * np.cos(angle), np.sqrt(1 - z * z) * np.sin(angle), z], axis=1)


def turn_onto(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The smallest rotation (3, 3) that takes one unit vector to another."""
    cross, cosine = np.cross(source, target), float(np.clip(source @ target, -1, 1))
    if np.linalg.norm(cross) < 1e-12:
        return np.eye(3) if cosine > 0 else rotation_about(across(source), np.pi)
    return rotation_about(cross, float(np.arctan2(np.linalg.norm(cross), cosine)))


def across(axis: np.ndarray) -> np.ndarray:
    """A unit vector at right angles to an axis."""
    other = np.eye(3)[int(np.argmin(np.abs(axis)))]
    cross = np.cross(axis, other)
    return np.asarray(cross / np.linalg.norm(cross))


def scan_directions(spectrum: MapSpectrum, cyclic: np.ndarray, axis: np.ndarray, radius: float, max_angle_deg: float) -> list[RigidMotion]:
    """Step 1: motions that bring the best directions of a map onto an axis, apart from one another, best first."""
    wave_A = spectrum.extent_A / radius
    step_rad = STEP_WAVES * wave_A / spectrum.radius_A
    directions = half_sphere(step_rad)
    directions = directions * np.where(directions @ axis < 0, -1.0, 1.0)[:, None]
    near = np.arccos(np.clip(directions @ axis, -1, 1)) <= np.deg2rad(max_angle_deg) + step_rad
    directions = np.concatenate([directions[near], axis[None]])
    these = orbits(cyclic, SCAN_POINTS, radius)
    shifts_A = lattice(across(axis), np.cross(axis, across(axis)), SHIFT_RADII * spectrum.radius_A, STEP_WAVES * wave_A)
    turns = np.array([turn_onto(direction, axis) for direction in directions])
    score, place = _scores(spectrum, these, turns, shifts_A)
    chosen: list[int] = []
    for i in np.argsort(-score):
        if all(abs(directions[i] @ directions[j]) < np.cos(2.0 * step_rad) for j in chosen):
            chosen.append(int(i))
        if len(chosen) == KEPT_DIRECTIONS:
            break
    return [RigidMotion(turns[i], shifts_A[place[i]] - turns[i] @ spectrum.centre_A) for i in chosen]


def scan_turns(spectrum: MapSpectrum, operators: np.ndarray, axis: np.ndarray, motion: RigidMotion,
               radius: float) -> list[tuple[float, RigidMotion]]:
    """Step 3: (score, motion) of the best turns about an axis that is in place already, either way up, and shifts along it."""
    wave_A = spectrum.extent_A / radius
    _, cyclic = highest_axis(operators)
    number = int(np.ceil(2 * np.pi / len(cyclic) / (STEP_WAVES * wave_A / spectrum.radius_A)))
    over = rotation_about(across(axis), np.pi)
    spins = np.array([rotation_about(axis, 2 * np.pi / len(cyclic) * i / number) @ up for up in (np.eye(3), over) for i in range(number)])
    along = lattice(axis, np.zeros(3), SHIFT_RADII * spectrum.radius_A, STEP_WAVES * wave_A)
    middle = motion.points(spectrum.centre_A)
    off_A = middle - axis * (axis @ middle)  # where the centre of mass lies beside the axis stays as the axis was fitted
    these = orbits(operators, SCAN_POINTS, radius)
    turns = spins @ motion.rotation
    score, place = _scores(spectrum, these, turns, along, spins @ off_A)
    order = np.argsort(-score)[:KEPT_TURNS]
    return [(float(score[i]), RigidMotion(turns[i], spins[i] @ off_A + along[place[i]] - turns[i] @ spectrum.centre_A)) for i in order]


def lattice(first: np.ndarray, second: np.ndarray, extent_A: float, step_A: float) -> np.ndarray:
    """Shifts (n, 3) in steps along two unit vectors, within a disc; along one where the second is zero."""
    steps = int(np.ceil(extent_A / step_A))
    i, j = (axis.ravel() for axis in np.meshgrid(*2 * [np.arange(-steps, steps + 1)], indexing="ij"))
    inside = (i**2 + j**2 <= (steps + 0.5) ** 2) & ((j == 0) | bool(np.any(second)))
    return np.asarray(step_A * (i[inside, None] * first + j[inside, None] * second))


def _scores(spectrum: MapSpectrum, these: Orbits, turns: np.ndarray, shifts_A: np.ndarray,
            off_A: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The best mean correlation (n,) of each turn (n, 3, 3) about the centre of mass over the shifts (s, 3), and which shift it was."""
    q, weight = these.points, spectrum.whitening(these.shells)
    wave = -2j * np.pi / spectrum.extent_A
    phases = np.exp(wave * (q @ shifts_A.T)).astype(np.complex64).transpose(1, 0, 2)  # (A, J, s)
    score, place = np.empty(len(turns)), np.empty(len(turns), int)
    for first in range(0, len(turns), DIRECTIONS_AT_ONCE):
        some = slice(first, first + DIRECTIONS_AT_ONCE)
        points = np.einsum("jai,nik->njak", q, turns[some])
        values = spectrum.sample(points) * np.exp(-wave * (points @ spectrum.centre_A))
        if off_A is not None:
            values = values * np.exp(wave * np.einsum("jai,ni->nja", q, off_A[some]))
        power = (weight * np.abs(values) ** 2).sum(axis=(1, 2))
        sums = np.matmul(values.transpose(2, 0, 1).astype(np.complex64), phases)  # (A, n, s)
        mean_power = np.einsum("a,ans->ns", weight, np.abs(sums) ** 2) / len(these.operators)
        place[some] = mean_power.argmax(axis=1)
        score[some] = mean_power.max(axis=1) / power
    return (len(these.operators) * score - 1.0) / (len(these.operators) - 1.0), place


def settled(fit: AxisFit, operators: np.ndarray) -> AxisFit:
    """The same fit with what the group leaves undetermined as it was in the map."""
    kept = kept_directions(operators)
    if kept.any():
        axis = highest_axis(operators)[0]
        direction, centre = fit.motion.rotation.T @ axis, fit.motion.inverse.shift_A
        if direction @ axis < 0:
            direction = -direction
        turn = turn_onto(direction, axis)
        shift_A = -turn @ centre
        return replace(fit, motion=RigidMotion(turn, shift_A - kept @ shift_A))
    motions = [RigidMotion(h, np.zeros(3)).after(fit.motion) for h in same_axes(operators)]
    return replace(fit, motion=min(motions, key=lambda motion: motion.angle_deg))


def same_axes(operators: np.ndarray) -> np.ndarray:
    """Rotations that take a group's axes onto themselves: its own operators, for Dn the turns between them too, for D2 and T those of O."""
    axis, cyclic = highest_axis(operators)
    if len(operators) == 2 * len(cyclic) and len(cyclic) > 2:
        return np.concatenate([operators, rotation_about(axis, np.pi / len(cyclic)) @ operators])
    if len(operators) == 4 or (len(operators) == 12 and len(cyclic) == 3):
        frame = _two_folds(operators)
        return np.asarray(frame.T @ point_group("O") @ frame)
    return operators


def _two_folds(operators: np.ndarray) -> np.ndarray:
    """The three two-fold axes of D2 or T, one in each row: (3, 3)."""
    halves = [op for op in operators if abs(np.trace(op) + 1) < 1e-6]
    x, y = (np.linalg.svd(op + np.eye(3))[0][:, 0] for op in halves[:2])
    return np.stack([x, y, np.cross(x, y)])
