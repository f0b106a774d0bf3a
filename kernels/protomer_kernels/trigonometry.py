"""Sine and cosine of a phase in cycles, branch-free and in float32, so that loops over coefficients vectorise.

Taylor series of sin and cos after reduction to a quarter turn; absolute error below 4e-7 for |phase| < 100 cycles (tested).
"""

from __future__ import annotations

import math

import numpy as np
from numba.extending import overload, register_jitable

HALF = np.float32(0.5)
FOUR = np.float32(4.0)
QUARTER = np.float32(0.25)
S1, S3, S5, S7, S9 = (
    np.float32(c) for c in (6.283185307179586, -41.341702240399755, 81.60524927607504, -76.70585975306136, 42.058693944897634)
)
C2, C4, C6, C8, C10 = (
    np.float32(c) for c in (-19.739208802178716, 64.93939402266829, -85.45681720669372, 60.24464137187666, -26.42625678337438)
)
ONE = np.float32(1.0)
TWO = np.float32(2.0)
CYCLES_PER_RADIAN = np.float32(0.5 / math.pi)


def floor(x):
    """The largest whole number <= x, as float32: NumPy's function on the CPU, which Numba's CUDA target lacks, and math's there."""
    return np.floor(x)


@overload(floor)
def _floor_on_cpu(x):
    return lambda x: np.floor(x)


@overload(floor, target="cuda")
def _floor_on_cuda(x):
    return lambda x: math.floor(x)


@register_jitable
def sine_cosine_of_cycles(phase):
    """(sin, cos) of 2 pi phase."""
    quarter = floor(phase * FOUR + HALF)
    f = phase - quarter * QUARTER  # within an eighth of a turn
    f2 = f * f
    s = f * (S1 + f2 * (S3 + f2 * (S5 + f2 * (S7 + f2 * S9))))
    c = ONE + f2 * (C2 + f2 * (C4 + f2 * (C6 + f2 * (C8 + f2 * C10))))
    odd = quarter - TWO * floor(quarter * HALF)  # 0 or 1: sine and cosine change places
    half_turns = floor(quarter * HALF)
    sign = ONE - TWO * (half_turns - TWO * floor(half_turns * HALF))
    return sign * (s + odd * (c - s)), sign * (c - odd * (c + s))


def sine_cosine(angle):
    """(sin, cos) of an angle in radians: the library's on the CPU; on CUDA, whose library needs memory for large angles, those above."""
    return math.sin(angle), math.cos(angle)


@overload(sine_cosine)
def _sine_cosine_on_cpu(angle):
    return lambda angle: (math.sin(angle), math.cos(angle))


@overload(sine_cosine, target="cuda")
def _sine_cosine_on_cuda(angle):
    return lambda angle: sine_cosine_of_cycles(angle * CYCLES_PER_RADIAN)
