"""symmetry-expand: counts, what copies keep, RELION's expansion, the way back, and what is refused."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from protomer.config.chain import parse_chain
from protomer.declarations.symmetry_expand import JOB
from protomer.errors import InputError, SettingsError
from protomer.formats.hdf5 import read_particles, write_particles
from protomer.formats.star import read_star_particles, write_star_particles
from protomer.running.job_run import RunOptions, plan_job, run_job
from protomer.symmetry.expansion import expanded, no_longer_copies, one_row_per_image
from protomer.symmetry.operator_sets import OperatorSet
from protomer.tables.optics import OpticsGroup
from protomer.tables.particles import COLUMNS, Particles, Stack, empty_columns
from test_format_hdf5 import assert_same_particles

BOX, PIXEL_A = 32, 1.5


def images(number: int) -> Particles:
    """Images with poses and something in every column."""
    random = np.random.default_rng(7)
    columns = empty_columns(number)
    for name, (dtype, shape, _, _) in COLUMNS.items():
        if dtype.startswith("f"):
            columns[name][...] = random.normal(size=(number, *shape))
    columns["ctf_bfactor_A2"][:] = 0
    columns["rotation"][:] = Rotation.random(number, random_state=3).as_quat()
    columns["image_uid"][:] = random.permutation(np.arange(10, 10 + number))
    columns["half"][:] = random.integers(2, size=number)
    columns["stack_index"][:] = np.arange(number)
    columns["micrograph"][:] = [f"mic_{i // 9}.mrc" for i in range(number)]
    extra = {"rlnGroupName": np.array([b"g%d" % (i % 3) for i in range(number)])}
    return Particles(columns, (OpticsGroup("one", 3e5, 2.7e7, 0.1, PIXEL_A, BOX),), (Stack("a.mrcs", number, BOX, 0, 0, ""),), True,
                     extra=extra)


def expand(folder: Path, particles: Particles, symmetry: str = "C1", axes: str = "relion", **settings: Any) -> dict[str, Any]:
    """Run the job in folder/out on the given table."""
    write_particles(folder / "particles.h5", particles)
    inputs = {"particles": str(folder / "particles.h5"), "symmetry": symmetry, "axes": axes}
    return run_job(JOB, inputs, settings, RunOptions(folder / "out", overwrite=True, threads=1))


def undo(folder: Path, **settings: Any) -> tuple[dict[str, Any], Particles]:
    """Take the expansion in folder/out back, in folder/back."""
    summary = run_job(JOB, {"particles": str(folder / "out")}, {"undo": True, **settings}, RunOptions(folder / "back", threads=1))
    return summary, read_particles(folder / "back/particles.h5")


def warned(summary: dict[str, Any]) -> set[str]:
    return {warning["code"] for warning in summary["warnings"]}


def test_10000_images_under_d7_give_140000_rows(tmp_path: Path) -> None:
    summary = expand(tmp_path, images(10_000), "D7")
    copies = read_particles(tmp_path / "out/particles.h5")
    assert len(copies) == summary["rows"] == 140_000
    assert (summary["images"], summary["copies"], summary["operators"]) == (10_000, 14, "D7")
    assert (np.unique(copies.image_uid, return_counts=True)[1] == 14).all()
    assert (np.bincount(copies.columns["copy"]) == 10_000).all()


def test_copies_keep_all_that_their_image_has(tmp_path: Path) -> None:
    parent = images(40)
    expand(tmp_path, parent, "T")
    copies = read_particles(tmp_path / "out/particles.h5")
    row = np.repeat(np.arange(40), 12)
    for name in set(COLUMNS) - {"rotation", "shift_A", "copy", "pose_covariance"}:
        np.testing.assert_array_equal(copies.columns[name], parent.columns[name][row])
    np.testing.assert_array_equal(copies.extra["rlnGroupName"], parent.extra["rlnGroupName"][row])
    np.testing.assert_array_equal(copies.columns["copy"], np.tile(np.arange(12), 40))
    np.testing.assert_array_equal(copies.operators.rotations, OperatorSet.of_group("T").rotations)
    np.testing.assert_array_equal(copies.shift_A, parent.shift_A[row])
    assert (tmp_path / "out/report.html").stat().st_size > 1000
    assert copies.provenance["inputs"]["particles"]["path"].endswith("particles.h5")


def relion_copies(folder: Path, parent: Particles, words: list[str]) -> Particles:
    """What RELION makes of the same images."""
    if shutil.which("relion_particle_symmetry_expand") is None:
        pytest.skip("RELION is not installed")
    write_star_particles(folder / "parent.star", parent)
    command = ["relion_particle_symmetry_expand", "--i", "parent.star", "--o", "theirs.star", "--angpix", str(PIXEL_A), *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    return read_star_particles(folder / "theirs.star", require_stacks=False)


def assert_same_copies(ours: Particles, theirs: Particles) -> None:
    """Image by image the same set of rotations and shifts, to the six decimals of a STAR file."""
    assert len(ours) == len(theirs)
    number = len(np.unique(ours.stack_index))
    tables = []
    for table in (ours, theirs):
        rows = np.argsort(table.stack_index, kind="stable").reshape(number, -1)
        tables.append((Rotation.from_quat(table.rotation).as_matrix()[rows], table.shift_A[rows]))
    (r, s), (r_theirs, s_theirs) = tables
    apart = np.abs(r[:, :, None] - r_theirs[:, None]).max(axis=(3, 4)) + np.abs(s[:, :, None] - s_theirs[:, None]).max(axis=3)
    assert apart.min(axis=2).max() < 1e-5 and apart.min(axis=1).max() < 1e-5


@pytest.mark.parametrize("group", ["C2", "C7", "D2", "D3", "D7", "T", "O", "I", "I1", "I2"])
def test_copies_equal_those_of_relion_row_by_row(tmp_path: Path, group: str) -> None:
    parent = images(25)
    assert_same_copies(expanded(parent, OperatorSet.of_group(group)), relion_copies(tmp_path, parent, ["--sym", group]))


@pytest.mark.parametrize(("twist", "order"), [(22.03, 5), (-166.6, 4), (65.1, 10)])
def test_helical_copies_equal_those_of_relion_row_by_row(tmp_path: Path, twist: float, order: int) -> None:
    parent = images(25)
    expand(tmp_path, parent, helical_twist=twist, helical_rise=4.75, helical_order=order)
    words = ["--helix", "--twist", str(twist), "--rise", "4.75", "--asu", str(order)]
    assert_same_copies(read_particles(tmp_path / "out/particles.h5"), relion_copies(tmp_path, parent, words))


def test_a_helix_with_a_group_has_the_copies_of_both(tmp_path: Path) -> None:
    parent = images(10)
    summary = expand(tmp_path, parent, "C3", helical_twist="30deg", helical_rise="2A", helical_order=5)
    assert summary["rows"] == 150 and summary["operators"] == "C3 times helix of 30° and 2 Å, 5 copies"
    copies = read_particles(tmp_path / "out/particles.h5")
    np.testing.assert_allclose(np.unique(copies.operators.translations_A[:, 2]), [-4, -2, 0, 2, 4])


@pytest.mark.parametrize("keep", ["best", "original"])
def test_expansion_and_its_undoing_leave_the_table_as_it_was(tmp_path: Path, keep: str) -> None:
    parent = images(60)
    expand(tmp_path, parent, "D1", helical_twist=40, helical_rise=3, helical_order=4)
    summary, back = undo(tmp_path, keep=keep)
    assert_same_particles(parent, replace(back, provenance=parent.provenance))
    assert summary["poses_of_other_copies"] == 0 and summary["images"] == 60 and summary["rows_before"] == 480


@pytest.mark.parametrize("group", ["C2", "D7", "T", "I"])
def test_expansion_and_its_undoing_in_memory_leave_the_table_as_it_was(group: str) -> None:
    parent = images(60)
    copies = expanded(parent, OperatorSet.of_group(group))
    assert_same_particles(parent, no_longer_copies(copies, one_row_per_image(copies, "best")))


def test_undo_keeps_the_likeliest_copy_or_the_original(tmp_path: Path) -> None:
    expand(tmp_path, images(30), "C3")
    path = tmp_path / "out/particles.h5"
    copies = read_particles(path)
    likelihood = np.random.default_rng(4).normal(size=90)
    write_particles(path, copies.with_columns(log_likelihood=likelihood))
    summary, back = undo(tmp_path)
    best = likelihood.reshape(30, 3).argmax(axis=1) + 3 * np.arange(30)
    np.testing.assert_array_equal(back.rotation, copies.rotation[best])
    assert summary["poses_of_other_copies"] == int((best % 3 > 0).sum()) and not back.is_expanded
    np.testing.assert_array_equal(copies.rotation[one_row_per_image(copies, "original")], copies.rotation[::3])


def test_undo_says_where_no_original_is_left(tmp_path: Path) -> None:
    expand(tmp_path, images(30), "C3")
    path = tmp_path / "out/particles.h5"
    copies = read_particles(path)
    write_particles(path, copies.take(np.flatnonzero((copies.columns["copy"] > 0) | (copies.image_uid % 2 == 0))))
    summary, back = undo(tmp_path, keep="original")
    assert len(back) == 30 and warned(summary) == {"no_original"} and summary["poses_of_other_copies"] == 15


def repeated(parent: Particles) -> Particles:
    """Rows of the same images that do not say that they are copies."""
    return parent.take(np.repeat(np.arange(len(parent)), 2))


def copied(parent: Particles) -> Particles:
    """A part of an expanded table, in which no image is there twice."""
    return parent.with_columns(copy=np.arange(len(parent)) % 3)


@pytest.mark.parametrize("change", [repeated, copied])
def test_expanded_particles_are_not_expanded_again(tmp_path: Path, change: Callable[[Particles], Particles]) -> None:
    with pytest.raises(InputError, match="expanded already"):
        expand(tmp_path, change(images(12)), "C2")
    assert not (tmp_path / "out/particles.h5").exists()


def test_particles_without_poses_or_not_expanded_are_refused(tmp_path: Path) -> None:
    plain = images(12)
    with pytest.raises(InputError, match="no poses"):
        expand(tmp_path, Particles(plain.columns, plain.optics_groups, plain.stacks), "C2")
    write_particles(tmp_path / "out/particles.h5", plain)
    with pytest.raises(InputError, match="not symmetry-expanded"):
        undo(tmp_path)


@pytest.mark.parametrize(("symmetry", "settings", "said"), [
    ("C0", {}, "C0"), ("D", {}, "'D'"), ("I5", {}, "I5"), ("C1", {}, "one operator"),
    ("C1", {"helical_twist": 30, "helical_order": 3}, "no helical_rise"),
    ("C1", {"helical_twist": 30, "helical_rise": 0, "helical_order": 3}, "helical_rise = 0"),
    ("C1", {"helical_twist": 30, "helical_rise": -1.5, "helical_order": 3}, "helical_rise = -1.5"),
    ("C1", {"helical_twist": 30, "helical_rise": 2, "helical_order": 0}, "helical_order = 0"),
    ("O", {"helical_twist": 30, "helical_rise": 2, "helical_order": 3}, "point group O")])
def test_symmetries_that_are_none_are_refused(tmp_path: Path, symmetry: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        expand(tmp_path, images(5), symmetry, **settings)
    with pytest.raises(SettingsError, match=said):
        plan_job(JOB, {"particles": str(tmp_path / "particles.h5"), "symmetry": symmetry}, settings, 1, 1)


@pytest.mark.parametrize("name", ["d7", " D7", "D07 "])
def test_case_and_spaces_of_a_group_are_forgiven(tmp_path: Path, name: str) -> None:
    assert expand(tmp_path, images(5), name)["operators"] == "D7"


def test_helical_shifts_beyond_half_a_rise_are_warned_of_and_counted(tmp_path: Path) -> None:
    parent = images(20)
    side = Rotation.from_euler("ZYZ", np.stack([np.arange(20) * 7.0, np.full(20, 90.0), np.full(20, 30.0)], axis=1), degrees=True)
    axis = side.as_matrix()[:, 2, :2]
    along = np.where(np.arange(20) < 6, 2.6, 2.4) * np.where(np.arange(20) % 2, 1, -1)
    across = np.stack([-axis[:, 1], axis[:, 0]], axis=1)
    parent = parent.with_columns(rotation=side.as_quat(), shift_A=along[:, None] * axis + 50 * across)
    summary = expand(tmp_path, parent, helical_twist=30, helical_rise=5, helical_order=3)
    texts = [warning["text"] for warning in summary["warnings"] if warning["code"] == "helical_shifts"]
    assert len(texts) == 1 and texts[0].startswith("6 of 20 images")
    assert "helical_shifts" not in warned(expand(tmp_path, parent, helical_twist=30, helical_rise=5.3, helical_order=3))
    assert "helical_reach" in warned(expand(tmp_path, parent, helical_twist=30, helical_rise=5, helical_order=9))


def test_filaments_in_both_half_sets_are_warned_of(tmp_path: Path) -> None:
    parent = images(18)
    helix = {"helical_twist": 30, "helical_rise": 5, "helical_order": 3}
    torn = parent.with_columns(filament=np.ones(18), half=np.arange(18) % 2, shift_A=np.zeros((18, 2)))
    assert warned(expand(tmp_path, torn, **helix)) == {"no_volume", "torn_filaments"}
    assert warned(expand(tmp_path, torn.with_columns(half=np.arange(18) // 9), **helix)) == {"no_volume"}


def test_expansion_and_its_undoing_are_steps_of_a_chain(tmp_path: Path) -> None:
    (tmp_path / "particles.star").touch()
    (tmp_path / "start.mrc").touch()
    chain = parse_chain({"dataset": {"star": "particles.star"}, "jobs": {
        "consensus": {"job": "refine", "particles": "dataset", "volume": "start.mrc", "symmetry": "C2"},
        "copies": {"job": "symmetry-expand", "particles": "consensus", "volume": "consensus", "symmetry": "C2"},
        "again": {"job": "symmetry-expand", "particles": "copies", "undo": True, "settings": {"keep": "original"}}}}, tmp_path)
    assert [step.name for step in chain.steps] == ["dataset", "consensus", "copies", "again"]
    assert {"--set", "undo=True", "keep=original", "copies/particles.h5"} <= set(chain.steps[3].arguments())
