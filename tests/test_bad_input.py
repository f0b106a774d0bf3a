"""Bad input on the command line as a user types it: each gives one clear message, its exit code, and nothing half written."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from protomer.formats.hdf5 import read_particles, write_particles
from protomer.formats.mrc import write_stack, write_volume
from protomer.maps.volumes import Volume
from protomer.tables.particles import Particles
from refinement_runs import environment, protomer, protomer_process, refine_words, running, simulate_and_import, values
from small_disk import small_disk
from stack_files import BOX, PIXEL_A, noise_images, plain_rows, star_text, write_data_set

pytestmark = pytest.mark.filterwarnings("ignore:Data array contains NaN values:RuntimeWarning")
POSE = {"rlnAngleRot": 10, "rlnAngleTilt": 20, "rlnAnglePsi": 30, "rlnOriginXAngst": 1, "rlnOriginYAngst": 2}
OPTICS = {"rlnVoltage": 300, "rlnSphericalAberration": 2.7, "rlnAmplitudeContrast": 0.1, "rlnImageSize": BOX}


def refused(output: Path, said: str, *words: object) -> str:
    """The command ends with 2 and one message that says what was found, what was expected and what to do; there is no output folder."""
    result = protomer(*words, "--output", output, check=False)
    assert result.returncode == 2, result.stderr
    errors = result.stderr[result.stderr.index("protomer: "):]
    assert said in errors and errors.count("protomer: ") == 1 and "Traceback" not in errors and "fault" not in errors
    assert "\n  expected: " in errors and "\n  what to do: " in errors
    assert not output.exists()
    return errors


def spoilt(folder: Path, kind: str) -> Path:
    """The STAR file of six images with one thing wrong."""
    images, rows = noise_images(6), [{**row, **POSE, "rlnAngleRot": 10 * i} for i, row in enumerate(plain_rows(6))]
    if kind == "constant":
        images[2] = 4.5
    if kind == "NaN":
        images[2, 3, 4] = np.nan
    if kind == "past the stack":
        rows.append({**rows[0], "rlnImageName": "000007@images.mrcs"})
    if kind == "stack gone":
        rows[1]["rlnImageName"] = "000002@gone.mrcs"
    if kind == "halves equal":
        rows = [{**row, "rlnRandomSubset": 1} for row in rows]
    if kind == "repeated":
        rows.append(dict(rows[1]))
    if kind == "zero defocus":
        rows[0].update(rlnDefocusU=0, rlnDefocusV=0)
    table = write_data_set(folder, rows, images)
    if kind == "truncated":
        whole = (folder / "images.mrcs").read_bytes()
        (folder / "images.mrcs").write_bytes(whole[:-100])
    if kind == "no rows":
        table.write_text(star_text(rows).replace("".join(" ".join(map(str, row.values())) + "\n" for row in rows), ""))
    if kind == "no table":
        table.write_text("hello\n")
    return table


@pytest.mark.parametrize(("kind", "said"), [
    ("truncated", "truncated"), ("NaN", "NaN"), ("constant", "constant"), ("past the stack", "wants image 7"),
    ("stack gone", "gone.mrcs"), ("halves equal", "half-set 1"), ("repeated", "repeats the image and pose"),
    ("zero defocus", "the defocus is zero"), ("no rows", "no rows"), ("no table", "cannot be read as STAR")])
def test_particles_that_cannot_be_used_are_refused_at_import(tmp_path: Path, kind: str, said: str) -> None:
    refused(tmp_path / "imported", said, "import", "--star", spoilt(tmp_path, kind))


def test_the_same_table_with_nothing_wrong_is_imported(tmp_path: Path) -> None:
    protomer("import", "--star", spoilt(tmp_path, "nothing"), "--output", tmp_path / "imported")
    assert len(read_particles(tmp_path / "imported/particles.h5")) == 6


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Imported images of noise, and a map to start from."""
    folder = tmp_path_factory.mktemp("small")
    protomer("import", "--star", write_data_set(folder, plain_rows(24), noise_images(24)), "--output", folder / "imported")
    write_volume(folder / "start.mrc", Volume(np.random.default_rng(3).standard_normal((BOX,) * 3).astype(np.float32), PIXEL_A))
    return folder


def changed(small: Path, folder: Path, change: Callable[[Particles], Particles]) -> Path:
    write_particles(folder / "particles.h5", change(read_particles(small / "imported/particles.h5")))
    return folder / "particles.h5"


def refused_refinement(small: Path, folder: Path, said: str, **changes: object) -> None:
    inputs = {"particles": small / "imported", "volume": small / "start.mrc", **changes}
    refused(folder / "refined", said, "refine", *(word for name, value in inputs.items() for word in (f"--{name}", value)))


def test_pixel_sizes_that_disagree_are_refused_by_a_refinement(small: Path, tmp_path: Path) -> None:
    optics = [{**OPTICS, "rlnOpticsGroup": i + 1, "rlnOpticsGroupName": f"g{i}", "rlnImagePixelSize": 2.0 + 0.5 * i} for i in range(2)]
    rows = [{**row, "rlnOpticsGroup": i % 2 + 1} for i, row in enumerate(plain_rows(8))]
    result = protomer("import", "--star", write_data_set(tmp_path, rows, noise_images(8), optics), "--output", tmp_path / "imported")
    assert "warning: " in result.stderr and "2 to 2.5 Å" in result.stderr
    refused_refinement(small, tmp_path, "16 px of 2.0 A, 16 px of 2.5 A", particles=tmp_path / "imported")


def test_particles_all_in_one_half_set_and_symmetry_copies_are_refused_by_a_refinement(small: Path, tmp_path: Path) -> None:
    one_half = changed(small, tmp_path, lambda p: p.with_columns(half=np.zeros(len(p), np.int8)))
    refused_refinement(small, tmp_path, "the half-sets have 24 and 0", particles=one_half)
    copies = changed(small, tmp_path, lambda p: p.take(np.repeat(np.arange(len(p)), 2)).with_columns(copy=np.tile([0, 1], len(p))))
    refused_refinement(small, tmp_path, "symmetry-expanded", particles=copies)


def test_a_stack_that_is_gone_or_changed_since_import_is_refused(tmp_path: Path) -> None:
    protomer("import", "--star", write_data_set(tmp_path, plain_rows(8), noise_images(8)), "--output", tmp_path / "imported")
    write_volume(tmp_path / "start.mrc", Volume(np.random.default_rng(3).standard_normal((BOX,) * 3).astype(np.float32), PIXEL_A))
    write_stack(tmp_path / "images.mrcs", noise_images(7), PIXEL_A)
    refused_refinement(tmp_path, tmp_path, "as when it was imported")
    (tmp_path / "images.mrcs").unlink()
    refused_refinement(tmp_path, tmp_path, "is gone")


@pytest.mark.parametrize(("kind", "said"), [("flat", "constant or holds NaN"), ("NaN", "holds 1 voxels that are NaN"), ("cut", "truncated"),
                                            ("empty", "0 bytes"), ("words", "words.mrc")])
def test_a_start_volume_that_is_no_map_is_refused(small: Path, tmp_path: Path, kind: str, said: str) -> None:
    path = tmp_path / f"{kind}.mrc"
    data = np.random.default_rng(3).standard_normal((BOX,) * 3).astype(np.float32)
    if kind == "NaN":
        data[3, 4, 5] = np.nan
    write_volume(path, Volume(np.ones_like(data) if kind == "flat" else data, PIXEL_A))
    if kind in ("cut", "empty", "words"):
        path.write_bytes({"cut": path.read_bytes()[:3000], "empty": b"", "words": b"hello " * 1000}[kind])
    refused_refinement(small, tmp_path, said, volume=path)


@pytest.mark.parametrize(("words", "said"), [("--set mask_mode=static", "no mask was given"), ("--mask MASK", "mask_mode is dynamic"),
                                             ("--mask MASK --set mask_mode=static", "is 0 everywhere"), ("--box 64", "set to 64 px"),
                                             ("--set relaxation=maximise", "a group to relax"), ("--volume MASK", "is constant")])
def test_a_dry_run_refuses_what_the_run_would(small: Path, tmp_path: Path, words: str, said: str) -> None:
    write_volume(tmp_path / "zero.mrc", Volume(np.zeros((BOX,) * 3, np.float32), PIXEL_A))
    given = ["refine", "--particles", small / "imported", "--volume", small / "start.mrc"][:3 if "--volume" in words else 5]
    given += words.replace("MASK", str(tmp_path / "zero.mrc")).split()
    run, dry = (refused(tmp_path / "x", said, *given, *more) for more in ((), ("--dry-run",)))
    assert run == dry


def test_a_folder_with_another_run_is_refused_and_stays_as_it_was(small: Path) -> None:
    before = {path.name: path.read_bytes() for path in (small / "imported").iterdir()}
    words = ["refine", "--particles", small / "imported", "--volume", small / "start.mrc", "--output", small / "imported"]
    result = protomer(*words, check=False)
    assert result.returncode == 2 and "holds a finished run of import" in result.stderr and "--overwrite" in result.stderr
    assert {path.name: path.read_bytes() for path in (small / "imported").iterdir()} == before


def test_overwriting_never_removes_what_the_new_run_reads(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "own")
    own, words = tmp_path / "own" / "imported", ["--overwrite", "--set", "class=1"]
    for output in (own, own / ".." / "imported"):
        result = protomer("select", "--particles", own, "--output", output, *words, check=False)
        assert result.returncode == 2 and "which this run reads" in result.stderr and "choose another --output" in result.stderr
    assert (own / "particles.h5").read_bytes() == (small / "imported" / "particles.h5").read_bytes()


def test_overwriting_never_removes_the_stacks_of_the_particles_that_the_new_run_reads(small: Path, tmp_path: Path) -> None:
    protomer("select", "--particles", small / "imported", "--set", "number=20", "--output", tmp_path / "old")
    rest = str(tmp_path / "old" / "rest.h5")
    moved = changed(small, tmp_path, lambda p: replace(p, stacks=tuple(replace(stack, path=rest) for stack in p.stacks)))
    result = protomer("select", "--particles", moved, "--set", "number=20", "--output", tmp_path / "old", "--overwrite", check=False)
    assert result.returncode == 2 and "would remove" in result.stderr and "rest.h5" in result.stderr
    assert (tmp_path / "old" / "rest.h5").exists()


def test_a_folder_below_a_file_is_refused_as_an_output(small: Path) -> None:
    refused_words = protomer("select", "--particles", small / "imported", "--output", small / "start.mrc" / "out", check=False)
    assert refused_words.returncode == 2 and "start.mrc is a file" in refused_words.stderr and "fault" not in refused_words.stderr


def test_resuming_in_the_folder_of_another_job_says_whose_it_is_and_no_more(small: Path) -> None:
    result = protomer("select", "--particles", small / "imported", "--output", small / "imported", "--resume", check=False)
    assert result.returncode == 2 and "holds a finished run of import" in result.stderr and "settings." not in result.stderr


def test_a_mask_with_impossible_values_or_of_another_box_is_refused_by_reconstruct(small: Path, tmp_path: Path) -> None:
    posed = changed(small, tmp_path, lambda p: replace(p, has_poses=True))
    for name, mask, said in (("grey", np.full((BOX,) * 3, 7.0, np.float32), "values from 7 to 7"),
                             ("small", np.ones((BOX - 4,) * 3, np.float32), "12")):
        write_volume(tmp_path / f"{name}.mrc", Volume(mask, PIXEL_A))
        refused(tmp_path / "map", said, "reconstruct", "--particles", posed, "--mask", tmp_path / f"{name}.mrc")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system whose size a test chooses by `resize`."""
    with small_disk(tmp_path / "tiny") as disk:
        yield disk


def resize(disk: Path, size_bytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size_bytes}", str(disk)], check=True)


def assert_says_that_the_disk_is_full(result: subprocess.CompletedProcess[str], output: Path) -> None:
    assert result.returncode == 1, result.stderr
    assert result.stderr.count("No space left on device") == 1 and "partial" not in result.stderr
    assert "GB free" in result.stderr and "free some space" in result.stderr
    assert not list(output.rglob(".partial-*")) and not (output / "summary.json").exists()


def test_a_disk_that_is_full_gives_one_message_and_a_simulation_goes_on_when_there_is_room(tiny_disk: Path) -> None:
    words = ["simulate", "--output", tiny_disk / "out", "--set", "number=100", "--set", "box=32", "--set", "pixel_size=7A"]
    assert_says_that_the_disk_is_full(protomer_process(*words, check=False), tiny_disk / "out")
    resize(tiny_disk, 10_000_000)
    protomer(*words, "--resume")
    assert (tiny_disk / "out/particles.mrcs").stat().st_size == 1024 + 4 * 100 * 32 * 32


@pytest.mark.parametrize("room_kb", [12, 20, 28, 48])
def test_a_disk_that_fills_anywhere_in_an_import_ends_it_in_order(small: Path, tiny_disk: Path, room_kb: int) -> None:
    resize(tiny_disk, room_kb * 1024)
    words = ["import", "--star", small / "particles.star", "--output", tiny_disk / "out"]
    assert_says_that_the_disk_is_full(protomer_process(*words, check=False), tiny_disk / "out")
    assert not (tiny_disk / "out/particles.h5").exists()


@pytest.mark.slow
def test_a_refinement_on_a_full_disk_says_so_at_checkpoint_or_maps_and_resumes_to_the_same_bits(tmp_path: Path, tiny_disk: Path) -> None:
    data = simulate_and_import(tmp_path, 64)
    protomer(*refine_words(data, data / "roomy"))
    with running(refine_words(data, data / "stopped"), data / "stopped") as process:
        process.terminate()
        assert process.wait(60) == 75
    checkpoint = (data / "stopped/checkpoint.h5").stat().st_size
    output, words = tiny_disk / "out", refine_words(data, tiny_disk / "out")
    resize(tiny_disk, checkpoint // 2)
    assert_says_that_the_disk_is_full(protomer_process(*words, check=False), output)
    assert not (output / "checkpoint.h5").exists()
    outputs = sum(path.stat().st_size for path in (data / "roomy").iterdir())
    resize(tiny_disk, 2 * checkpoint + outputs // 4)
    assert_says_that_the_disk_is_full(protomer_process(*words, "--resume", check=False), output)
    assert (output / "checkpoint.h5").exists() and not (output / "report.html").exists()
    resize(tiny_disk, 2 * checkpoint + 2 * outputs)
    protomer(*words, "--resume")
    assert json.loads((output / "summary.json").read_text())["status"] == "done"
    roomy, tight = values(data / "roomy/particles.h5"), values(output / "particles.h5")
    assert all(roomy[name] == tight[name] for name in roomy)


def test_a_file_that_may_not_grow_is_said_as_a_full_disk_is(small: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "protomer", "import", "--star", str(small / "particles.star"), "--output", str(tmp_path / "out")]
    result = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=200,
                            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)))
    assert result.returncode == 1 and "File too large" in result.stderr and "cannot write" in result.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"settings.yaml", "log.jsonl", "rejected.csv"}


@pytest.mark.parametrize(("words", "said"), [
    ("refine --particles imported", "add --volume FILE"),
    ("refien --particles imported", "did you mean 'refine'?"),
    ("refine --particles particles.star --volume start.mrc", "`protomer import --star particles.star --output imported`"),
    ("refine --particles images.mrcs --volume start.mrc", "`protomer import --stack images.mrcs --output imported`"),
    ("refine --particles start.mrc --volume start.mrc", "a map belongs to --volume"),
    ("refine --particles imported --volume imported", "the folder of a job that wrote volume.h5"),
    ("refine --particles imported --volume imported/particles.h5", "holds particles\n  expected: a file with a volume"),
    ("refine --particles importd --volume start.mrc", "did you mean 'imported'?"),
    ("refine --particles imported --volume strat.mrc", "did you mean 'start.mrc'?"),
    ("refine --particles imported --volume start.mrc --symmetry C0", "such as C2"),
    ("refine --particles imported --volume start.mrc --symmetry Q7", "C1 to C100, D1 to D100, T, O, I"),
    ("refine --particles imported --volume start.mrc --symmetry Q7 --dry-run", "unknown point group 'Q7'"),
    ("refine --particles imported --volume start.mrc --set initial_lowpass=30", "did you mean 'initial_low_pass'?"),
    ("refine --particles imported --volume start.mrc --mask_mode static", "give --mask mask.mrc"),
    ("refine imported start.mrc", "files by their flags: --particles, --volume, --mask"),
    ("reconstruct --particles imported", "have no poses"),
    ("import --cs noctf.cs", "passthrough"),
    ("import --stack images.mrcs", "--ctf TABLE.csv"),
    ("postprocess --volume start.mrc", "a single map has no FSC"),
    ("postprocess --volume imported", "has no volume.h5")])
def test_a_mistake_in_a_command_is_answered_with_what_to_do(small: Path, words: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small)
    if "noctf.cs" in words:
        fields = [("uid", "u8"), ("blob/path", "S11"), ("blob/idx", "u4"), ("blob/shape", "u4", (2,)), ("blob/psize_A", "f4")]
        with open("noctf.cs", "wb") as file:
            np.save(file, np.array([(i, b"images.mrcs", i, (BOX, BOX), PIXEL_A) for i in range(4)], fields))
    refused(small / "out", said, *words.split())


def test_a_resumed_run_with_other_settings_says_which(small: Path) -> None:
    result = protomer("import", "--star", small / "particles.star", "--output", small / "imported", "--bin", "2", "--resume", check=False)
    assert result.returncode == 2 and "settings.bin: 1.0 there, 2.0 asked" in result.stderr and "--overwrite" in result.stderr


@pytest.mark.parametrize(("words", "said"), [("verify", "was given no FOLDER"), ("verify nowhere", "nowhere is no folder"),
                                             ("run", "was given no CHAIN"), ("run particles.star", ".yaml or .yml"),
                                             ("export --particles imported", "--star FILE, --cs FILE or --mrc FILE")])
def test_jobs_without_a_folder_answer_mistakes_too(small: Path, words: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small)
    command = [sys.executable, "-m", "protomer", *words.split()]
    result = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=200)
    assert result.returncode == 2 and said in result.stderr and "what to do: " in result.stderr
