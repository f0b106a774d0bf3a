"""Images without the particle: recognised, counted, and kept out of the map."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from protomer.formats.hdf5 import read_particles
from protomer.simulation.draws import EMPTY, PARTICLE
from protomer.simulation.files import read_truth
from refinement_runs import protomer, refine_words, simulate_and_import


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_and_import(tmp_path_factory.mktemp("junk"), number=200, junk=0.3)


@pytest.mark.slow
def test_empty_images_are_told_from_particles_and_the_report_warns(data: Path) -> None:
    protomer(*refine_words(data, data / "refined"), "--set", "rehearse=off")
    particles, truth = read_particles(data / "refined/particles.h5"), read_truth(data / "simulated/truth.h5")
    kind = truth.junk[particles.stack_index]
    presence = particles.class_posterior
    assert np.mean(presence[kind == EMPTY] < 0.5) > 0.9 and np.mean(presence[kind == PARTICLE] > 0.5) > 0.98
    summary = json.loads((data / "refined/summary.json").read_text())
    assert summary["images_likelier_noise"] == int(np.sum(presence < 0.5))
    assert "empty_images" in {warning["code"] for warning in summary["warnings"]}


@pytest.mark.slow
def test_the_null_class_changes_what_is_inserted(data: Path) -> None:
    protomer(*refine_words(data, data / "all_count"), "--set", "null_class=off", "--set", "rehearse=off")
    first, second = (read_particles(data / name / "particles.h5").log_likelihood for name in ("refined", "all_count"))
    assert not np.array_equal(first, second)
