"""symmetry-expand looks at the map first: axes beside the operators' are refused with their residual, unless forced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from protomer.declarations.symmetry_expand import JOB
from protomer.declarations.symmetry_find import JOB as FIND
from protomer.errors import InputError
from protomer.formats.hdf5 import read_particles, write_particles
from protomer.formats.mrc import write_volume
from protomer.maps.rigid_motion import RigidMotion, move_particles, move_volume
from protomer.maps.volumes import Volume
from protomer.running.job_run import RunOptions, run_job
from protomer.simulation.scatterers import AtomModel
from protomer.symmetry.expansion import expanded
from protomer.symmetry.gate import inspect_map
from protomer.symmetry.operator_sets import Helix, OperatorSet
from protomer_kernels.atoms import real_volume
from simulated import chain_model, symmetric_model
from test_expanded_maps import RISE_A, TWIST, helix_model
from test_symmetry_expand import images

BOX, PIXEL_A = 48, 4.0
TILT = RigidMotion(Rotation.from_rotvec(np.deg2rad(3.0) * np.array([0.8, 0.6, 0.0])).as_matrix(), np.zeros(3))


def volume_of(model: AtomModel) -> Volume:
    return Volume(real_volume(model.volume_ft(BOX, PIXEL_A), BOX), PIXEL_A)


@pytest.fixture(scope="module")
def symmetric() -> Volume:
    return volume_of(symmetric_model("D3"))


def expand(folder: Path, volume: Volume, symmetry: str = "D3", **settings: Any) -> dict[str, Any]:
    write_volume(folder / "map.mrc", volume)
    write_particles(folder / "particles.h5", images(20))
    inputs = {"particles": str(folder / "particles.h5"), "volume": str(folder / "map.mrc"), "symmetry": symmetry}
    return run_job(JOB, inputs, settings, RunOptions(folder / "out", overwrite=True, threads=1))


def test_a_map_on_its_axes_passes_and_its_residual_is_told(symmetric: Volume, tmp_path: Path) -> None:
    summary = expand(tmp_path, symmetric)
    assert summary["rows"] == 120 and summary["axis_error_deg"] < 0.1 and summary["offset_A"] < 0.2 and summary["forced"] is False
    report = (tmp_path / "out/report.html").read_text()
    assert "axes off by" in report and "correlation under the group" in report
    assert summary["warnings"] == []


def test_axes_3_degrees_off_are_refused_with_their_residual_and_pass_after_symmetry_find(symmetric: Volume, tmp_path: Path) -> None:
    tilted = move_volume(symmetric, TILT)
    with pytest.raises(InputError) as caught:
        expand(tmp_path, tilted)
    found = float(caught.value.found.split("axes are ")[1].split(" ")[0])
    assert found == pytest.approx(3.0, abs=0.2) and "symmetry-find" in caught.value.remedy
    assert not (tmp_path / "out/particles.h5").exists()
    given = {name: str(tmp_path / file) for name, file in (("volume", "map.mrc"), ("particles", "particles.h5"))}
    run_job(FIND, {**given, "symmetry": "D3"}, {}, RunOptions(tmp_path / "found", threads=1))
    moved = {"volume": str(tmp_path / "found/map.mrc"), "particles": str(tmp_path / "found"), "symmetry": "D3"}
    summary = run_job(JOB, moved, {}, RunOptions(tmp_path / "out", threads=1))
    assert summary["axis_error_deg"] < 0.2 and summary["rows"] == 120 and summary["forced"] is False


def test_force_expands_all_the_same_and_is_recorded(symmetric: Volume, tmp_path: Path) -> None:
    summary = expand(tmp_path, move_volume(symmetric, TILT), force=True)
    assert summary["forced"] is True and summary["axis_error_deg"] == pytest.approx(3.0, abs=0.2)
    warnings = {warning["code"]: warning["text"] for warning in summary["warnings"]}
    assert "3." in warnings["forced"] or "2.9" in warnings["forced"]
    assert json.loads((tmp_path / "out/summary.json").read_text())["forced"] is True
    assert read_particles(tmp_path / "out/particles.h5").provenance["settings"]["force"] is True


def test_a_wider_bound_lets_the_same_map_pass(symmetric: Volume, tmp_path: Path) -> None:
    assert expand(tmp_path, move_volume(symmetric, TILT), max_axis_error="4deg")["forced"] is False


def test_a_centre_that_is_off_is_refused(symmetric: Volume, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="centre of symmetry is 6"):
        expand(tmp_path, move_volume(symmetric, RigidMotion(np.eye(3), np.array([0.0, 6.0, 0.0]))))


@pytest.mark.parametrize("group", ["D6", "C4", "T"])
def test_a_group_that_the_map_does_not_carry_is_refused(symmetric: Volume, tmp_path: Path, group: str) -> None:
    with pytest.raises(InputError, match="does not have this group there") as caught:
        expand(tmp_path, symmetric, group)
    assert "°" not in caught.value.found  # axes that are not there lie nowhere


def test_a_map_without_symmetry_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not have this group"):
        expand(tmp_path, volume_of(chain_model()), "C2")


@pytest.mark.parametrize("hand", [1, -1])
def test_a_helix_passes_with_its_own_hand_alone(tmp_path: Path, hand: int) -> None:
    write_volume(tmp_path / "map.mrc", volume_of(helix_model(hand * TWIST)))
    right, wrong = (inspect_map(tmp_path / "map.mrc", OperatorSet.identity(), Helix(way * hand * TWIST, RISE_A, 5), 1.0) for way in (1, -1))
    assert right.objections == () and min(right.helical.values()) > 0.7
    assert len(wrong.objections) == 1 and "along the helix" in wrong.objections[0]


def test_particles_that_were_moved_with_a_map_have_its_copies(tmp_path: Path) -> None:
    """Moved after they were expanded, or expanded with moved operators: the same poses."""
    operators = OperatorSet.of_group("D3")
    motion = RigidMotion(TILT.rotation, np.array([1.0, -2.0, 3.0]))
    parent = images(10)
    after, before = move_particles(expanded(parent, operators), motion), move_particles(parent, motion)
    again = expanded(before, operators.moved(motion.rotation, motion.shift_A))
    assert np.abs(np.abs((after.rotation * again.rotation).sum(axis=1)) - 1).max() < 1e-9
    np.testing.assert_allclose(after.shift_A, again.shift_A, atol=1e-9)
    np.testing.assert_allclose(after.operators.translations_A, again.operators.translations_A, atol=1e-9)
