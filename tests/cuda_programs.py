"""Programs beside these tests that compute on CUDA, each in a process of its own: in Numba's simulator, or on a device."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba import cuda

from refinement_runs import PROJECT, environment

Results = dict[str, np.ndarray]
PLACES = (pytest.param("simulator", marks=pytest.mark.slow), "device")


def found_on_cuda(place: str, program: str, folder: Path, *words: str) -> Results:
    """What tests/PROGRAM, given `words` and a folder, leaves there as found.npz; skips where there is no device and one is asked for."""
    if place == "device" and not cuda.is_available():
        pytest.skip("no CUDA device is at hand")
    surroundings = environment() | {"NUMBA_ENABLE_CUDASIM": "1" if place == "simulator" else "0"}
    done = subprocess.run([sys.executable, str(PROJECT / "tests" / program), *words, str(folder)], env=surroundings, capture_output=True,
                          text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    with np.load(folder / "found.npz") as file:
        return dict(file)
