"""Phase aberrations of an optics group beyond defocus, spherical aberration and phase shift: float64, computed once per group.

With s = M k the frequency in cycles per angstrom (x, y) that anisotropic magnification M makes of an image's frequency k,

(1) R_n^m(r) = sum_j (-1)^j (n - j)! / (j! ((n + m)/2 - j)! ((n - m)/2 - j)!) r^(n - 2 j)        Zernike's radial polynomials
(2) Z_n^m(s) = R_n^|m|(|s|) cos(m phi) for m >= 0, sin(|m| phi) for m < 0, phi from x towards y    without a norm; |s| in 1/A, not scaled
(3) gamma -> gamma + sum_i even_i Z_i(s), i = 0, 1, ... over n = 0, 2, 4, ... and m = -n, -n + 2, ..., n
(4) model -> model exp(i chi), chi = sum_i odd_i Z_i(s) - 2 pi Cs lambda^2 |s|^2 (s . tilt), i over n = 1, 3, 5, ...
(5) model(k) = slice at R M k, CTF at M k; shifts act on the unmagnified k

Sources: (1), (2) Born & Wolf, Principles of Optics, 9.2; (3) to (5) Zivanov, Nakane & Scheres 2020 (IUCrJ 7, 253), with order, scale and
signs as RELION reads its own columns. Even terms of n <= 2 shift phase, defocus and astigmatism; those of n = 4 are tetrafoil (m = -4, 4),
secondary astigmatism (-2, 2) and spherical aberration (0); odd ones of n = 3 are trefoil (-3, 3) and axial coma (-1, 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import factorial, isqrt

import numpy as np

IDENTITY = ((1.0, 0.0), (0.0, 1.0))


def orders(number: int, is_odd: bool) -> list[tuple[int, int]]:
    """(n, m) of the first `number` polynomials of eqs (3) or (4)."""
    listed: list[tuple[int, int]] = []
    n = 1 if is_odd else 0
    while len(listed) < number:
        listed += [(n, m) for m in range(-n, n + 1, 2)]
        n += 2
    return listed[:number]


def is_whole(number: int, is_odd: bool) -> bool:
    """Whether a list of `number` coefficients ends where an order n ends: 0, 2, 6, 12, ... odd or 0, 1, 4, 9, ... even ones."""
    root = isqrt(number)
    return root * (root + 1) == number if is_odd else root * root == number


def zernike(n: int, m: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Eq. (2) at frequencies x, y of any unit, float64; polynomial in x and y, so that the origin needs no care."""
    order = abs(m)
    square = x * x + y * y
    radial = np.zeros_like(square)
    for j in range((n - order) // 2 + 1):
        factor = factorial(n - j) / (factorial(j) * factorial((n + order) // 2 - j) * factorial((n - order) // 2 - j))
        radial += (-1) ** j * factor * square ** ((n - order) // 2 - j)
    turned = (x + 1j * y) ** order  # |s|^order times exp(i order phi)
    return np.asarray(radial * (turned.imag if m < 0 else turned.real))


def zernike_sum(coefficients: Sequence[float], is_odd: bool, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The sum in eq. (3) or (4), radians."""
    total = np.zeros(np.broadcast(x, y).shape)
    for value, (n, m) in zip(coefficients, orders(len(coefficients), is_odd), strict=True):
        if value:
            total += value * zernike(n, m, x, y)
    return total


def beam_tilt_phase(coma_A: Sequence[float], wavelength_A: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The last term of eq. (4), radians; coma_A (x, y) is spherical aberration (A) times tilt (rad)."""
    return np.asarray(-2.0 * np.pi * wavelength_A**2 * (x * x + y * y) * (x * coma_A[0] + y * coma_A[1]))


def magnified(magnification: Sequence[Sequence[float]] | np.ndarray, kx: np.ndarray, ky: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """M k, float64."""
    (a, b), (c, d) = magnification
    x, y = np.asarray(kx, np.float64), np.asarray(ky, np.float64)
    return a * x + b * y, c * x + d * y
