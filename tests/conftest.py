"""What all tests share."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import pytest

from protomer.environment import prepare_environment

# before NumPy and Numba are imported; one thread where another worker tests on the other core
prepare_environment(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)
PROJECT = Path(__file__).resolve().parent.parent
#: files that take longest: begun first, so that no worker is left with one of them at the end. start_up compiles what the others need while
#: another worker searches for symmetry, which needs little of it
SLOWEST = ("slurm", "start_up", "symmetry_search", "relaxation", "refine", "classify", "ab_initio", "symmetric_refine", "examples",
           "symmetry_find_job", "non_uniform", "local_controls", "real_data", "subtract_then_refine", "aberrated_data", "truth",
           "class_trust", "confidence")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests in the order of their files, the slowest first."""
    rank = {f"test_{name}.py": at for at, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real particles, maps, models and oracle files; a test that needs it skips where it is absent."""
    folder = PROJECT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder shared/data beside the project is absent")
    return folder


@pytest.fixture(scope="module")
def on_cpu(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the program that the test's module names as PROGRAM (a file and its words) finds on the CPU."""
    import numpy as np

    from protomer.computing.arithmetic import CPU

    found = importlib.import_module(Path(request.module.PROGRAM[0]).stem).found
    return {name: np.asarray(value) for name, value in found(tmp_path_factory.mktemp("cpu"), CPU).items()}


@pytest.fixture(scope="module", params=[pytest.param("simulator", marks=pytest.mark.slow), "device"])
def on_cuda(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same on CUDA, in a process of its own."""
    from cuda_programs import found_on_cuda

    program, *words = request.module.PROGRAM
    return found_on_cuda(request.param, program, tmp_path_factory.mktemp("cuda"), *words)
