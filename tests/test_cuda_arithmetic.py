"""An E-step and a reconstruction on CUDA give what the CPU gives: in Numba's simulator, and on a device where there is one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from cuda_e_step import BOX, PIXEL_A
from cuda_programs import Results
from kernel_oracles import degrees_between
from protomer.formats.hdf5 import write_particles
from protomer.formats.mrc import read_volume
from protomer.running.device_mpi import SWITCH
from reconstructions import as_particles
from refinement_runs import protomer, protomer_process
from simulated import chain_dataset

PROGRAM = ("cuda_e_step.py", "cuda")


def test_poses_and_weights_of_an_e_step_on_cuda_equal_those_of_the_cpu(on_cpu: Results, on_cuda: Results) -> None:
    assert degrees_between(on_cuda["rotation"], on_cpu["rotation"]).max() < 1e-3
    for name, tolerance in (("shift_px", 1e-4), ("weight", 1e-4), ("posterior", 1e-4), ("log_likelihood", 1e-2), ("covariance", 1e-5)):
        np.testing.assert_allclose(on_cuda[name], on_cpu[name], atol=tolerance)


def test_sums_of_an_e_step_on_cuda_equal_those_of_the_cpu(on_cpu: Results, on_cuda: Results) -> None:
    largest = np.abs(on_cpu["accumulator"]).max()
    assert on_cuda["scale"] == on_cpu["scale"] and largest > 1e12
    np.testing.assert_allclose(on_cuda["accumulator"].astype(float), on_cpu["accumulator"].astype(float), atol=1e-4 * largest)
    for name in ("residuals", "grey"):
        np.testing.assert_allclose(on_cuda[name], on_cpu[name], atol=1e-5 * np.abs(on_cpu[name]).max())


def test_a_local_e_step_on_cuda_equals_that_of_the_cpu(on_cpu: Results, on_cuda: Results) -> None:
    assert degrees_between(on_cuda["local_rotation"], on_cpu["local_rotation"]).max() < 1e-3
    np.testing.assert_allclose(on_cuda["local_shift_px"], on_cpu["local_shift_px"], atol=1e-4)
    np.testing.assert_allclose(on_cuda["local_residuals"], on_cpu["local_residuals"], atol=1e-5 * np.abs(on_cpu["local_residuals"]).max())


def test_maps_reconstructed_on_cuda_equal_those_of_the_cpu(on_cpu: Results, on_cuda: Results) -> None:
    for name in ("half_a", "together"):
        np.testing.assert_allclose(on_cuda[name], on_cpu[name], atol=1e-5 * np.abs(on_cpu[name]).max())


def test_batches_one_by_one_give_the_bits_of_many_at_once(on_cuda: Results, on_cpu: Results) -> None:
    assert bool(on_cuda["is_repeatable"]) and bool(on_cpu["is_repeatable"])


def test_a_job_with_backend_cuda_says_so_and_gives_the_map_of_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = chain_dataset(12, BOX, PIXEL_A, 0.5)
    write_particles(tmp_path / "particles.h5", as_particles(data, tmp_path))
    words = ["reconstruct", "--particles", tmp_path / "particles.h5"]
    protomer(*words, "--output", tmp_path / "cpu", "--backend", "cpu")
    monkeypatch.setitem(os.environ, "NUMBA_ENABLE_CUDASIM", "1")
    protomer_process(*words, "--output", tmp_path / "cuda", "--backend", "cuda")
    begun = json.loads((tmp_path / "cuda/log.jsonl").read_text().splitlines()[0])
    assert begun["backend"] == "cuda" and begun["why"] == "as asked"
    expected = read_volume(tmp_path / "cpu/half_a.mrc").data
    np.testing.assert_allclose(read_volume(tmp_path / "cuda/half_a.mrc").data, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize(("switch", "where"), [("on", "on the GPUs"), ("off", "through the host")])
def test_two_ranks_on_cuda_write_the_bits_of_one_wherever_their_sums_meet(
    switch: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = chain_dataset(12, BOX, PIXEL_A, 0.5)
    write_particles(tmp_path / "particles.h5", as_particles(data, tmp_path))
    words = ["reconstruct", "--particles", tmp_path / "particles.h5", "--backend", "cuda"]
    monkeypatch.setitem(os.environ, "NUMBA_ENABLE_CUDASIM", "1")
    monkeypatch.setitem(os.environ, SWITCH, switch)
    for ranks in (1, 2):
        protomer_process(*words, "--output", tmp_path / str(ranks), ranks=ranks)
    begun = json.loads((tmp_path / "2/log.jsonl").read_text().splitlines()[0])
    assert begun["ranks"] == 2 and begun["sums"] == where
    for name in ("half_a.mrc", "half_b.mrc", "map.mrc"):
        assert np.array_equal(read_volume(tmp_path / "1" / name).data, read_volume(tmp_path / "2" / name).data)
