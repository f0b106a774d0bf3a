"""ctf-refine with half maps that were made of the very images that are refined, under CTFs that were wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from protomer.ctf_refinement.changes import with_defocus_change
from protomer.declarations.ctf_refine import JOB
from protomer.formats.hdf5 import read_particles, write_map_record, write_particles
from protomer.maps.volumes import Halves, MapRecord, Volume
from protomer.running.job_run import RunOptions, run_job
from protomer.simulation.dataset import SimulatedData
from protomer.tables.particles import Particles
from protomer_kernels.shells import fourier_shell_correlation
from reconstructions import as_particles, rebuilt
from simulated import chain_dataset

NUMBER, BOX, PIXEL_A, SNR, FINEST_A = 500, 56, 1.8, 0.4, 5.4
TILT_RAD, DEFOCUS_SD_A = (2e-3, -1e-3), 300.0
SHELLS = slice(12, 26)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SimulatedData, np.ndarray]:
    """A folder with particles that know of no tilt and whose defoci are wrong, and the half maps that they make; and their map."""
    folder = tmp_path_factory.mktemp("own")
    data = chain_dataset(NUMBER, BOX, PIXEL_A, SNR, seed=6, beam_tilt_rad=TILT_RAD)
    error_A = np.random.default_rng(9).normal(0, DEFOCUS_SD_A, NUMBER)
    given = with_defocus_change(as_particles(data, folder), np.arange(NUMBER), np.stack([error_A, 0 * error_A, error_A], axis=1))
    halves, whole = rebuilt(given)
    a, b, together = (Volume(np.asarray(one, np.float32), PIXEL_A) for one in (halves.a, halves.b, whole))
    write_particles(folder / "particles.h5", given)
    write_map_record(folder / "volume.h5", MapRecord(Halves(a, b), together))
    return folder, data, whole


def refined(folder: Path, output: Path, rounds: int) -> Particles:
    inputs = {"particles": str(folder / "particles.h5"), "volume": [str(folder / "volume.h5")]}
    run_job(JOB, inputs, {"max_resolution": FINEST_A, "trefoil": False, "rounds": rounds}, RunOptions(output, threads=1))
    return read_particles(output / "particles.h5")


def test_the_noise_that_images_share_with_their_own_map_does_not_hold_values_where_they_are(
        made: tuple[Path, SimulatedData, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, data, before = made
    found = refined(folder, tmp_path / "out", 2)
    after = rebuilt(found)[1]
    truth = [fourier_shell_correlation(one, data.volume.data)[SHELLS].mean() for one in (before, after)]
    tilt = np.array(found.optics_groups[0].beam_tilt_rad)
    left_A = found.defocus_u_A - data.truth.defocus_u_A
    print("tilt", 1e3 * tilt, "defocus left", left_A.std(), "FSC with the truth: planted, refined", np.round(truth, 3))
    np.testing.assert_allclose(tilt, TILT_RAD, atol=6e-4)
    assert left_A.std() < 0.65 * DEFOCUS_SD_A
    assert truth[1] - truth[0] > 0.08
    monkeypatch.setattr("protomer.ctf_refinement.passes.without_own", lambda *given: given[-1])
    held = np.array(refined(folder, tmp_path / "held", 1).optics_groups[0].beam_tilt_rad)
    print("with its own part", 1e3 * held)
    assert held @ TILT_RAD < 0.9 * float(tilt @ TILT_RAD)
