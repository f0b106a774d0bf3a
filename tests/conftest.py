"""What all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from protomer.environment import use_kernel_cache

use_kernel_cache()  # before Numba is imported: its own cache does not notice a change in a function that a cached one calls
PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real particles, maps, models and oracle files; a test that needs it skips where it is absent."""
    folder = PROJECT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder shared/data beside the project is absent")
    return folder
