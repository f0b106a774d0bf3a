"""The M-step: from sums to the modes of each half, in one basis that both halves share.

(1) modes of greatest likelihood of each half by itself, voxel by voxel (modes.py, eq. 3), with the prior that S / N gives
(2) low-pass, high-pass, mask
(3) V <- V L T, L L^T = <z z^T> over the half's images, T the eigenvectors of (V L)^T V L: modes that are orthogonal, of which each is what
    one standard deviation of the particles changes           (parameter expansion: Liu, Rubin and Wu 1998, Biometrika 85:755)
(4) V_b <- V_b Q, Q = argmin |V_a - V_b Q| over rotations of the K modes          (orthogonal Procrustes: Schönemann 1966)
(5) V_a, V_b <- V_a T, V_b T, T the eigenvectors of V_a^T V_a + V_b^T V_b, in order of variance
(6) S = <V_a, V_b>, N = (|V_a|^2 + |V_b|^2) / 2 - S by shell, of each mode
(7) 1 / tau_k^2 of the next (1) is h_k e_k N_k / S_k, h the mean weight of the shell, e_k = 1 - <C_kk>

e is the share of the weight that images really have: h counts coordinates as if they were known, and is too large where their posteriors C
are wide. Without e the prior would be applied anew in every iteration to what the one before has left, and weak modes would fade away.

z ~ Normal(0, 1) stays so under the rotations of (4) and (5). Half-sets share these K x K rotations, (6) and the mask, and no density. Sums
are taken in a fixed order by NumPy, not by BLAS, so that ranks and threads do not change a bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft

from protomer.engine.maximisation import UNREGULARISED
from protomer.fixed_poses.references import SMOOTHED
from protomer.maps.volumes import Halves
from protomer.variability.expectation import MOST_SIGMAS
from protomer.variability.work import Coordinates, Standing, Varying
from protomer_kernels.fourier import high_pass, low_pass
from protomer_kernels.modes import mode_weights, solve_modes
from protomer_kernels.shells import shell_cross_sums
from protomer_kernels.wiener import map_of_quotient

WEAK = 0.02  # of the mean weight of a shell: the ridge while S / N is not known
LEAST_RATIO, LEAST_SHARE = 1e-3, 1e-6
EDGE = 2.0  # shells, of filters


@dataclass(frozen=True)
class Aligned:
    """Modes of both halves in one basis, (K, d, d, d) each. variance (K,): |V|^2, mean of the halves; shared (K,): <V_a, V_b>; fsc and
    ratio (K, shells): correlation of the halves and S / N of eq. (6)."""

    modes: Halves[np.ndarray]
    variance: np.ndarray
    shared: np.ndarray
    fsc: np.ndarray
    ratio: np.ndarray

    @property
    def correlation(self) -> np.ndarray:
        """(K,) of each mode of one half with that of the other."""
        own = [np.array([inner(mode, mode) for mode in half]) for half in self.modes]
        power = np.sqrt(own[0] * own[1])
        return np.divide(self.shared, power, out=np.zeros(len(power)), where=power > 0)


def maximise(varying: Varying, standing: Standing, totals: Sequence[np.ndarray], factor: float, coordinates: Coordinates) -> Aligned:
    """Eqs. (1) to (6); the same on every rank."""
    fixed, setup = varying.fixed, varying.fixed.setup
    made = []
    for half in (0, 1):
        if half % setup.team.size == setup.team.rank:
            made.append(modes_of_half(varying, totals[half], factor, standing.ratio / told_share(coordinates)[:, None]))
    shape = (varying.number, fixed.box, fixed.box, fixed.box)
    gathered = setup.team.gather_rows(np.array(made, np.float32).reshape(-1, *shape))
    scaled = []
    for half in (0, 1):
        rows = setup.particles.half == half
        scaled.append(expanded_parameters(gathered[half], second_moment(coordinates, rows)))
    return aligned(Halves(*scaled), fixed.radius + 1)


def modes_of_half(varying: Varying, total: np.ndarray, factor: float, ratio: np.ndarray) -> np.ndarray:
    """Eqs. (1), (7) and (2): (K, d, d, d) float32. ratio (K, shells): S / N over e."""
    fixed, number, shells = varying.fixed, varying.number, varying.fixed.radius + 1
    weight = mode_weights(total, number, factor, shells)
    known = np.maximum(np.where(np.isfinite(ratio), ratio, 1.0 / WEAK), LEAST_RATIO)
    spare = UNREGULARISED * weight.max(axis=0) + 1e-12
    solved = np.empty((number, *total.shape[:3]), np.complex64)
    solve_modes(total, factor, weight / known + spare, solved)
    return np.stack([shaped(varying, map_of_quotient(one, fixed.box, fixed.setup.threads)) for one in solved])


def told_share(coordinates: Coordinates) -> np.ndarray:
    """e (K,) of eq. (7)."""
    return np.maximum(1.0 - np.einsum("nkk->nk", coordinates.covariance).mean(axis=0), LEAST_SHARE)


def shaped(varying: Varying, volume: np.ndarray) -> np.ndarray:
    """Eq. (2)."""
    volume = low_pass(volume, varying.fixed.radius - EDGE / 2, EDGE)
    if varying.high_pass_shell > 0:
        volume = high_pass(volume, varying.high_pass_shell, EDGE)
    return np.asarray(volume * varying.fixed.masks(len(volume))[1], np.float32)


def second_moment(coordinates: Coordinates, rows: np.ndarray) -> np.ndarray:
    """<z z^T> (K, K) over some rows."""
    mean = np.clip(coordinates.mean[rows], -MOST_SIGMAS, MOST_SIGMAS)
    return np.asarray((coordinates.covariance[rows] + mean[:, :, None] * mean[:, None, :]).mean(axis=0))


def expanded_parameters(modes: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """Eq. (3)."""
    root = np.linalg.cholesky(moment)
    return combined(modes, root @ axes_of(root.T @ gram(modes, modes) @ root))


def aligned(halves: Halves[np.ndarray], shells: int) -> Aligned:
    """Eqs. (4) to (6); each mode's sign is such that its strongest voxel is positive."""
    left, _, right = np.linalg.svd(gram(halves.b, halves.a))
    halves = Halves(halves.a, combined(halves.b, left @ right))
    turn = axes_of(gram(halves.a, halves.a) + gram(halves.b, halves.b))
    halves = halves.map(lambda modes: combined(modes, turn))
    both = halves.a + halves.b
    sign = np.array([1.0 if mode.flat[np.argmax(np.abs(mode))] >= 0 else -1.0 for mode in both])
    halves = halves.map(lambda modes: combined(modes, np.diag(sign)))
    number = len(both)
    own = [np.array([inner(mode, mode) for mode in half]) for half in halves]
    shared = np.array([inner(halves.a[k], halves.b[k]) for k in range(number)])
    curves = [agreement(halves.a[k], halves.b[k], shells) for k in range(number)]
    return Aligned(halves, 0.5 * (own[0] + own[1]), shared, np.stack([c[0] for c in curves]), np.stack([c[1] for c in curves]))


def agreement(a: np.ndarray, b: np.ndarray, shells: int) -> tuple[np.ndarray, np.ndarray]:
    """FSC and S / N, each (shells,), of a mode of either half."""
    sums = shell_cross_sums(scipy.fft.rfftn(a), scipy.fft.rfftn(b))
    power = np.sqrt(sums[:, 1] * sums[:, 2])
    fsc = np.divide(sums[:, 0], power, out=np.zeros(len(power)), where=power > 0)
    shared, power_a, power_b = (np.convolve(column, np.ones(SMOOTHED), "same") for column in sums.T)
    noise = np.maximum(0.5 * (power_a + power_b) - shared, 1e-3 * (power_a + power_b))
    ratio = np.divide(np.maximum(shared, 0.0), noise, out=np.zeros(len(noise)), where=noise > 0)
    return tuple(np.concatenate([column, np.zeros(max(shells - len(column), 0))])[:shells] for column in (fsc, ratio))  # type: ignore


def inner(a: np.ndarray, b: np.ndarray) -> float:
    """Sum of the products of voxels, in float64 and in NumPy's own order."""
    return float(np.sum(a * b, dtype=np.float64))


def gram(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(K, K) of <a_k, b_l>."""
    return np.array([[inner(one, other) for other in b] for one in a])


def axes_of(matrix: np.ndarray) -> np.ndarray:
    """Eigenvectors of a symmetric matrix as columns, the greatest eigenvalue first."""
    return np.asarray(np.linalg.eigh(0.5 * (matrix + matrix.T))[1][:, ::-1])


def combined(modes: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """sum_l modes_l turn_lk (K, d, d, d)."""
    out = np.zeros_like(modes)
    for k in range(turn.shape[1]):
        for one in range(len(modes)):
            out[k] += np.float32(turn[one, k]) * modes[one]
    return out
