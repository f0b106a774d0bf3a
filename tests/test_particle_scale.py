"""Grey scale per particle: shrunk as its error says, and found in images of unequal contrast."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from protomer.engine.particle_scale import refined_scale
from protomer.formats.hdf5 import read_particles
from protomer.simulation.files import read_truth
from refinement_runs import protomer, refine_words, simulate_and_import


def test_scales_are_shrunk_towards_their_mean_by_the_error_that_each_has() -> None:
    random = np.random.default_rng(3)
    true = 1.0 + 0.2 * random.standard_normal(20_000)
    power = random.uniform(5.0, 200.0, len(true))
    grey = np.stack([true * power + np.sqrt(power) * random.standard_normal(len(true)), power], axis=1)
    found = refined_scale(np.ones(len(true)), grey)
    best = 1.0 + 0.04 / (0.04 + 1.0 / power) * (grey[:, 0] / power - 1.0)  # with the true mean and variance
    assert abs(found.mean() - 1.0) < 1e-12
    assert np.sqrt(np.mean((found - true) ** 2)) < 1.02 * np.sqrt(np.mean((best - true) ** 2))


def test_scales_that_are_all_the_same_stay_so_and_images_without_signal_get_the_mean() -> None:
    random = np.random.default_rng(4)
    power = np.full(5_000, 30.0)
    power[:10] = 0.0
    grey = np.stack([power + np.sqrt(power) * random.standard_normal(len(power)), power], axis=1)
    found = refined_scale(np.full(len(power), 2.0), grey)
    assert np.all(found[:10] == found[0]) and found.std() < 0.08 and abs(found.mean() - 2.0) < 1e-9
    assert np.array_equal(refined_scale(np.ones(3), np.zeros((3, 2))), np.ones(3))


@pytest.mark.slow
def test_a_refinement_finds_the_contrast_of_its_images(tmp_path: Path) -> None:
    data = simulate_and_import(tmp_path, number=200, snr=0.4, realistic="on", junk=0.0)
    protomer(*refine_words(data, tmp_path / "scaled"), "--set", "particle_scale=on", "--set", "rehearse=off", "--set",
             "max_alignment_resolution=14A")
    found = read_particles(tmp_path / "scaled/particles.h5")
    true = read_truth(data / "simulated/truth.h5").take(found.stack_index).contrast
    agreement = np.corrcoef(found.scale, true)[0, 1]
    print(f"correlation with the true contrast {agreement:.3f}; spread {found.scale.std():.3f}, true {true.std():.3f}")
    assert agreement > 0.8 and 0.5 * true.std() < found.scale.std() < 1.3 * true.std()
    assert json.loads((tmp_path / "scaled/summary.json").read_text())["status"] == "done"
