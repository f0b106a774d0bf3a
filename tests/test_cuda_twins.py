"""The CUDA drivers give what the CPU's do, in Numba's simulator and on a device, and compile for a device without double precision."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numba import cuda, types

from kernel_oracles import NORMAL_ROW, blob_map, degrees_between, prediction, random_rotations
from protomer_kernels import insertion, newton, slices
from protomer_kernels.cuda import insertion as cuda_insertion
from protomer_kernels.cuda import newton as cuda_newton
from protomer_kernels.cuda import normal_equations as cuda_normal_equations
from protomer_kernels.cuda import slices as cuda_slices
from protomer_kernels.half_plane import HalfPlane

PROJECT = Path(__file__).resolve().parent.parent
PLANE = HalfPlane(32, 13)  # more coefficients than a block has threads
IMAGE = np.array([1, 0, 1])
STEPS = 4
SCALE = insertion.fixed_point_scale(200.0, 3)


@pytest.fixture(scope="module")
def given() -> dict[str, np.ndarray]:
    """A volume, three poses of two noisy images that nearly fit it, and an accumulator that already holds something."""
    rng = np.random.default_rng(50)
    volume = slices.transform_volume(blob_map(PLANE.box), PLANE.radius)
    rotations, shifts = random_rotations(3, 50), rng.uniform(-2, 2, (3, 2))
    amplitude = (3.0 * np.cos(np.array([[0.3], [0.9]]) + 0.25 * PLANE.shell)).astype(np.float32)
    truth = np.array([prediction(volume, amplitude[n], rotations[s], shifts[s] + 0.4, PLANE) for n, s in ((0, 1), (1, 0))])
    data = (np.stack([truth.real, truth.imag], axis=1) + rng.standard_normal((2, 2, len(PLANE)))).astype(np.float32)
    assert cuda_slices.THREADS < len(PLANE) and np.abs(data).max() * np.abs(amplitude).max() < 200.0
    accumulator = insertion.empty_accumulator(PLANE.radius)
    accumulator[:] = rng.integers(-1000, 1000, accumulator.shape)
    return {"volume": volume, "rotations": rotations, "shifts": shifts, "amplitude": amplitude, "data": data, "image": IMAGE,
            "kx": PLANE.kx, "ky": PLANE.ky, "box": np.int64(PLANE.box), "weights": rng.uniform(0.2, 1.0, 3), "scale": np.float64(SCALE),
            "accumulator": accumulator, "magnification": np.array([np.eye(2), [[0.99, 0.02], [-0.03, 0.97]]]),
            "steps": np.int64(STEPS), "free_priors": newton.NO_PRIOR, "free_extent": newton.NO_EXTENT,
            "bounded_priors": np.concatenate([rotations.reshape(3, 9), shifts, np.tile([50.0, 60.0, 70.0, 3.0, 4.0], (3, 1))], axis=1),
            "bounded_extent": np.array([0.05, 0.3])}


@pytest.fixture(scope="module", params=["simulator", "device"])
def found(request: pytest.FixtureRequest, given: dict, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """What tests/cuda_runs.py writes."""
    if request.param == "device" and not cuda.is_available():
        pytest.skip("no CUDA device is at hand")
    folder = tmp_path_factory.mktemp(request.param)
    np.savez(folder / "given.npz", **given)
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1" if request.param == "simulator" else "0",
                                "PYTHONPATH": os.pathsep.join(str(PROJECT / part) for part in ("pipeline", "kernels"))}
    command = [sys.executable, str(PROJECT / "tests" / "cuda_runs.py"), str(folder / "given.npz"), str(folder / "found.npz")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(folder / "found.npz") as file:
        return dict(file)


def test_slices_from_cuda_equal_those_from_the_cpu(given: dict, found: dict) -> None:
    expected = np.empty_like(found["views"])
    slices.extract_slices(given["volume"], given["rotations"].astype(np.float32), PLANE.kx, PLANE.ky, expected)
    np.testing.assert_allclose(found["views"], expected, atol=2e-6 * np.abs(expected).max())


def test_normal_equations_from_cuda_equal_those_from_the_cpu(given: dict, found: dict) -> None:
    expected, plane = np.empty((3, 21)), PLANE.arrays(len(PLANE))
    starts = (IMAGE, given["rotations"].copy(), given["shifts"].copy())
    batch = (given["data"], given["amplitude"], given["magnification"])
    newton.climb_poses(given["volume"], starts, batch, plane, 0, newton.UNBOUNDED, expected)
    for s in range(3):
        size = np.linalg.norm(given["data"][IMAGE[s]].astype(float))
        length = np.sqrt([expected[s, 6 + m] for m, (p, q) in enumerate(NORMAL_ROW) if p == q])
        sizes = [size**2, *(size * length), *(length[p] * length[q] for p, q in NORMAL_ROW)]
        np.testing.assert_array_less(np.abs(found["sums"][s] - expected[s]), 3e-6 * np.array(sizes))


@pytest.mark.parametrize("bounds", ["free", "bounded"])
def test_climbs_on_cuda_reach_the_poses_of_the_cpu(bounds: str, given: dict, found: dict) -> None:
    expected, rotations, shifts = np.empty((3, 21)), given["rotations"].copy(), given["shifts"].copy()
    batch = (given["data"], given["amplitude"], given["magnification"])
    newton.climb_poses(given["volume"], (IMAGE, rotations, shifts), batch, PLANE.arrays(len(PLANE)), STEPS,
                       (given[f"{bounds}_priors"], given[f"{bounds}_extent"]), expected)
    moved = degrees_between(given["rotations"], rotations)
    print(bounds, moved, shifts-given["shifts"], degrees_between(found[f"{bounds}_rotations"], rotations), np.abs(found[f"{bounds}_shifts"]- shifts).max(),(found[f"{bounds}_sums"]- expected)[:,0], expected[:,0])
    assert 0


def test_sums_inserted_by_cuda_equal_those_from_the_cpu(given: dict, found: dict) -> None:
    expected = given["accumulator"].copy()
    poses = (IMAGE, given["rotations"], given["shifts"], given["weights"])
    insertion.insert_slices(poses, (given["data"], given["amplitude"]), PLANE.arrays(len(PLANE)), SCALE, 1, expected)
    assert found["accumulator"].dtype == np.int64
    largest = np.abs((expected - given["accumulator"]) / SCALE).max()
    np.testing.assert_allclose(found["accumulator"] / SCALE, expected / SCALE, atol=2e-6 * largest)


FLOATS = [types.Array(types.float32, n, "C") for n in range(5)]
INTEGERS = types.Array(types.int64, 1, "C")
BATCH, CLIMBABLE = types.Tuple((FLOATS[3], FLOATS[2])), types.Tuple((FLOATS[3], FLOATS[2], FLOATS[3]))
STARTS = types.Tuple((INTEGERS, FLOATS[3], FLOATS[2]))
HALF_PLANE = types.Tuple((FLOATS[1], FLOATS[1], types.int64))
KERNELS = {
    "slices": (cuda_slices.slices_kernel, (FLOATS[4], FLOATS[3], FLOATS[1], FLOATS[1], FLOATS[3])),
    "normal_equations": (cuda_normal_equations.normal_equations_kernel,
                         (FLOATS[4], STARTS, CLIMBABLE, HALF_PLANE, FLOATS[2])),
    "climb": (cuda_newton.climb_kernel, (FLOATS[4], STARTS, CLIMBABLE, HALF_PLANE, types.int64,
                                         types.Tuple((FLOATS[2], FLOATS[1])), FLOATS[2])),
    "insertion": (cuda_insertion.insertion_kernel, (types.Tuple((INTEGERS, FLOATS[3], FLOATS[2], FLOATS[1])), BATCH, HALF_PLANE,
                                                    types.float32, types.Array(types.int64, 4, "C"))),
}


@pytest.fixture(params=KERNELS)
def ptx(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The PTX of a driver for compute capability 9.0. Numba asks the device for its capability even so: it is told."""
    if importlib.util.find_spec("numba_cuda") is None:
        pytest.skip("numba-cuda is not installed (pip install 'protomer[gpu]')")
    from numba.cuda import dispatcher
    from numba.cuda.cudadrv import nvvm

    try:
        nvvm.NVVM()
    except Exception as problem:
        pytest.skip(f"numba-cuda finds no NVVM: {problem}")
    monkeypatch.setattr(dispatcher, "get_current_device", lambda: SimpleNamespace(compute_capability=(9, 0)))
    kernel, signature = KERNELS[request.param]
    return cuda.compile_ptx(kernel.py_func, signature, cc=(9, 0))[0]


def test_cuda_drivers_compile_without_double_precision_or_local_memory(ptx: str) -> None:
    assert ".target sm_90" in ptx and "mul.f32" in ptx
    assert ".f64" not in ptx and ".local" not in ptx


def test_cuda_drivers_keep_their_registers(ptx: str, tmp_path: Path) -> None:
    wheels = sorted(Path(sys.prefix).glob("lib/python*/site-packages/nvidia/cu*/bin/ptxas"))
    ptxas = shutil.which("ptxas") or (str(wheels[-1]) if wheels else None)
    if ptxas is None:
        pytest.skip("ptxas is not installed (pip install nvidia-cuda-nvcc)")
    (tmp_path / "kernel.ptx").write_text(ptx)
    command = [ptxas, "-arch=sm_90", "-v", "-o", str(tmp_path / "kernel.cubin"), str(tmp_path / "kernel.ptx")]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "0 bytes spill stores, 0 bytes spill loads" in report
    assert int(re.findall(r"Used (\d+) registers", report)[0]) <= 128


def test_nothing_on_the_paths_of_the_cpu_imports_the_cuda_drivers() -> None:
    names = "protomer.jobs.refine, protomer.jobs.reconstruct, protomer.jobs.simulate, protomer.command_line"
    program = f"import sys, {names}; print([name for name in sys.modules if name.startswith('protomer_kernels.cuda')])"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(PROJECT / part) for part in ("pipeline", "kernels"))}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
