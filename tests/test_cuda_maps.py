"""The M-step on CUDA gives what the CPU gives: in Numba's simulator, and on a device where there is one."""

from __future__ import annotations

import numpy as np
import pytest
from numba import cuda

from cuda_programs import Results
from protomer.computing.device_arrays import SimulatedArray, simulated_library

PROGRAM = ("cuda_m_step.py",)


@pytest.mark.parametrize("name", ["dynamic", "static", "local", "classes", "reference"])
def test_maps_of_an_m_step_on_cuda_equal_those_of_the_cpu(name: str, on_cpu: Results, on_cuda: Results) -> None:
    expected = on_cpu[f"{name}_maps"]
    step = 1 / 255 if name == "local" else 0.0  # a gain that lies halfway between two of its levels may fall to either
    np.testing.assert_allclose(on_cuda[f"{name}_maps"], expected, atol=1e-5 * np.abs(expected).max(), rtol=step)


@pytest.mark.parametrize("name", ["dynamic", "static", "local", "classes"])
def test_curves_of_an_m_step_on_cuda_equal_those_of_the_cpu(name: str, on_cpu: Results, on_cuda: Results) -> None:
    expected = on_cpu[f"{name}_curve"]
    assert expected.min() < 0.9 < expected.max()
    np.testing.assert_allclose(on_cuda[f"{name}_curve"], expected, atol=1e-5)


@pytest.mark.skipif(not cuda.is_available(), reason="no CUDA device is at hand")
def test_the_same_m_step_on_cuda_gives_the_same_bits(on_cuda: Results) -> None:
    assert all(bool(on_cuda[f"{name}_repeats"]) for name in ("dynamic", "static", "local"))


def test_the_simulated_device_refuses_arrays_of_the_host() -> None:
    library = simulated_library()
    there, here = library.arrays.asarray(np.ones((2, 4, 4), np.float32)), np.ones((4, 4), np.float32)
    for wrong in (lambda: there * here, lambda: np.maximum(here, there), lambda: there.__setitem__(0, here), lambda: there.__iadd__(here),
                  lambda: np.where(there, here, 0), lambda: np.stack([there[0], here]), lambda: library.fft.rfftn(here)):
        with pytest.raises(TypeError, match=r"an array of the host \(4, 4\)"):
            wrong()
    doubled = np.where(there > 0, there + there[:1], np.float32(3.0))
    assert isinstance(doubled, SimulatedArray) and type(doubled.get()) is np.ndarray and np.all(doubled.get() == 2.0)
    assert isinstance(library.fft.rfftn(doubled, workers=1), SimulatedArray) and float(doubled.sum()) == 64.0
