"""The Ewald sphere: images of thick particles, whose two half-curves are inserted apart.

An atom at height z along the beam is seen with a defocus of its own, that of the particle plus h z: h = +1 where image z (x cross y) points
downstream, to the detector, -1 where it points to the source. Which one holds depends on how the detector was read, and turns round with
the hand of the map. With gamma of ctf.py (underfocus positive, CTF = -sin gamma), s = |k| / L in cycles per angstrom, L being the width of
the box,

    gamma(z) = gamma - pi lambda s^2 h z                                                                                  (1)
    X(k) = sum_j w_j exp(-2 pi i k.r_j) (-sin gamma(z_j))
         = 1/2 [ c F(k, +e) + c* F(k, -e) ],   c = i exp(i gamma) = -sin gamma + i cos gamma                               (2)
    e(k) = h lambda s^2 / 2  (cycles per angstrom) = h lambda |k|^2 / (2 L)  (cycles per box)                              (3)

F being the transform of the particle in the axes of the image. The transform on the plane has become the sum of those on two paraboloids,
which touch the plane at the origin. F(-k, e) = F(k, -e)*, so that these are one curve read at k and at -k: each stored coefficient knows
of two points. Of the normal equations of (2) for F+ = F(k, +e) and F- = F(k, -e), with noise sigma,

    1/4 sigma^-2 [ F+ + c*^2 F- ] = 1/2 c* X sigma^-2,   1/4 sigma^-2 [ F- + c^2 F+ ] = 1/2 c X sigma^-2                   (4)

single insertion keeps the diagonal. What the other point adds is not nothing, though: near the origin F+ and F- are the same number, and
(4) must become the flat c X = c^2 F. F of a particle that fills a ball of diameter D is correlated over distances below 1 / D: given F+,
the expectation of F- is o F+ with

    o = 3 (sin q - q cos q) / q^3,   q = pi D 2 |e| / L                                                                    (5)

the ball's transform at the distance of the two points. So to each point go

    numerator 1/2 c* X or 1/2 c X,   weight 1/4 [1 + o (2 CTF^2 - 1)]                                                      (6)

(Re c^2 = 2 CTF^2 - 1). At o = 1 both together are the flat CTF X and CTF^2; at o = 0 each half-curve has its quarter. The part of c*^2 F-
that is left over has a phase that turns with defocus and adds up to nothing over images of many defoci; in real space it is the other
half's image, displaced by 2 lambda s defocus, most of which lies outside the particle. Insertion is linear, so that what lies outside
the particle in an image lies outside it in the map, where any mask on the map removes it: images are given no mask of their own. (One that
is tight enough to matter also cuts off what the box has wrapped round, which no mask can bring back.)

Sources: Wolf, DeRosier & Grigorieff 2006 (Ultramicroscopy 106, 376), eqs 5 to 9, single insertion; Russo & Henderson 2018 (Ultramicroscopy
187, 56), the two single-sideband images P and Q; (1) and its sign: DeRosier 2000 (Ultramicroscopy 81, 83); (5), (6): as derived here, in
the place of RELION's 1 + A (2 |CTF| - 1), where A is the overlap of two discs that are displaced by 2 lambda s defocus.
"""

from __future__ import annotations

import numpy as np

from protomer_kernels.ctf import electron_wavelength_A

LEAST_WEIGHT = 1e-6  # of |c|^2: where the two halves of a coefficient cancel, so that it can be divided by


def height_form(sign: int, voltage_V: np.ndarray, width_A: float, magnification: np.ndarray | None = None) -> np.ndarray:
    """Eq. (3): e (n, 3) float64 of n images as a quadratic form of k, xx, xy + yx, yy, all in cycles per box.

    voltage_V (n,); width_A of the box; magnification M (n, 2, 2), which makes |k|^2 (k, M^T M k).
    """
    metric = np.eye(2)[None] if magnification is None else np.swapaxes(magnification, -1, -2) @ magnification
    terms = np.stack([metric[:, 0, 0], 2.0 * metric[:, 0, 1], metric[:, 1, 1]], axis=1)
    return sign * 0.5 / width_A * electron_wavelength_A(voltage_V)[:, None] * terms


def heights(form: np.ndarray, kx: np.ndarray, ky: np.ndarray) -> np.ndarray:
    """e (n, K) at frequencies kx, ky (K,), by the forms (n, 3)."""
    return np.asarray(form @ np.stack([kx * kx, kx * ky, ky * ky]).astype(np.float64))


def overlap(height: np.ndarray, diameter: float) -> np.ndarray:
    """o of eq. (5) for heights in cycles per box and a diameter in boxes; 1 at height 0."""
    q = 2.0 * np.pi * diameter * np.abs(height)
    small = q < 1e-2
    safe = np.where(small, 1.0, q)
    return np.where(small, 1.0 - q * q / 10.0, 3.0 * (np.sin(safe) - safe * np.cos(safe)) / safe**3)


def half_curves(in_phase: np.ndarray, quadrature: np.ndarray, correlated: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eq. (6) in the form that insertion takes, data Y times amplitude A and A^2.

    in_phase (n, K): the CTF, with whatever multiplies it; quadrature (n, K): the same of cos gamma; correlated (n, K): o. Returns the
    factor (n, K) complex64 by which X becomes Y at +e (its conjugate at -e), and A (n, K) float32.
    """
    whole = in_phase * in_phase + quadrature * quadrature
    weight = np.maximum((1.0 - correlated) * whole + 2.0 * correlated * in_phase * in_phase, LEAST_WEIGHT * whole)
    root = np.sqrt(weight)
    factor = (in_phase - 1j * quadrature) / np.where(root > 0, root, 1.0)
    return factor.astype(np.complex64), (0.5 * root).astype(np.float32)
