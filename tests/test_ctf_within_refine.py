"""CTFs refined within a refinement: what they gain, a run that is stopped and goes on, ranks, and maps that are too coarse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protomer.catalogue import declaration
from protomer.engine.maximisation import solid_sphere
from protomer.formats.hdf5 import read_map_record, read_particles, write_particles
from protomer.formats.mrc import write_volume
from protomer.maps.volumes import Volume
from protomer.refinement import checkpoint
from protomer.refinement.ctf_within import CHECKPOINT
from protomer.running.job_run import RunOptions, run_job
from protomer.simulation.dataset import SimulatedData
from protomer_kernels.fourier import low_pass
from protomer_kernels.shells import fourier_shell_correlation
from reconstructions import as_particles
from refinement_runs import protomer, values
from simulated import chain_dataset
from test_ctf_refine import planted

NUMBER, BOX, PIXEL_A, TILT_RAD, DEFOCUS_SD_A = 400, 64, 1.6, (1.2e-3, -8e-4), 400.0
SETTINGS = {"initial_low_pass": 12, "cross_fit_folds": 1, "rehearse": False, "null_class": False}
BOTH = {"defocus_refine": True, "aberration_refine": True}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SimulatedData]:
    """Images with a tilt; in wrong/ particles that know nothing of it and whose defoci are off, in right/ those that know; and a start."""
    folder = tmp_path_factory.mktemp("within")
    data = chain_dataset(NUMBER, BOX, PIXEL_A, 0.5, seed=21, beam_tilt_rad=TILT_RAD)
    for name in ("wrong", "right"):
        (folder / name).mkdir()
    planted(data, folder / "wrong", DEFOCUS_SD_A)
    free = chain_dataset(NUMBER, BOX, PIXEL_A, 0.5, seed=21)
    write_particles(folder / "right/particles.h5", as_particles(free, folder / "right"))
    write_volume(folder / "start.mrc", Volume(low_pass(data.volume.data, BOX * PIXEL_A / 12.0, 2.0), PIXEL_A))
    return folder, data


def run(folder: Path, name: str, output: str, **settings: Any) -> dict[str, Any]:
    inputs = {"particles": folder / name / "particles.h5", "volume": folder / "start.mrc"}
    return run_job(declaration("refine"), inputs, SETTINGS | settings, RunOptions(folder / output, threads=1, resume=True))


def truth_curve(folder: Path, output: str, data: SimulatedData) -> np.ndarray:
    halves, mask = read_map_record(folder / output / "volume.h5").half_maps, solid_sphere(BOX, 0.42)
    return fourier_shell_correlation((halves.a.data + halves.b.data) * mask, data.volume.data * mask)


def test_a_refinement_takes_back_planted_errors_and_comes_near_one_that_never_had_them(data: tuple[Path, SimulatedData]) -> None:
    folder, truth = data
    summary = run(folder, "wrong", "found", **BOTH)
    run(folder, "wrong", "ignored")
    run(folder, "right", "right_map")
    curves = {name: truth_curve(folder, name, truth)[3:28] for name in ("found", "ignored", "right_map")}
    particles = read_particles(folder / "found/particles.h5")
    left_A = particles.defocus_u_A - truth.truth.defocus_u_A
    tilt = np.array(particles.optics_groups[0].beam_tilt_rad)
    print("tilt", 1e3 * tilt, "defocus left", left_A.std(), {name: curve.round(2) for name, curve in curves.items()})
    assert np.linalg.norm(tilt - TILT_RAD) < 0.35 * np.hypot(*TILT_RAD) and left_A.std() < 0.6 * DEFOCUS_SD_A
    outer = {name: curve[12:].mean() for name, curve in curves.items()}
    assert outer["found"] > outer["ignored"] + 0.05 and outer["found"] > outer["right_map"] - 0.1, outer
    assert summary["ctf"]["optics_groups"][0]["refined"] and not (folder / "found" / CHECKPOINT).exists()
    assert "beam tilt x" in (folder / "found/report.html").read_text()


def test_a_run_that_was_stopped_after_its_ctfs_ends_in_the_same_bits(data: tuple[Path, SimulatedData], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = data
    seen, iterate = [], checkpoint.iterate

    def failing(setup: Any, state: Any) -> Any:
        seen.append(setup.particles.optics_groups[0].beam_tilt_rad)
        if any(seen[-1]) and len([tilt for tilt in seen if any(tilt)]) == 2:
            raise KeyboardInterrupt
        return iterate(setup, state)

    monkeypatch.setattr(checkpoint, "iterate", failing)
    with pytest.raises(KeyboardInterrupt):
        run(folder, "wrong", "stopped", **BOTH)
    monkeypatch.setattr(checkpoint, "iterate", iterate)
    assert (folder / "stopped" / CHECKPOINT).exists()
    run(folder, "wrong", "stopped", **BOTH)
    for name in ("particles.h5", "volume.h5"):
        one, other = values(folder / "found" / name), values(folder / "stopped" / name)
        assert {key for key in one if one[key] != other[key]} == set()


def test_two_ranks_give_the_same_bits(data: tuple[Path, SimulatedData]) -> None:
    folder, _ = data
    words = [f"--set={name}={value}" for name, value in (SETTINGS | BOTH).items()]
    protomer("refine", "--particles", folder / "wrong/particles.h5", "--volume", folder / "start.mrc", "--output", folder / "two", *words,
             ranks=2)
    one, two = read_particles(folder / "found/particles.h5"), read_particles(folder / "two/particles.h5")
    assert one.optics_groups == two.optics_groups
    for name in one.columns:
        np.testing.assert_array_equal(one.columns[name], two.columns[name], err_msg=name)


def test_maps_that_are_too_coarse_keep_their_ctfs_and_it_is_said(tmp_path: Path) -> None:
    coarse = chain_dataset(120, 32, 4.0, 0.3, seed=2)
    (tmp_path / "wrong").mkdir()
    particles = as_particles(coarse, tmp_path / "wrong")
    write_particles(tmp_path / "wrong/particles.h5", particles)
    write_volume(tmp_path / "start.mrc", Volume(low_pass(coarse.volume.data, 32 * 4.0 / 20.0, 2.0), 4.0))
    summary = run(tmp_path, "wrong", "out", **BOTH | {"initial_low_pass": 20})
    assert summary["ctf"] is None and "ctf_kept" in json.dumps(summary["warnings"])
    np.testing.assert_array_equal(read_particles(tmp_path / "out/particles.h5").defocus_u_A, particles.defocus_u_A)
