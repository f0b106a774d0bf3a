"""Where prepared images are kept, and how much memory a run takes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from protomer.errors import InputError
from protomer.formats.hdf5 import read_particles
from protomer.formats.mrc import read_volume
from protomer.imaging import image_memory
from protomer.imaging.image_cache import ImageCache
from protomer.imaging.images import ImageStore
from protomer.running.batches import fold_count, make_batches
from protomer.running.events import Events
from protomer_kernels.half_plane import HalfPlane, largest_radius
from refinement_runs import environment, protomer, refine_words, simulate_and_import, values


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_and_import(tmp_path_factory.mktemp("memory"))


MEASURE = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
print(done.stdout, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, sep="\\n")
sys.exit(done.returncode)
"""


def peak_memory_GB(words: list[object], **variables: str) -> float:
    """Peak resident memory of a protomer command on one thread, which must succeed.

    It is started by a small process of its own: a process begins with the peak memory of the one that started it, which tests make large.
    """
    command = [sys.executable, "-S", "-c", MEASURE, sys.executable, "-m", "protomer", *map(str, words), "--threads", "1"]
    done = subprocess.run(command, env={**environment(), **variables}, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout
    return int(done.stdout.split()[-1]) * 1024 / 1e9


@pytest.mark.slow
def test_a_dry_run_predicts_the_peak_memory_within_20_percent_and_short_memory_changes_no_bit(data: Path) -> None:
    words = refine_words(data, data / "warm")
    peak_memory_GB(words)  # what compiles here is not counted, nor in the first of two runs: tests beside this one share the cache
    said = protomer(*refine_words(data, data / "measured"), "--dry-run").stdout
    predicted_GB = float(re.search(r"memory +([0-9.]+) GB", said)[1])  # type: ignore[index]
    measured_GB = min(peak_memory_GB(refine_words(data, data / name)) for name in ("first", "measured"))
    assert 0.8 < predicted_GB / measured_GB < 1.2, (predicted_GB, measured_GB)
    peak_memory_GB(refine_words(data, data / "streamed"), SLURM_MEM_PER_NODE="100")
    log = [json.loads(line) for line in (data / "streamed/log.jsonl").read_text().splitlines()]
    chosen = [event for event in log if event["event"] == "image_cache"]
    assert chosen and not Path(chosen[0]["folder"]).exists()
    one, other = values(data / "measured/particles.h5"), values(data / "streamed/particles.h5")
    assert all(one[name] == other[name] for name in one)
    assert np.array_equal(read_volume(data / "measured/map.mrc").data, read_volume(data / "streamed/map.mrc").data)


def test_images_come_back_from_a_folder_as_they_are_and_in_half_precision_to_three_digits(data: Path, tmp_path: Path) -> None:
    particles = read_particles(data / "imported/particles.h5")
    plane = HalfPlane(48, largest_radius(48))
    rows = [batch.rows for batch in make_batches(particles, 1, 0)]
    kept, filed, half = (
        ImageStore(particles, plane, rows, None if folder is None else ImageCache(folder, None, print), half_precision=halved)
        for folder, halved in ((None, False), (tmp_path / "a", False), (tmp_path / "b", True))
    )
    for number, crops in filed.stream(range(len(rows))):
        assert np.array_equal(crops, kept.load(number))
        assert np.allclose(half.load(number), crops, rtol=2e-3, atol=1e-4)
    assert size_of(tmp_path / "b") < 0.55 * size_of(tmp_path / "a")


def size_of(folder: Path) -> int:
    """Bytes of a cache's entries."""
    return sum(path.stat().st_size for path in folder.glob("*.npy"))


def test_where_a_cache_has_no_room_images_are_prepared_each_time_and_are_the_same(data: Path, tmp_path: Path) -> None:
    particles = read_particles(data / "imported/particles.h5")
    plane = HalfPlane(48, largest_radius(48))
    rows = [batch.rows for batch in make_batches(particles, 1, 0)]
    told: list[str] = []
    cache = ImageCache(tmp_path / "a", 1000, lambda code, text: told.append(code))
    kept, without = ImageStore(particles, plane, rows), ImageStore(particles, plane, rows, cache)
    together = ImageStore(particles, plane, rows, cache, blocks=[0] * len(rows))
    for number in range(len(rows)):
        for store in (without, together):
            assert np.array_equal(store.load(number), kept.load(number))
    assert set(told) == {"image_cache_full"} and cache.refused == 2 * len(rows) and size_of(tmp_path / "a") == 0


@pytest.mark.slow
def test_two_jobs_at_once_share_a_cache_that_has_room_for_some_of_their_images_and_get_the_bits_of_one_that_uses_none(
    data: Path, tmp_path: Path
) -> None:
    protomer("import", "--star", data / "simulated/truth.star", "--output", tmp_path / "posed")
    words = ["reconstruct", "--particles", tmp_path / "posed"]
    protomer(*words, "--output", tmp_path / "alone")
    both = [subprocess.Popen([sys.executable, "-m", "protomer", *map(str, words), "--output", str(tmp_path / name), "--threads", "1"],
                             env={**environment(), "PROTOMER_CACHE": str(tmp_path / "cache"), "PROTOMER_CACHE_GB": "0.0006"},
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for name in ("one", "two")]
    assert [process.wait(timeout=200) for process in both] == [0, 0]
    assert 0 < size_of(tmp_path / "cache") <= 600_000
    for name in ("one", "two"):
        assert (tmp_path / name / "map.mrc").read_bytes() == (tmp_path / "alone/map.mrc").read_bytes()
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        assert "image_cache_full" in [warning["code"] for warning in summary["warnings"]]


def test_where_neither_memory_nor_disk_suffices_the_error_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(image_memory, "available_memory_bytes", lambda: 10**9)
    events = Events(None)
    assert image_memory.image_folder(None, 10**8, 10**8, 1, events) is None
    given = image_memory.image_folder(tmp_path, 10**8, 10**8, 1, events)
    assert given is not None and given.folder == tmp_path
    with pytest.raises(InputError, match="half_precision"):
        image_memory.image_folder(None, 10**18, 10**8, 1, events)
    with pytest.raises(InputError, match="prepared images of one rank take"):
        image_memory.image_folder(None, 10**18, 10**8, 2, events)


def test_a_batch_system_s_limit_counts_as_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "64")
    assert image_memory.available_memory_bytes() <= 64 * 2**20


@pytest.mark.parametrize(("line", "place", "names"), [
    ("0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0", "system.slice/slurmstepd.scope/job_7", ("memory.max", "memory.current")),
    ("5:memory:/slurm/uid_0/job_7/step_0", "memory/slurm/uid_0/job_7", ("memory.limit_in_bytes", "memory.usage_in_bytes"))])
def test_memory_is_what_the_batch_systems_control_group_still_allows(line: str, place: str, names: tuple[str, str], tmp_path: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_MEM_PER_NODE", raising=False)
    job = tmp_path / place
    job.mkdir(parents=True)
    (job / names[0]).write_text(f"{50 * 2**20}\n")
    (job / names[1]).write_text(f"{10 * 2**20}\n")
    (job / "memory.stat").write_text(f"anon 5\n{'total_' * ('limit' in names[0])}inactive_file {4 * 2**20}\n")
    (job.parent / names[0]).write_text("max\n")
    (tmp_path / "self").write_text(f"{line}\n")
    monkeypatch.setattr(image_memory, "_CGROUPS", tmp_path)
    monkeypatch.setattr(image_memory, "_OWN_CGROUP", tmp_path / "self")
    assert image_memory.available_memory_bytes() == 44 * 2**20


def test_folds_are_left_out_where_images_are_many_or_maps_large_or_halves_tiny() -> None:
    assert fold_count(None, [500, 480], 31) == 4
    assert fold_count(None, [50_000, 50_000], 31) == 1
    assert fold_count(None, [500, 480], 127) == 1
    assert fold_count(None, [500, 10], 31) == 1
    assert fold_count(2, [50_000, 50_000], 127) == 2
