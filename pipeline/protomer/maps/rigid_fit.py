"""A rigid motion found by damped Gauss-Newton, whatever it is that the moved map is compared with.

What moves is a map's transform: G(q) = F(Q^T q) exp(-2 pi i q.d / L) (eqs (1) to (3) of self_correlation.py). A fit linearises its
residual in the six parameters (omega, d), of which some may be held; a step is taken where the score of the fit does not fall:

(1) step = -(H + damping diag H)^-1 g, H and g the Gauss-Newton matrix and gradient of a weighted sum of squares

Symmetry axes (axis_fit.py) compare a map with its own copies, alignment (map_fit.py) compares it with another map.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.spatial.transform import Rotation

from protomer.maps.rigid_motion import RigidMotion
from protomer.symmetry.self_correlation import MapSpectrum

STEPS = 12
SETTLED_GAIN = 1e-5  # of the score: what a last step may still bring
LARGEST_DAMPING = 1e4

NormalEquations = Callable[[RigidMotion], tuple[np.ndarray, np.ndarray]]  # H (p, p) and g (p,) in the free parameters, eq. (1)
Score = Callable[[RigidMotion], float]  # a correlation: larger is better


def settle(motion: RigidMotion, equations: NormalEquations, score: Score, free: np.ndarray,
           settled_gain: float = SETTLED_GAIN) -> RigidMotion:
    """Eq. (1) until a step brings nothing more. free: (6, p) orthonormal columns, the turns (rad) and shifts (angstrom) allowed."""
    damping, best = 1e-3, score(motion)
    for _ in range(STEPS):
        hessian, gradient = equations(motion)
        while damping < LARGEST_DAMPING:
            step = free @ -np.linalg.solve(hessian + damping * np.diag(np.diag(hessian)) + 1e-30 * np.eye(len(hessian)), gradient)
            tried = stepped(motion, step)
            reached = score(tried)
            if reached >= best - 1e-7:
                break
            damping = max(damping * 8, 1e-2)
        else:
            return motion
        gain, motion, best, damping = reached - best, tried, max(reached, best), damping / 4
        if gain < settled_gain:
            break
    return motion


def stepped(motion: RigidMotion, step: np.ndarray) -> RigidMotion:
    """The motion, then a turn by step[:3] (rad) and a shift by step[3:] (angstrom)."""
    turn = Rotation.from_rotvec(step[:3]).as_matrix()
    turned = turn @ motion.rotation
    u, _, vt = np.linalg.svd(turned)  # so that rounding does not add up
    return RigidMotion(u @ vt, turn @ motion.shift_A + step[3:])


def moved_with_slopes(spectrum: MapSpectrum, points: np.ndarray, motion: RigidMotion) -> tuple[np.ndarray, np.ndarray]:
    """G at points (..., 3), cycles per box, and its derivatives (..., 6) in omega (rad) and d (angstrom)."""
    wave = -2j * np.pi / spectrum.extent_A
    phase = np.exp(wave * (points @ motion.shift_A))
    value, gradient = spectrum.sample_with_gradient(points @ motion.rotation)
    value, gradient = value * phase, (gradient @ motion.rotation.T) * phase[..., None]
    gradient += wave * motion.shift_A * value[..., None]
    return value, np.concatenate([-np.cross(points, gradient), wave * points * value[..., None]], axis=-1)
