"""CTFs refined within a refinement: what they gain, a run that is stopped and goes on, ranks, and maps that are too coarse."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protomer.catalogue import declaration
from protomer.engine.maximisation import solid_sphere
from protomer.formats.hdf5 import read_particles, write_particles
from protomer.formats.mrc import write_volume
from protomer.maps.volumes import Volume
from protomer.refinement import checkpoint
from protomer.refinement.ctf_within import CHECKPOINT, COLUMNS
from protomer.running.job_run import RunOptions, run_job
from protomer.simulation.dataset import SimulatedData
from protomer_kernels.fourier import low_pass
from protomer_kernels.shells import fourier_shell_correlation
from reconstructions import as_particles, rebuilt
from refinement_runs import protomer, values
from simulated import chain_dataset
from test_ctf_refine import planted

NUMBER, BOX, PIXEL_A, TILT_RAD, DEFOCUS_SD_A = 240, 64, 1.6, (1.2e-3, -8e-4), 400.0
SETTINGS = {"initial_low_pass": 12, "cross_fit_folds": 1, "rehearse": False, "null_class": False}
BOTH = {"defocus_refine": True, "aberration_refine": True}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SimulatedData]:
    """Images with a tilt; in wrong/ particles that know nothing of it and whose defoci are off; and a start."""
    folder = tmp_path_factory.mktemp("within")
    data = chain_dataset(NUMBER, BOX, PIXEL_A, 1.0, seed=21, beam_tilt_rad=TILT_RAD)
    (folder / "wrong").mkdir()
    planted(data, folder / "wrong", DEFOCUS_SD_A)
    write_volume(folder / "start.mrc", Volume(low_pass(data.volume.data, BOX * PIXEL_A / 12.0, 2.0), PIXEL_A))
    return folder, data


def run(folder: Path, name: str, output: str, **settings: Any) -> dict[str, Any]:
    inputs = {"particles": folder / name / "particles.h5", "volume": folder / "start.mrc"}
    return run_job(declaration("refine"), inputs, SETTINGS | settings, RunOptions(folder / output, threads=1, resume=True))


def truth_curve(volume: np.ndarray, data: SimulatedData) -> np.ndarray:
    mask = solid_sphere(BOX, 0.42)
    return fourier_shell_correlation(volume * mask, data.volume.data * mask)[15:28]


@pytest.fixture(scope="module")
def summary(data: tuple[Path, SimulatedData]) -> dict[str, Any]:
    """Of the refinement in found/."""
    return run(data[0], "wrong", "found", **BOTH)


def test_a_refinement_takes_back_planted_errors_and_its_map_gains_by_it(data: tuple[Path, SimulatedData], summary: dict[str, Any]) -> None:
    folder, truth = data
    found = read_particles(folder / "found/particles.h5")
    left_A, tilt = found.defocus_u_A - truth.truth.defocus_u_A, np.array(found.optics_groups[0].beam_tilt_rad)
    wrong = read_particles(folder / "wrong/particles.h5")
    columns = {name: getattr(wrong, name) for name in COLUMNS}
    unaware = replace(found.with_columns(**columns), optics_groups=wrong.optics_groups)
    curves = [truth_curve(rebuilt(particles)[1], truth) for particles in (found, unaware)]
    print("tilt", 1e3 * tilt, "defocus left", left_A.std(), "FSC", curves)
    assert np.linalg.norm(tilt - TILT_RAD) < 0.1 * np.hypot(*TILT_RAD) and left_A.std() < 0.16 * DEFOCUS_SD_A  # 0.18 after one search
    assert summary["ctf"]["searches"] > 1
    assert curves[0].mean() > curves[1].mean() + 0.05
    assert summary["ctf"]["optics_groups"][0]["refined"] and not (folder / "found" / CHECKPOINT).exists()
    assert "beam tilt x" in (folder / "found/report.html").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("summary")
def test_a_run_stopped_after_its_ctfs_goes_on_with_two_ranks_to_the_same_bits(
        data: tuple[Path, SimulatedData], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = data
    seen, iterate = [], checkpoint.iterate

    def failing(setup: Any, state: Any) -> Any:
        seen.append(any(setup.particles.optics_groups[0].beam_tilt_rad))
        if sum(seen) == 2:
            raise KeyboardInterrupt
        return iterate(setup, state)

    monkeypatch.setattr(checkpoint, "iterate", failing)
    with pytest.raises(KeyboardInterrupt):
        run(folder, "wrong", "stopped", **BOTH)
    assert (folder / "stopped" / CHECKPOINT).exists()
    words = [f"--set={name}={value}" for name, value in (SETTINGS | BOTH).items()]
    protomer("refine", "--particles", folder / "wrong/particles.h5", "--volume", folder / "start.mrc", "--output", folder / "stopped",
             "--resume", *words, ranks=2)
    for name in ("particles.h5", "volume.h5"):
        one, other = values(folder / "found" / name), values(folder / "stopped" / name)
        assert {key for key in one if one[key] != other[key]} == set()


def test_maps_that_are_too_coarse_keep_their_ctfs_and_it_is_said(tmp_path: Path) -> None:
    coarse = chain_dataset(120, 32, 4.0, 0.3, seed=2)
    (tmp_path / "wrong").mkdir()
    particles = as_particles(coarse, tmp_path / "wrong")
    write_particles(tmp_path / "wrong/particles.h5", particles)
    write_volume(tmp_path / "start.mrc", Volume(low_pass(coarse.volume.data, 32 * 4.0 / 20.0, 2.0), 4.0))
    summary = run(tmp_path, "wrong", "out", **BOTH | {"initial_low_pass": 20})
    assert summary["ctf"] is None and "ctf_kept" in json.dumps(summary["warnings"])
    np.testing.assert_array_equal(read_particles(tmp_path / "out/particles.h5").defocus_u_A, particles.defocus_u_A)
