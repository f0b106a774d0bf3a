"""The contrast transfer function (CTF): coefficients once per image in float64, values per Fourier coefficient in float32.

(1) lambda = h / sqrt(2 m e V (1 + e V / (2 m c^2)))                        relativistic de Broglie wavelength
(2) gamma = pi lambda (Axx x^2 + 2 Axy x y + Ayy y^2) + (pi/2) Cs lambda^3 s^4 - phase_shift - asin(Q)
    A = Q^T diag(-defocus_u, -defocus_v) Q, Q turning image x onto the direction of u; (x, y) = s in cycles per angstrom
(3) CTF = -sin(gamma) exp(-B s^2 / 4)                                       positive at low frequency for underfocus

Sources: (1) de Broglie with CODATA 2018 constants; (2), (3) Mindell & Grigorieff 2003 and Rohou & Grigorieff 2015, with the sign by
which particles are white; asin(Q) = atan(Q / sqrt(1 - Q^2)).

The quadratic part of gamma reaches hundreds of radians, too many for float32. Frequencies are whole numbers of cycles per box, so that part
is summed exactly as 64-bit fixed-point *turns* and only its fraction of a turn becomes float32: the error no longer grows with defocus.
An anisotropic magnification M makes M k of every k: (k, A k) becomes (k, M^T A M k), and s^2 becomes (k, M^T M k). What even Zernike
polynomials add to gamma comes as a table of turns (aberrations.py); the odd ones and a beam tilt are no matter of the CTF.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
from numba.extending import register_jitable

from protomer_kernels.trigonometry import sine_cosine

# CODATA 2018 (the first three are exact since the redefinition of the SI units in 2019)
PLANCK_J_S = 6.62607015e-34
ELEMENTARY_CHARGE_C = 1.602176634e-19
SPEED_OF_LIGHT_M_PER_S = 299792458.0
ELECTRON_MASS_KG = 9.1093837015e-31
ANGSTROM_PER_M = 1e10

TURN_BITS = 40  # one turn is 2^40: (cycles/box)^2 up to 2^18 times coefficients up to 2^4 turns stay below 2^63
ONE_TURN = 1 << TURN_BITS
TURN_MASK = ONE_TURN - 1
TURNS_PER_UNIT = np.float32(1.0 / ONE_TURN)
RADIANS_PER_TURN = np.float32(2.0 * math.pi)
LARGEST_COEFFICIENT_TURNS = 16.0


@dataclass(frozen=True)
class CtfParameters:
    """What the CTF of n images depends on: float64 arrays of shape (n,), or numbers that all images share."""

    defocus_u_A: np.ndarray | float  # underfocus positive
    defocus_v_A: np.ndarray | float
    defocus_angle_rad: np.ndarray | float  # direction of defocus_u, from image x towards image y
    voltage_V: np.ndarray | float
    spherical_aberration_A: np.ndarray | float
    amplitude_contrast: np.ndarray | float
    phase_shift_rad: np.ndarray | float = 0.0
    bfactor_A2: np.ndarray | float = 0.0
    magnification: np.ndarray | None = None  # (n, 2, 2) or (2, 2), M: image frequencies to those of the undistorted image; None: identity


def electron_wavelength_A(voltage_V: np.ndarray | float) -> np.ndarray:
    """Wavelength in angstrom of electrons accelerated by `voltage_V` volts, eq. (1)."""
    energy_J = ELEMENTARY_CHARGE_C * np.asarray(voltage_V, np.float64)
    relativistic = 1.0 + energy_J / (2.0 * ELECTRON_MASS_KG * SPEED_OF_LIGHT_M_PER_S**2)
    return ANGSTROM_PER_M * PLANCK_J_S / np.sqrt(2.0 * ELECTRON_MASS_KG * energy_J * relativistic)


def ctf_coefficients(parameters: CtfParameters, cycle_per_A: float) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of eq. (2), for frequencies in cycles per box.

    `cycle_per_A` is 1 / (box * pixel_size_A). Returns quadratic (n, 3) int64, the xx, xy + yx and yy terms in 2^-40 turns, and smooth
    (n, 6) float32: the quartic term in turns, the constant term in turns, and B/4, all per power of cycles per box, then the xx, xy + yx
    and yy terms of M^T M, which make s^2 of k.
    Raises ValueError where defocus and box ask for more than 16 turns per (cycle/box)^2.
    """
    names = [name for name in CtfParameters.__dataclass_fields__ if name != "magnification"]
    arrays = np.broadcast_arrays(*(np.atleast_1d(np.asarray(getattr(parameters, name), np.float64)) for name in names))
    column = dict(zip(names, arrays, strict=True))
    wavelength, angle = electron_wavelength_A(column["voltage_V"]), column["defocus_angle_rad"]
    cos, sin = np.cos(angle), np.sin(angle)
    u, v = -column["defocus_u_A"], -column["defocus_v_A"]
    form = np.stack([u * cos**2 + v * sin**2, 2.0 * (u - v) * cos * sin, u * sin**2 + v * cos**2], axis=1)  # A of eq. (2)
    metric = np.broadcast_to([1.0, 0.0, 1.0], form.shape)
    if parameters.magnification is not None:
        form, metric = _magnified_form(form, parameters.magnification), _magnified_form(metric, parameters.magnification)
    turns = 0.5 * wavelength[:, None] * form * cycle_per_A**2
    if not np.all(np.abs(turns) < LARGEST_COEFFICIENT_TURNS):
        raise ValueError(f"a defocus of {np.abs(form).max():.6g} A in a box of {1.0 / cycle_per_A:.6g} A is beyond the range of the CTF")
    quartic = 0.25 * column["spherical_aberration_A"] * wavelength**3 * cycle_per_A**4
    constant = -(column["phase_shift_rad"] + np.arcsin(column["amplitude_contrast"])) / (2.0 * math.pi)
    smooth = np.stack([quartic, constant, 0.25 * column["bfactor_A2"] * cycle_per_A**2, *metric.T], axis=1)
    return np.rint(turns * ONE_TURN).astype(np.int64), smooth.astype(np.float32)


def _magnified_form(form: np.ndarray, magnification: np.ndarray) -> np.ndarray:
    """Quadratic forms (n, 3) of k, xx, xy + yx, yy, read at M k: those of M^T F M."""
    full = np.stack([form[:, 0], 0.5 * form[:, 1], 0.5 * form[:, 1], form[:, 2]], axis=1).reshape(-1, 2, 2)
    turned = np.swapaxes(magnification, -1, -2) @ full @ magnification
    return np.stack([turned[:, 0, 0], 2.0 * turned[:, 0, 1], turned[:, 1, 1]], axis=1)


@register_jitable
def ctf_value(quadratic, smooth, kx, ky, added_turns):
    """CTF of one image, eq. (3), at whole numbers kx, ky (int64) of cycles per box; one row each of `ctf_coefficients`.

    added_turns (float32) is what else there is in gamma.
    """
    turns = (quadratic[0] * (kx * kx) + quadratic[1] * (kx * ky) + quadratic[2] * (ky * ky)) & TURN_MASK
    squared = smooth[3] * np.float32(kx * kx) + smooth[4] * np.float32(kx * ky) + smooth[5] * np.float32(ky * ky)
    gamma = RADIANS_PER_TURN * (np.float32(turns) * TURNS_PER_UNIT + (smooth[0] * squared) * squared + smooth[1] + added_turns)
    sine, _ = sine_cosine(gamma)
    return -np.float32(sine) * np.float32(math.exp(-smooth[2] * squared))


@numba.njit(parallel=True, cache=True)
def ctf_driver(quadratic, smooth, kx, ky, added_turns, row, out):
    """Values (n, K) float32 of the CTFs of n images at K frequencies kx, ky (int64); added_turns (g, K) float32, row (n,) among them."""
    for image in numba.prange(quadratic.shape[0]):
        for k in range(kx.shape[0]):
            out[image, k] = ctf_value(quadratic[image], smooth[image], kx[k], ky[k], added_turns[row[image], k])


def ctf_values(
    parameters: CtfParameters,
    kx: np.ndarray,
    ky: np.ndarray,
    cycle_per_A: float,
    out: np.ndarray,
    added: tuple[np.ndarray, np.ndarray] | None = None,
) -> None:
    """Fill `out` (n, K) float32 with the CTFs of n images at whole frequencies kx, ky (K,) in cycles per box.

    `cycle_per_A` is 1 / (box * pixel_size_A). added: turns (g, K) float32 that belong to gamma too, and the row (n,) of each image among
    them. Raises ValueError where a frequency is not a whole number.
    """
    whole_x, whole_y = np.asarray(kx).astype(np.int64), np.asarray(ky).astype(np.int64)
    if not (np.array_equal(whole_x, kx) and np.array_equal(whole_y, ky)):
        raise ValueError("the CTF is evaluated at whole numbers of cycles per box only")
    quadratic, smooth = ctf_coefficients(parameters, cycle_per_A)
    turns, row = (np.zeros((1, len(whole_x)), np.float32), np.zeros(len(quadratic), np.int64)) if added is None else added
    ctf_driver(quadratic, smooth, whole_x, whole_y, turns, row, out)
