"""What is refined of an optics group, as terms of a phase, and how a change of it is put into optics and particles.

With s = M k the frequency (cycles per angstrom) and terms as protomer_kernels/aberrations.py has them:

(1) chi:   coma (x, y; A): -2 pi lambda^2 |s|^2 s;  trefoil: Z_3^-3, Z_3^3;  and, whatever is asked for, 2 pi s: a shift that all images of
    the group share, which would else be taken for coma
(2) theta: spherical aberration (A): (pi / 2) lambda^3 |s|^4;  tetrafoil: Z_4^-4, Z_4^4;  and always -pi lambda (x^2 + y^2), -pi lambda
    (x^2 - y^2) and -2 pi lambda x y: defocus and astigmatism that all images share
(3) -A -> -A + change for the quadratic form A of the CTF, (x, A x) = -defocus; defocus_u and v are the eigenvalues of -A
(4) with a new magnification M' the CTF at an image's k stays what it was: A' = N^T A N, N = M M'^-1, as RELION adapts astigmatism
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from protomer.tables.optics import OpticsGroup
from protomer.tables.particles import Particles
from protomer_kernels.aberrations import beam_tilt_phase, magnified, zernike
from protomer_kernels.ctf import electron_wavelength_A
from protomer_kernels.half_plane import HalfPlane

LEAST_CS_A = 1e5  # 0.01 mm: below, coma is no matter of a beam tilt
TREFOIL, TETRAFOIL = (2, 5), (4, 8)  # places of Z_3^-3, Z_3^3 among odd and of Z_4^-4, Z_4^4 among even coefficients
ODD, EVEN = 6, 9


@dataclass(frozen=True)
class Asked:
    """Which aberrations are refined."""

    beam_tilt: bool
    trefoil: bool
    tetrafoil: bool
    spherical_aberration: bool

    @property
    def odd(self) -> bool:
        """Whether any of (1) is."""
        return self.beam_tilt or self.trefoil

    @property
    def even(self) -> bool:
        """Whether any of (2) is."""
        return self.tetrafoil or self.spherical_aberration


def frequencies(group: OpticsGroup, plane: HalfPlane, length: int) -> tuple[np.ndarray, np.ndarray]:
    """M k of the first coefficients, cycles per angstrom, float64."""
    per_box = 1.0 / (plane.box * group.pixel_size_A)
    return magnified(np.reshape(group.magnification, (2, 2)) * per_box, plane.kx[:length], plane.ky[:length])


def odd_terms(group: OpticsGroup, plane: HalfPlane, length: int, asked: Asked) -> dict[str, np.ndarray]:
    """Terms (K,) of (1) by name."""
    x, y = frequencies(group, plane, length)
    wavelength_A = float(electron_wavelength_A(group.voltage_V))
    terms = {"shift_x": 2.0 * np.pi * x, "shift_y": 2.0 * np.pi * y}
    if asked.beam_tilt:
        terms |= {"coma_x": beam_tilt_phase((1.0, 0.0), wavelength_A, x, y), "coma_y": beam_tilt_phase((0.0, 1.0), wavelength_A, x, y)}
    if asked.trefoil:
        terms |= {"trefoil_0": zernike(3, -3, x, y), "trefoil_1": zernike(3, 3, x, y)}
    return terms


def even_terms(group: OpticsGroup, plane: HalfPlane, length: int, asked: Asked) -> dict[str, np.ndarray]:
    """Terms (K,) of (2) by name."""
    x, y = frequencies(group, plane, length)
    wavelength_A = float(electron_wavelength_A(group.voltage_V))
    per_A = -np.pi * wavelength_A
    terms = {"defocus": per_A * (x * x + y * y), "astigmatism_0": per_A * (x * x - y * y), "astigmatism_1": 2.0 * per_A * x * y}
    if asked.spherical_aberration:
        terms["spherical_aberration"] = 0.5 * np.pi * wavelength_A**3 * (x * x + y * y) ** 2
    if asked.tetrafoil:
        terms |= {"tetrafoil_0": zernike(4, -4, x, y), "tetrafoil_1": zernike(4, 4, x, y)}
    return terms


def changed_group(group: OpticsGroup, odd: dict[str, float], even: dict[str, float]) -> OpticsGroup:
    """The optics group with coefficients of (1) and (2) added to what it has; shift, defocus and astigmatism belong to its images."""
    odd_list, even_list = _padded(group.odd_zernike, ODD), _padded(group.even_zernike, EVEN)
    cs_A = group.spherical_aberration_A + even.get("spherical_aberration", 0.0)
    coma_A = [group.spherical_aberration_A * tilt + odd.get(f"coma_{axis}", 0.0)
              for tilt, axis in zip(group.beam_tilt_rad, "xy", strict=True)]
    tilt = group.beam_tilt_rad
    if cs_A >= LEAST_CS_A:
        tilt = (coma_A[0] / cs_A, coma_A[1] / cs_A)
    else:  # s^2 s_x is (Z_3^1 + 2 Z_1^1) / 3
        per_third = -2.0 * np.pi / 3.0 * float(electron_wavelength_A(group.voltage_V)) ** 2
        for axis, (third, first) in zip("xy", ((4, 1), (3, 0)), strict=True):
            odd_list[third] += per_third * odd.get(f"coma_{axis}", 0.0)
            odd_list[first] += 2.0 * per_third * odd.get(f"coma_{axis}", 0.0)
    for part, place in enumerate(TREFOIL):
        odd_list[place] += odd.get(f"trefoil_{part}", 0.0)
    for part, place in enumerate(TETRAFOIL):
        even_list[place] += even.get(f"tetrafoil_{part}", 0.0)
    return replace(group, spherical_aberration_A=cs_A, beam_tilt_rad=tilt, odd_zernike=tuple(odd_list) if any(odd_list) else (),
                   even_zernike=tuple(even_list) if any(even_list) else ())


def _padded(values: tuple[float, ...], number: int) -> list[float]:
    return [*values, *[0.0] * (number - len(values))]


def stretched_group(group: OpticsGroup, stretch: np.ndarray) -> OpticsGroup:
    """The optics group with magnification M (1 + E), E = ((e0, e1), (e1, -e0))."""
    e0, e1 = (float(part) for part in stretch)
    a, b, c, d = (np.reshape(group.magnification, (2, 2)) @ np.array([[1.0 + e0, e1], [e1, 1.0 - e0]])).ravel().tolist()
    return replace(group, magnification=(a, b, c, d))


def with_defocus_change(particles: Particles, rows: np.ndarray, change_A: np.ndarray) -> Particles:
    """(3) for some rows: change_A (n, 3) is of the xx, xy and yy elements of -A."""
    return _with_forms(particles, rows, lambda form: form + change_A)


def with_adapted_defocus(particles: Particles, rows: np.ndarray, before: OpticsGroup, after: OpticsGroup) -> Particles:
    """(4) for the rows of an optics group."""
    old, new = (np.reshape(group.magnification, (2, 2)) for group in (before, after))
    turn = old @ np.linalg.inv(new)

    def adapted(form: np.ndarray) -> np.ndarray:
        full = turn.T @ np.stack([form[:, 0], form[:, 1], form[:, 1], form[:, 2]], axis=1).reshape(-1, 2, 2) @ turn
        return np.stack([full[:, 0, 0], full[:, 0, 1], full[:, 1, 1]], axis=1)

    return _with_forms(particles, rows, adapted)


def _with_forms(particles: Particles, rows: np.ndarray, change: object) -> Particles:
    u, v, angle = (np.array(particles.columns[name], np.float64) for name in ("defocus_u_A", "defocus_v_A", "defocus_angle_rad"))
    c, s = np.cos(angle[rows]), np.sin(angle[rows])
    form = np.stack([u[rows] * c * c + v[rows] * s * s, (u[rows] - v[rows]) * c * s, u[rows] * s * s + v[rows] * c * c], axis=1)
    xx, xy, yy = change(form).T  # type: ignore[operator]
    mean, half = 0.5 * (xx + yy), np.hypot(0.5 * (xx - yy), xy)
    major = u[rows] >= v[rows]  # u need not be the larger one: it stays what it was
    u[rows], v[rows] = np.where(major, mean + half, mean - half), np.where(major, mean - half, mean + half)
    turned = 0.5 * np.arctan2(2.0 * xy, xx - yy) + np.where(major, 0.0, 0.5 * np.pi)
    angle[rows] = np.where(half > 1e-9 * np.maximum(np.abs(mean), 1.0), turned, angle[rows])
    return particles.with_columns(defocus_u_A=u, defocus_v_A=v, defocus_angle_rad=angle)
