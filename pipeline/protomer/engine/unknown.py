"""Something that is none of the structures: broken particles, ice, other molecules. As strong as the structures in each shell, arranged as
nobody knows.

(1) X(k) ~ CN(0, sigma^2 + C^2 P(|k|)): coefficients of a density at random, P the mean power of the structures' projections in a shell
(2) log Z_u = sum_k |X|^2 / sigma^2 g / (1 + g) - log(1 + g),  g = C^2 P / sigma^2, against noise alone. No pose enters: all are as likely.

An image of one of the structures is explained much better by its map at a pose than by its power alone, an image of something else is
not. Where maps are still too poor for that, or a few strong coefficients are all there is, the two cannot be told apart, and nothing may
be put aside:

(3) they can where log Z - log Z_u of the images lies above 0 by TAIL of its spreads, Z of the likeliest class: the median, and the standard
    deviation that a normal distribution would have with the same upper tenth, since junk lies below
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from protomer.computing.arithmetic import CPU, Arithmetic
from protomer.engine.alignment import Reference
from protomer.imaging.images import Whitened
from protomer_kernels.half_plane import HalfPlane
from protomer_kernels.rotations import matrices_from_quaternions, super_fibonacci_grid

VIEWS = 64
FIRST_SHELL = 1  # the mean of an image is no signal
TAIL, UPPER_TENTH = 2.33, 1.2816  # standard deviations of a normal distribution, beyond which 1 % and a tenth of it lie


def projected_power(references: Sequence[Reference], share: np.ndarray, radius: int) -> np.ndarray:
    """P of eq. (1), (radius + 1,) float64: the mean over references, in these shares (K,), and over views of them all around."""
    chosen = [n for n in range(len(references)) if share[n] > 0]
    plane, views = references[0].plane, matrices_from_quaternions(super_fibonacci_grid(VIEWS)).astype(np.float32)
    length, power = plane.prefix(radius), np.zeros(radius + 1)
    shell = plane.shell[:length]
    counts = np.maximum(np.bincount(shell, minlength=radius + 1), 1)
    for n in chosen:
        arithmetic = references[n].arithmetic
        slices = arithmetic.on_host(arithmetic.slices(references[n].volume_ft, views, plane.arrays(length)))
        power += share[n] / share[chosen].sum() * np.bincount(shell, (slices.astype(np.float64) ** 2).mean(axis=0).sum(axis=0),
                                                              minlength=radius + 1) / counts
    return power


def unknown_log_odds(batch: Whitened, power: np.ndarray, plane: HalfPlane, arithmetic: Arithmetic = CPU) -> np.ndarray:
    """log Z_u (n,) of eq. (2), over the shells that `power` has."""
    length = min(plane.prefix(len(power) - 1), batch.amplitude.shape[1])
    begin = plane.prefix(FIRST_SHELL - 1)
    part = slice(begin, length)
    multiplicity, of_shell = plane.multiplicity[part].astype(np.float64), power[plane.shell[part]]
    gain = batch.amplitude[:, part].astype(np.float64) ** 2 * arithmetic.here(of_shell / multiplicity)
    observed = (batch.data[:, :, part].astype(np.float64) ** 2).sum(axis=1)
    return arithmetic.on_host((observed * gain / (1.0 + gain) - arithmetic.here(multiplicity) * np.log1p(gain)).sum(axis=1))


def can_be_told(log_odds: np.ndarray, unknown: np.ndarray) -> bool:
    """Eq. (3): log Z (N,) of each image's likeliest class, log Z_u (N,)."""
    middle, upper = np.quantile(log_odds - unknown, (0.5, 0.9))
    return bool(middle - TAIL * (upper - middle) / UPPER_TENTH > 0.0)
