"""What a pass over images with linear modes computes on arrays, on a CUDA device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from protomer.computing.arithmetic import Images, Waves
from protomer.computing.cuda_arithmetic import CudaArithmetic
from protomer.computing.device_arrays import seen_by_kernels
from protomer.computing.mode_arithmetic import ModeArithmetic, Moments, Poses
from protomer_kernels.cuda import modes
from protomer_kernels.modes import mode_accumulator_shape


class CudaModeArithmetic(ModeArithmetic):
    """On the device of an arithmetic. Products and power are added up in an order that depends on neither batches nor ranks."""

    def __init__(self, arithmetic: CudaArithmetic) -> None:
        super().__init__(arithmetic)
        self._device, self._arrays = arithmetic, arithmetic.library.arrays

    def volumes(self, transforms: Sequence[Any]) -> Any:
        """One by one."""
        return list(transforms)

    def see_modes(self, volumes: Any, poses: Poses, images: Images, waves: Waves) -> tuple[Any, np.ndarray]:
        """As ModeArithmetic.see_modes."""
        here, (data, amplitude) = self.arithmetic.here, images
        turns = here(poses[1]) @ here(np.stack(waves[:2]).astype(np.float64)) / waves[2]
        factor = (amplitude * np.exp(2j * np.pi * turns)).astype(np.complex64)
        factor[:, 0] = 0.0
        shown = self._arrays.empty((len(data), len(volumes), 2, len(waves[0])), np.float32)
        for m, volume_ft in enumerate(volumes):
            views = self.arithmetic.slices(volume_ft, poses[0], waves)
            shown[:, m, 0] = views[:, 0] * factor.real - views[:, 1] * factor.imag
            shown[:, m, 1] = views[:, 1] * factor.real + views[:, 0] * factor.imag
        own, both = self.arithmetic.scalar_products(data, shown)
        return shown, np.concatenate([both, own[:, :, None]], axis=2)

    def leave_modes(self, data: Any, shown: Any, moments: Moments, shell: np.ndarray, shells: int) -> tuple[Any, np.ndarray]:
        """As ModeArithmetic.leave_modes."""
        members = self._device.members(shell[: data.shape[2]], shells)
        left, power = self._arrays.zeros(data.shape, np.float32), self._arrays.zeros((len(data), shells), np.float32)
        given = data, shown, tuple(map(self._device.floats, moments)), members, left, power
        modes.leave_modes(*seen_by_kernels(given))
        return left, self.arithmetic.on_host(power).astype(np.float64)

    def empty_accumulator(self, radius: int, number: int) -> Any:
        """As ModeArithmetic.empty_accumulator."""
        return self._arrays.zeros(mode_accumulator_shape(radius, number), np.int64)

    def insert_modes(self, poses: Poses, moments: Moments, images: Images, waves: Waves, scale: float, out: Any) -> None:
        """As ModeArithmetic.insert_modes."""
        at, weights = tuple(map(self._device.floats, poses)), tuple(map(self._device.floats, moments))
        given = at, weights, images, self._device.waves_here(waves), scale, out
        modes.insert_modes(*seen_by_kernels(given))
