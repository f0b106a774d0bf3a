"""Symmetry copies on their way through STAR and .cs files, ours and other programs'."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from protomer.declarations.import_particles import JOB as IMPORT
from protomer.errors import InputError
from protomer.formats.cs import read_cs_particles, write_cs_particles
from protomer.formats.cs_table import read_fields, write_fields
from protomer.formats.hdf5 import read_particles
from protomer.formats.star import read_star_particles, write_star_particles
from protomer.running.job_run import RunOptions, run_job
from protomer.symmetry.expansion import expanded
from protomer.symmetry.operator_sets import OperatorSet
from protomer.tables.half_sets import draw_halves
from protomer.tables.particles import Particles
from stack_files import noise_images, plain_rows, write_data_set
from test_symmetry_expand import images

NUMBER = 14


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Particles:
    """Images on disk with poses and half-sets."""
    random = np.random.default_rng(6)
    angles = Rotation.random(NUMBER, random_state=4).as_euler("ZYZ", degrees=True)
    rows = [{**row, "rlnAngleRot": a, "rlnAngleTilt": b, "rlnAnglePsi": c, "rlnOriginXAngst": x, "rlnOriginYAngst": y}
            for row, (a, b, c), (x, y) in zip(plain_rows(NUMBER), angles, random.normal(size=(NUMBER, 2)), strict=True)]
    return read_star_particles(write_data_set(tmp_path_factory.mktemp("parent"), rows, noise_images(NUMBER)))


def same_rotations(a: Particles, b: Particles, tolerance: float) -> bool:
    return bool(np.abs(Rotation.from_quat(a.rotation).as_matrix() - Rotation.from_quat(b.rotation).as_matrix()).max() < tolerance)


def operators_in(copies: Particles, order: int) -> np.ndarray:
    """What takes the first copy of the first image to all others."""
    first = Rotation.from_quat(copies.rotation[:order]).as_matrix()
    return first @ first[0].T


@pytest.mark.parametrize("axes", ["relion", "cryosparc"])
@pytest.mark.parametrize("group", ["D3", "D5", "D7"])
def test_dihedral_groups_of_odd_order_survive_star_and_cs_in_both_settings_of_axes(tmp_path: Path, group: str, axes: str) -> None:
    operators = OperatorSet.of_group(group, axes)
    copies = expanded(images(9), operators)
    write_star_particles(tmp_path / "a.star", copies)
    star = read_star_particles(tmp_path / "a.star", require_stacks=False)
    write_cs_particles(tmp_path / "b.cs", star)
    cs = read_cs_particles(tmp_path / "b.cs", require_stacks=False)
    write_star_particles(tmp_path / "c.star", cs)
    again = read_star_particles(tmp_path / "c.star", require_stacks=False)
    for table in (star, cs, again):
        assert same_rotations(table, copies, 2e-6) and np.abs(table.shift_A - copies.shift_A).max() < 1e-5
        np.testing.assert_array_equal(table.columns["copy"], copies.columns["copy"])
        found = operators_in(table, len(operators))
        np.testing.assert_allclose(found, operators.rotations, atol=5e-6)
        other = OperatorSet.of_group(group, "relion" if axes == "cryosparc" else "cryosparc").rotations
        assert np.abs(found[:, None] - other[None]).max(axis=(2, 3)).min(axis=1).max() > 0.1


def test_a_star_file_of_copies_says_which_copy_a_row_is_and_of_what(tmp_path: Path, parent: Particles) -> None:
    copies = expanded(parent, OperatorSet.of_group("C3"))
    write_star_particles(tmp_path / "copies.star", copies)
    text = (tmp_path / "copies.star").read_text()
    assert "_protomerSymmetryCopy" in text and "_protomerSource" in text
    again = read_star_particles(tmp_path / "copies.star")
    np.testing.assert_array_equal(again.image_uid, copies.image_uid)
    np.testing.assert_array_equal(again.half, copies.half)
    write_star_particles(tmp_path / "parent.star", parent)
    assert "protomer" not in (tmp_path / "parent.star").read_text()


def test_relion_reads_a_star_file_of_copies(tmp_path: Path, parent: Particles) -> None:
    if shutil.which("relion_star_handler") is None:
        pytest.skip("RELION is not installed")
    write_star_particles(tmp_path / "copies.star", expanded(parent, OperatorSet.of_group("C3")))
    command = ["relion_star_handler", "--i", "copies.star", "--o", "theirs.star", "--select", "rlnAngleTilt", "--minval", "-1"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=200)
    theirs = read_star_particles(tmp_path / "theirs.star", require_stacks=False)
    np.testing.assert_array_equal(theirs.columns["copy"], np.tile([0, 1, 2], NUMBER))
    assert len(np.unique(theirs.image_uid)) == NUMBER


def test_a_cs_file_of_copies_has_a_uid_for_each_and_names_their_source(tmp_path: Path, parent: Particles) -> None:
    copies = expanded(parent, OperatorSet.of_group("C3"))
    write_cs_particles(tmp_path / "copies.cs", copies)
    fields = read_fields(tmp_path / "copies.cs")
    assert len(np.unique(fields["uid"])) == 3 * NUMBER
    np.testing.assert_array_equal(fields["sym_expand/src_uid"], np.repeat(fields["uid"][::3], 3))
    np.testing.assert_array_equal(fields["sym_expand/idx"], np.tile([0, 1, 2], NUMBER))
    again = read_cs_particles(tmp_path / "copies.cs")
    np.testing.assert_array_equal(again.image_uid, copies.image_uid)


def imported(folder: Path, **inputs: Any) -> tuple[dict[str, Any], Particles]:
    summary = run_job(IMPORT, {name: str(path) for name, path in inputs.items()}, {}, RunOptions(folder / "imported", threads=1))
    return summary, read_particles(folder / "imported/particles.h5")


def test_an_expanded_star_file_of_relion_is_recognised_at_import(tmp_path: Path, parent: Particles) -> None:
    if shutil.which("relion_particle_symmetry_expand") is None:
        pytest.skip("RELION is not installed")
    write_star_particles(tmp_path / "parent.star", parent)
    command = ["relion_particle_symmetry_expand", "--i", "parent.star", "--o", "theirs.star", "--sym", "C3"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=200)
    summary, copies = imported(tmp_path, star=tmp_path / "theirs.star")
    assert copies.is_expanded and len(copies) == 3 * NUMBER and len(np.unique(copies.image_uid)) == NUMBER
    assert "copies" in {warning["code"] for warning in summary["warnings"]}


def test_copies_of_cryosparc_with_images_of_their_own_share_the_identity_of_their_source(tmp_path: Path, parent: Particles) -> None:
    """As after signal subtraction: every copy is another image of a stack, and only sym_expand/src_uid says what belongs together."""
    write_cs_particles(tmp_path / "copies.cs", expanded(parent.take(np.arange(7)), OperatorSet.of_group("C2")))
    fields = read_fields(tmp_path / "copies.cs")
    fields["blob/idx"] = np.arange(14, dtype="<u4")
    write_fields(tmp_path / "subtracted.cs", fields)
    summary, copies = imported(tmp_path, cs=tmp_path / "subtracted.cs")
    assert copies.is_expanded and summary["images"] == 7
    np.testing.assert_array_equal(copies.image_uid, np.repeat(copies.image_uid[::2], 2))
    np.testing.assert_array_equal(copies.stack_index, np.arange(14))
    fields["alignments3D/split"] = np.arange(14, dtype="<u4") % 2
    write_fields(tmp_path / "torn.cs", fields)
    with pytest.raises(InputError, match="copies in both half-sets"):
        read_cs_particles(tmp_path / "torn.cs")


def test_half_sets_that_are_drawn_again_go_by_image(parent: Particles) -> None:
    copies = expanded(parent, OperatorSet.of_group("D7"))
    half = draw_halves(copies, "image", 5)
    np.testing.assert_array_equal(half, np.repeat(draw_halves(parent, "image", 5), 14))
    assert (half != copies.half).any() and len(copies.with_columns(half=half)) == 14 * NUMBER
