"""What a pass over images with linear modes computes on arrays: on the CPU, or on a CUDA device (`cuda_mode_arithmetic.py`).

Which of the two follows from the arithmetic in use (`backend.mode_arithmetic_of`), which says where arrays live. The device's takes the
volumes of mean and modes one by one, where the CPU's have them side by side in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from protomer.computing.arithmetic import Arithmetic, Images, Waves
from protomer_kernels import modes

Poses = tuple[np.ndarray, np.ndarray]  # rotations (n, 3, 3) and shifts (n, 2) in pixels
Moments = tuple[np.ndarray, np.ndarray]


class ModeArithmetic:
    """On the CPU, by protomer_kernels.modes."""

    def __init__(self, arithmetic: Arithmetic) -> None:
        self.arithmetic = arithmetic

    def volumes(self, transforms: Sequence[Any]) -> Any:
        """Fourier volumes of the mean map and K modes, as see_modes takes them."""
        return np.ascontiguousarray(np.stack(transforms, axis=3))

    def see_modes(self, volumes: Any, poses: Poses, images: Images, waves: Waves) -> tuple[Any, np.ndarray]:
        """Views (n, K + 1, 2, C), where they are computed on, and scalar products (n, K + 1, K + 2), on the host: modes.see_modes."""
        number, (count, length) = volumes.shape[3], images[1].shape
        shown, products = np.empty((count, number, 2, length), np.float32), np.empty((count, number, number + 1))
        modes.see_modes(volumes, poses, images, waves, shown, products)
        return shown, products

    def leave_modes(self, data: Any, shown: Any, moments: Moments, shell: np.ndarray, shells: int) -> tuple[Any, np.ndarray]:
        """What images leave of the mean map (n, 2, C), where it is computed on, and power by shell (n, shells): modes.leave_modes."""
        left, power = np.empty_like(data), np.empty((len(data), shells))
        modes.leave_modes(data, shown, moments, shell, left, power)
        return left, power

    def empty_accumulator(self, radius: int, number: int) -> Any:
        """An accumulator of zeros."""
        return modes.empty_mode_accumulator(radius, number)

    def insert_modes(self, poses: Poses, moments: Moments, images: Images, waves: Waves, scale: float, out: Any) -> None:
        """Add images to an accumulator: modes.insert_modes."""
        modes.insert_modes(poses, moments, images, waves, scale, self.arithmetic.threads, out)
