"""Twist and rise of helices that were made from atoms, either hand, alone and with a rotation axis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protomer.declarations.symmetry_find import JOB
from protomer.errors import InputError
from protomer.formats.mrc import write_volume
from protomer.maps.volumes import Volume
from protomer.running.job_run import RunOptions, run_job
from protomer.simulation.scatterers import AtomModel
from protomer.symmetry.helical_search import cyclic_order, find_helix, helix_scores
from protomer.symmetry.point_groups import rotation_about
from protomer_kernels.atoms import real_volume
from simulated import chain_model
from symmetric_maps import map_of, with_noise

BOX, VOXEL_A, BFACTOR_A2 = 64, 3.0, 200.0
ANY = (-180.0, 180.0), (3.0, 48.0)


def filament(twist_deg: float, rise_A: float, cyclic: int = 1) -> Volume:
    """Chains 25 Å from z under a helix, as far as the box goes."""
    unit = chain_model(60, 3, BFACTOR_A2, size=0.45).positions_A + np.array([25.0, 0, 0])
    half_A = BOX * VOXEL_A / 2
    most = int(half_A / rise_A) + 4
    copies = [unit @ rotation_about((0, 0, 1), np.deg2rad(n * twist_deg + 360 * k / cyclic)).T + [0, 0, n * rise_A]
              for n in range(-most, most + 1) for k in range(cyclic)]
    positions_A = np.concatenate(copies)
    inside = positions_A[np.abs(positions_A[:, 2]) < half_A - 4]
    model = AtomModel(inside, np.full(len(inside), 6, np.float32), BFACTOR_A2)
    return Volume(real_volume(model.volume_ft(BOX, VOXEL_A), BOX).astype(np.float32), VOXEL_A)


@pytest.mark.parametrize(("twist_deg", "rise_A", "cyclic"), [(65.0, 12.0, 1), (-65.0, 12.0, 1), (27.3, 5.1, 1), (-166.7, 9.4, 1),
                                                             (22.0, 21.0, 3), (-22.0, 21.0, 3)])
def test_twist_rise_and_hand_are_those_of_the_model(twist_deg: float, rise_A: float, cyclic: int) -> None:
    helix, candidates = find_helix(helix_scores(filament(twist_deg, rise_A, cyclic), 9.0), *ANY)
    assert helix.twist_deg == pytest.approx(twist_deg, abs=0.05) and helix.rise_A == pytest.approx(rise_A, abs=0.05)
    assert helix.cyclic == cyclic and helix.weakest > 0.95 and len(candidates) > 1


def test_a_point_group_is_no_helix_but_its_rotation_axis_is_seen() -> None:
    scores = helix_scores(map_of("C4"), 12.0)
    assert cyclic_order(scores) == 4
    with pytest.raises(InputError, match="no peak"):
        find_helix(scores, (-180.0, 180.0), (8.0, 60.0))


def test_the_scores_are_the_correlations_of_the_cylinders_that_overlap() -> None:
    volume = filament(40.0, 10.0)
    scores = helix_scores(volume, 9.0)
    at = np.array([0.0, 40.0, 80.0, -30.0])
    values = scores.at(at, np.array([0.0, 10.0, 20.0, 7.0]))
    assert values[0] == pytest.approx(1.0, abs=1e-5) and values[1] > 0.98 and values[2] > 0.98 and values[3] < 0.5
    assert scores.surface.max() < 1.001


def find(folder: Path, volume: Volume, **settings: Any) -> dict[str, Any]:
    write_volume(folder / "map.mrc", volume)
    inputs = {"volume": str(folder / "map.mrc"), "symmetry": "helical"}
    return run_job(JOB, inputs, settings, RunOptions(folder / "out", overwrite=True, threads=1))


def test_the_job_reports_the_helix_and_its_score_surface(tmp_path: Path) -> None:
    summary = find(tmp_path, filament(-65.0, 12.0))
    assert summary["hand"] == "left" and summary["twist_deg"] == pytest.approx(-65, abs=0.05)
    assert summary["rise_A"] == pytest.approx(12, abs=0.05) and summary["warnings"] == []
    page = (tmp_path / "out/report.html").read_text()
    assert "self-correlation" in page and "<svg" in page


def test_a_map_that_is_no_helix_is_refused_unless_forced(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no peak of the self-correlation"):
        find(tmp_path, map_of("C2"))
    noise = with_noise(filament(65.0, 12.0), 0.2, 1)
    with pytest.raises(InputError, match="onto itself by only"):
        find(tmp_path, noise)
    summary = find(tmp_path, noise, force=True)
    assert {warning["code"] for warning in summary["warnings"]} == {"no_helix"} and summary["weakest_correlation"] < 0.7


@pytest.mark.parametrize("settings", [{"rise_from": 20.0, "rise_to": 10.0}, {"twist_from": 50.0, "twist_to": 40.0}])
def test_ranges_that_end_before_they_begin_are_refused(tmp_path: Path, settings: dict[str, float]) -> None:
    with pytest.raises(InputError, match="rise from"):
        find(tmp_path, filament(65.0, 12.0), **settings)


def test_a_rise_that_is_finer_than_the_detail_is_warned_of(tmp_path: Path) -> None:
    summary = find(tmp_path, filament(27.3, 4.4), low_pass=10.0)
    assert {warning["code"] for warning in summary["warnings"]} == {"rise_not_resolved"}
