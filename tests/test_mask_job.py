"""The mask job: what it starts from, what it combines, what it warns of and refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protomer.declarations.mask import JOB
from protomer.errors import InputError, NotYetError, SettingsError
from protomer.formats.hdf5 import write_map_record
from protomer.formats.mrc import read_volume, write_volume
from protomer.job_run import RunOptions, plan_job, run_job
from protomer.resolution import measure_fsc
from protomer.volumes import Halves, MapRecord, Volume
from protomer_kernels import fourier, masks

BOX, VOXEL_A = 40, 2.0


def blob(radius_px: float = 6, centre_px: tuple[float, float, float] | None = None) -> np.ndarray:
    return masks.sphere_mask(BOX, radius_px, 2, centre_px)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a map (a ball with dust and a hole), and two overlapping masks."""
    volume = 5 * blob()
    volume[20, 20, 20] = 0  # a hole
    volume[3, 3, 3] = 5  # dust
    write_volume(tmp_path / "map.mrc", Volume(volume, VOXEL_A))
    for name, shift in (("left", -3), ("right", 3)):
        write_volume(tmp_path / f"{name}.mrc", Volume(masks.sphere_mask(BOX, 6, 0, (20, 20, 20 + shift)), VOXEL_A))
    return tmp_path


def make(folder: Path, volume: str | None = "map.mrc", others: tuple[str, ...] = (), **settings: Any) -> tuple[np.ndarray, dict[str, Any]]:
    inputs = {"volume": None if volume is None else str(folder / volume), "mask": tuple(str(folder / name) for name in others)}
    summary = run_job(JOB, inputs, settings, RunOptions(folder / "out", overwrite=True, threads=1))
    return read_volume(folder / "out" / "mask.mrc").data, summary


def warned(summary: dict[str, Any]) -> set[str]:
    return {warning["code"] for warning in summary["warnings"]}


def test_a_sphere_has_its_diameter_centre_and_edge_in_angstrom(files: Path) -> None:
    mask, summary = make(files, sphere="24A", soft_edge="10A", centre="20,18,23")
    binary = masks.sphere_mask(BOX, 6, 0, (23, 18, 20)) > 0
    np.testing.assert_allclose(mask, masks.soft_edge(binary, 5), atol=1e-6)
    assert "sphere of 24 Å" in summary["mask"] and summary["fraction_of_box"] == pytest.approx(mask.mean(), abs=1e-5)


def test_a_cylinder_is_read_from_two_numbers(files: Path) -> None:
    mask, _ = make(files, cylinder="20,40", soft_edge=0)
    np.testing.assert_array_equal(mask, masks.cylinder_mask(BOX, 5, 20, 0))


def test_a_threshold_keeps_the_density_and_its_options_act_in_order(files: Path) -> None:
    plain, _ = make(files, threshold=2.5, soft_edge=0)
    data = read_volume(files / "map.mrc").data
    np.testing.assert_array_equal(plain > 0, data >= 2.5)
    fraction, _ = make(files, threshold_fraction=0.5, soft_edge=0)
    np.testing.assert_array_equal(fraction, plain)
    cleaned, _ = make(files, threshold=2.5, soft_edge=0, largest=True, fill_holes=True)
    assert cleaned[20, 20, 20] == 1 and cleaned[3, 3, 3] == 0
    grown, _ = make(files, threshold=2.5, soft_edge=0, largest=True, fill_holes=True, dilate="6A")
    np.testing.assert_array_equal(grown > 0, masks.dilate(cleaned > 0, 3))
    smooth, _ = make(files, threshold=2.5, soft_edge=0, low_pass="20A")
    assert smooth[3, 3, 3] == 0


def test_a_threshold_and_a_sphere_keep_the_density_inside_the_sphere(files: Path) -> None:
    mask, _ = make(files, threshold=2.5, sphere="30A", soft_edge=0)
    assert mask[3, 3, 3] == 0 and mask[20, 20, 24] == 1 and mask[20, 20, 20] == 0


@pytest.mark.parametrize(("how", "rule"), [("and", lambda a, b: a & b), ("or", lambda a, b: a | b), ("not", lambda a, b: a & ~b)])
def test_masks_are_combined(files: Path, how: str, rule: Any) -> None:
    left, right = (read_volume(files / f"{name}.mrc").data > 0.5 for name in ("left", "right"))
    mask, summary = make(files, None, ("left.mrc", "right.mrc"), combine=how, soft_edge=0)
    np.testing.assert_array_equal(mask > 0, rule(left, right))
    assert how in summary["mask"]
    with_density, _ = make(files, "map.mrc", ("right.mrc",), combine=how, soft_edge=0, threshold=2.5)
    np.testing.assert_array_equal(with_density > 0, rule(read_volume(files / "map.mrc").data >= 2.5, right))


def test_without_threshold_or_shape_the_rule_decides_and_says_so(files: Path) -> None:
    mask, summary = make(files)
    assert "by rule" in summary["mask"] and mask[20, 20, 20] == 1 and mask[3, 3, 3] == 0
    assert summary["warnings"] == []


def record_with_resolution(path: Path) -> float:
    """Write a volume.h5 with half maps that agree to some resolution; returns it."""
    rng = np.random.default_rng(1)
    signal = fourier.apply_b_factor(rng.standard_normal((BOX,) * 3) * blob(), 300, VOXEL_A)
    halves = Halves(*(Volume((signal + 0.5 * signal.std() * rng.standard_normal(signal.shape)).astype(np.float32), VOXEL_A)
                      for _ in range(2)))
    fsc = measure_fsc(halves, None, "")
    write_map_record(path, MapRecord(halves, halves.a, fsc=fsc))
    return fsc.resolution_A_at("corrected")


def test_an_edge_sharper_than_the_resolution_of_the_map_is_warned_of(files: Path) -> None:
    resolution_A = record_with_resolution(files / "volume.h5")
    assert 4 < resolution_A < 15
    _, sharp = make(files, "volume.h5", sphere="30A", soft_edge=f"{0.9 * resolution_A:.2f}A")
    assert "sharp_mask_edge" in warned(sharp)
    _, soft = make(files, "volume.h5", sphere="30A", soft_edge=f"{1.1 * resolution_A:.2f}A")
    assert warned(soft) == set()
    _, unset = make(files, "volume.h5", sphere="30A")
    assert warned(unset) == set() and "soft edge 10.0 Å" in unset["mask"], "an eighth of the box of 80 Å"


def test_a_mask_that_the_box_cuts_off_is_warned_of(files: Path) -> None:
    _, summary = make(files, sphere="90A")
    assert {"mask_touches_box", "mask_is_large"} <= warned(summary)


@pytest.mark.parametrize(("settings", "error", "message"), [
    ({"threshold": 99}, InputError, "no voxel is left"), ({"sphere": 20, "cylinder": "20,20"}, SettingsError, "both sphere and cylinder"),
    ({"cylinder": "20"}, SettingsError, "2 numbers"), ({"centre": "a,b,c", "sphere": 20}, SettingsError, "3 numbers"),
    ({"threshold": 1, "threshold_fraction": 0.5}, SettingsError, "both threshold"),
    ({"combine": "xor"}, SettingsError, "one of and, or, not"),
    ({"asymmetric_unit": "C2"}, NotYetError, "asymmetric_unit")])
def test_impossible_settings_are_refused(files: Path, settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(files, **settings)


def test_inputs_that_do_not_go_together_are_refused(files: Path) -> None:
    with pytest.raises(InputError, match="neither --volume nor --mask"):
        make(files, None)
    with pytest.raises(InputError, match="no --volume given"):
        make(files, None, ("left.mrc",), threshold=1)
    write_volume(files / "other.mrc", Volume(np.ones((20, 20, 20), np.float32), VOXEL_A))
    with pytest.raises(InputError, match="box 40 at 2 Å and box 20"):
        make(files, "map.mrc", ("other.mrc",))


def test_an_atomic_model_is_for_a_later_version(files: Path) -> None:
    (files / "model.cif").write_text("data_x\n")
    with pytest.raises(NotYetError, match="atomic model"):
        run_job(JOB, {"volume": str(files / "map.mrc"), "model": str(files / "model.cif")}, {}, RunOptions(files / "out", threads=1))


def test_the_plan_says_what_a_box_takes(files: Path) -> None:
    assert plan_job(JOB, {"volume": str(files / "map.mrc")}, {}, 1, 1).memory_bytes > 1e8
