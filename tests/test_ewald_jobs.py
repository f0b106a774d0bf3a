"""Jobs on the Ewald sphere: simulated, reconstructed and refined, from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protomer.catalogue import declaration
from protomer.errors import SettingsError
from protomer.formats.hdf5 import read_map_record
from protomer.formats.mrc import read_volume, write_volume
from protomer.maps.volumes import Volume
from protomer.running.job_run import RunOptions, run_job
from protomer_kernels.atoms import real_volume
from protomer_kernels.shells import fourier_shell_correlation
from refinement_runs import protomer, values
from test_ewald import ball_of_atoms

MICROSCOPE = {"voltage": 1, "spherical_aberration": 0, "defocus_min": 1000, "defocus_max": 3000, "astigmatism": 30, "box": 48,
              "pixel_size": 2, "number": 300, "snr": 0.4, "max_shift": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ball of atoms in folder/simulated, made with the sign -1, imported with its true poses into folder/imported."""
    folder = tmp_path_factory.mktemp("ewald")
    write_volume(folder / "ball.mrc", Volume(real_volume(ball_of_atoms().volume_ft(48, 2.0), 48), 2.0))
    run("simulate", folder / "simulated", {"volume": folder / "ball.mrc"}, **MICROSCOPE, ewald_sign="-1")
    run("import", folder / "imported", {"star": folder / "simulated/truth.star"})
    return folder


def run(job: str, output: Path, inputs: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return run_job(declaration(job), inputs, settings, RunOptions(output, threads=1))


def outer_fsc(folder: Path, truth: Path) -> float:
    """Mean correlation with the truth in the outermost shells of the unfiltered sum of the half maps."""
    halves = read_map_record(folder / "volume.h5").half_maps
    return float(fourier_shell_correlation(halves.a.data + halves.b.data, read_volume(truth).data)[16:22].mean())


def test_auto_takes_the_sign_that_the_images_were_made_with_and_says_by_what_margin(data: Path) -> None:
    summary = run("reconstruct", data / "auto", {"particles": data / "imported"}, ewald_sign="auto")
    found = summary["ewald_sphere"]
    assert found["sign"] == "-1" and found["margin_standard_errors"] > 5, found
    assert found["tried"]["-1"]["bits"] > found["tried"]["none"]["bits"] > found["tried"]["+1"]["bits"]
    words = (data / "auto/report.html").read_text()
    assert "Ewald sphere" in words and "standard errors" in words


@pytest.mark.slow
def test_a_sign_that_is_given_is_taken_the_wrong_one_too_and_ranks_share_the_work_bit_for_bit(data: Path) -> None:
    truth, fsc = data / "simulated/map.mrc", {}
    for sign in ("none", "-1", "+1"):
        run("reconstruct", data / sign, {"particles": data / "imported"}, ewald_sign=sign)
        fsc[sign] = outer_fsc(data / sign, truth)
    assert fsc["-1"] > fsc["none"] + 0.03 and fsc["none"] > fsc["+1"] + 0.2, fsc
    protomer("reconstruct", "--particles", data / "imported", "--output", data / "two", "--set", "ewald_sign=-1", ranks=2)
    one, two = values(data / "-1/volume.h5"), values(data / "two/volume.h5")
    assert all(one[name] == two[name] for name in one if "half" in name)


def test_the_other_hand_has_the_other_sign(data: Path) -> None:
    found = run("reconstruct", data / "mirrored", {"particles": data / "imported"}, ewald_sign="auto", flip_hand=True)["ewald_sphere"]
    assert found["sign"] == "+1"


def test_thin_particles_leave_the_sign_open_and_a_warning_says_so(data: Path, tmp_path: Path) -> None:
    run("simulate", tmp_path / "thin", {"volume": data / "ball.mrc"}, **{**MICROSCOPE, "voltage": 300, "number": 100})
    run("import", tmp_path / "imported", {"star": tmp_path / "thin/truth.star"})
    found = run("reconstruct", tmp_path / "map", {"particles": tmp_path / "imported"}, ewald_sign="auto")
    assert found["ewald_sphere"]["sign"] == "none"
    assert "ewald_undecided" in (tmp_path / "map/log.jsonl").read_text()


@pytest.mark.slow
def test_the_last_reconstruction_of_a_refinement_is_on_the_ewald_sphere(data: Path) -> None:
    inputs = {"particles": data / "imported", "volume": data / "simulated/start.mrc"}
    summary = run("refine", data / "refined", inputs, ewald_sign="auto", initial_low_pass="12A", max_alignment_resolution=8,
                  cross_fit_folds=1, rehearse=False)
    assert summary["ewald_sphere"]["sign"] == "-1", json.dumps(summary["ewald_sphere"])
    assert "Ewald sphere" in (data / "refined/report.html").read_text()


@pytest.mark.parametrize("value", [1, "1", "+1"])
def test_a_sign_may_be_written_with_or_without_its_plus(value: object) -> None:
    assert declaration("reconstruct").settings.from_mapping({"ewald_sign": value}).ewald_sign == "+1"  # type: ignore[attr-defined]
    assert declaration("refine").settings.from_mapping({"ewald_sign": -1}).ewald_sign == "-1"  # type: ignore[attr-defined]


def test_moving_subunits_and_depth_exclude_one_another(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="along the beam"):
        run("simulate", tmp_path / "moving", {"model": "5ni1"}, number=2, box=32, pixel_size=6, motion_rotation=3, ewald_sign="+1")
    assert not np.any([path.suffix == ".mrcs" for path in tmp_path.rglob("*")])
