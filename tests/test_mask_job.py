"""The mask job: what it starts from, what it combines, what it warns of and refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gemmi
import mrcfile
import numpy as np
import pytest
from scipy.spatial import cKDTree

from protomer.declarations.mask import JOB
from protomer.errors import InputError, SettingsError
from protomer.formats.hdf5 import write_map_record
from protomer.formats.mrc import read_volume, write_volume
from protomer.maps.resolution import measure_fsc
from protomer.maps.volumes import Halves, MapRecord, Volume
from protomer.running.job_run import RunOptions, plan_job, run_job
from protomer.simulation.atom_files import placed, read_atoms
from protomer.simulation.scatterers import AtomModel
from protomer.simulation.shipped_models import shipped_model
from protomer_kernels import fourier, masks
from protomer_kernels.atoms import real_volume
from protomer_kernels.masks import distance_to

BOX, VOXEL_A = 40, 2.0
DIMER_BOX, DIMER_A = 48, 2.5
ORIGIN_A = (-31.5, 12.0, 100.25)


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


@pytest.fixture(autouse=True)
def no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are drawn in the test of the rule alone: they take most of a run's time."""
    if "rule" not in request.node.name:
        monkeypatch.setattr("protomer.jobs.mask.write_report", lambda *_: None)


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
    assert summary["warnings"] == [] and "by rule" in (files / "out/report.html").read_text()


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
    ({"asymmetric_unit": "C0"}, SettingsError, "C0"), ({"asymmetric_unit": "C1"}, SettingsError, "everything is one unit"),
    ({"asymmetric_unit": "C2", "unit_seed": "1,2"}, SettingsError, "3 numbers"),
    ({"asymmetric_unit": "C2", "unit_seed": "20,20,5"}, SettingsError, "its own copy"),
    ({"unit_seed": "20,20,5"}, SettingsError, "unit_seed without asymmetric_unit"),
    ({"unit_low_pass": "12A"}, SettingsError, "unit_low_pass without asymmetric_unit"),
    ({"model_chains": "A"}, SettingsError, "model_chains without --model")])
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


def test_inputs_of_another_box_are_refused_with_the_command_that_helps(files: Path) -> None:
    write_volume(files / "fine.mrc", Volume(np.ones((50,) * 3, np.float32), 1.5))
    with pytest.raises(InputError) as caught:
        make(files, "map.mrc", ("fine.mrc",))
    assert "protomer volume --mask MASK.mrc --set resample=2A --set pad=40" in caught.value.remedy


@pytest.fixture(scope="module")
def dimer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Haemoglobin as a map with its centre of mass in the box centre, and the model as fitted into that map in a viewer."""
    folder = tmp_path_factory.mktemp("dimer")
    atoms = placed(read_atoms(shipped_model("5ni1")), "mass", DIMER_BOX, DIMER_A, None)
    data = real_volume(AtomModel(atoms.positions_A, atoms.weights, 60.0).volume_ft(DIMER_BOX, DIMER_A), DIMER_BOX)
    write_volume(folder / "map.mrc", Volume(data.astype(np.float32), DIMER_A))
    with mrcfile.mmap(folder / "map.mrc", mode="r+") as handle:
        handle.header.origin.x, handle.header.origin.y, handle.header.origin.z = ORIGIN_A
    structure = gemmi.read_structure(str(shipped_model("5ni1")))
    structure.setup_entities()
    structure.remove_waters()
    for atom, position in zip((a for chain in structure[0] for residue in chain for a in residue), atoms.positions_A, strict=True):
        atom.pos = gemmi.Position(*(position + np.array(ORIGIN_A) + DIMER_BOX // 2 * DIMER_A))
    structure.make_mmcif_document().write_file(str(folder / "fitted.cif"))
    return folder


def voxels_of(chains: str) -> tuple[np.ndarray, ...]:
    """Index of the voxel nearest each atom of some chains in the map of `dimer`."""
    atoms = placed(read_atoms(shipped_model("5ni1")), "mass", DIMER_BOX, DIMER_A, None).of_chains(chains)
    return tuple(np.rint(atoms.positions_A[:, ::-1].T / DIMER_A).astype(int) + DIMER_BOX // 2)


def dimer_mask(dimer: Path, output: Path, model: str | None = None, others: tuple[Path, ...] = (),
               **settings: Any) -> tuple[np.ndarray, dict[str, Any]]:
    inputs = {"volume": str(dimer / "map.mrc"), "model": model, "mask": tuple(map(str, others))}
    summary = run_job(JOB, inputs, settings, RunOptions(output, overwrite=True, threads=1))
    return read_volume(output / "mask.mrc").data, summary


@pytest.mark.parametrize(("model", "origin"), [("fitted.cif", "map"), ("5ni1", "mass")])
def test_a_model_is_covered_where_it_was_fitted_or_where_simulate_puts_it(dimer: Path, tmp_path: Path, model: str, origin: str) -> None:
    path = str(dimer / model) if model != "5ni1" else model
    mask, summary = dimer_mask(dimer, tmp_path / "out", path, model_origin=origin, soft_edge=0)
    assert mask[voxels_of("A+B+C+D")].all() and warned(summary) == {"sharp_mask_edge"}
    one, summary = dimer_mask(dimer, tmp_path / "one", path, model_origin=origin, model_chains="A+B", soft_edge=0)
    assert one[voxels_of("A+B")].all() and one[voxels_of("C+D")].mean() < 0.15 and "chains A+B" in summary["mask"]
    radius, _ = dimer_mask(dimer, tmp_path / "wide", path, model_origin=origin, model_radius="8A", soft_edge=0)
    atoms = placed(read_atoms(shipped_model("5ni1")), "mass", DIMER_BOX, DIMER_A, None)
    grid = np.stack(np.meshgrid(*[np.arange(DIMER_BOX) - DIMER_BOX // 2] * 3, indexing="ij"), -1)[..., ::-1] * DIMER_A
    near = cKDTree(atoms.positions_A).query(grid.reshape(-1, 3))[0].reshape(mask.shape) <= 8.0
    np.testing.assert_array_equal(radius > 0, near)


def test_a_model_outside_the_box_or_beside_the_density_is_not_taken_in_silence(dimer: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"atoms of 5ni1.* lie outside the box") as caught:
        dimer_mask(dimer, tmp_path / "out", "5ni1")
    assert "model_origin" in caught.value.remedy
    with pytest.raises(SettingsError, match="names chains Q"):
        dimer_mask(dimer, tmp_path / "out", "5ni1", model_chains="A+Q", model_origin="mass")
    shifted = read_volume(dimer / "map.mrc")
    write_volume(tmp_path / "map.mrc", Volume(np.roll(shifted.data, 24, 0), DIMER_A))
    _, summary = dimer_mask(tmp_path, tmp_path / "out", "5ni1", model_origin="mass")
    assert "model_misses_map" in warned(summary)


@pytest.mark.parametrize("edge_A", [0.0, 7.5])
def test_the_asymmetric_unit_of_a_dimer_covers_one_half_and_its_copy_the_other(dimer: Path, tmp_path: Path, edge_A: float) -> None:
    mask, summary = dimer_mask(dimer, tmp_path / "out", asymmetric_unit="C2", soft_edge=edge_A)
    whole, _ = dimer_mask(dimer, tmp_path / "whole", soft_edge=0)
    copy = np.roll(mask[:, ::-1, ::-1], (1, 1), (1, 2))  # a half turn about z through voxel 24
    assert np.maximum(mask, copy)[whole > 0].min() == 1, "the copies cover the density's mask"
    both = (mask > 0) & (copy > 0)
    assert both.sum() <= 0.02 * whole.sum() if edge_A == 0 else distance_to(mask == 1, 6)[both].max() <= edge_A / DIMER_A + 1e-6
    assert (mask == 1).sum() == pytest.approx(whole.sum() / 2, rel=0.02)
    kept = [float(mask[voxels_of(chains)].mean()) for chains in ("A+B", "C+D")]
    if edge_A == 0:
        assert max(kept) > 0.97 and min(kept) < 0.03
    assert "one asymmetric unit of C2 by watershed" in summary["mask"] and summary["unit_correlation"] > 0.99
    x, y, z = (round(s) for s in summary["unit_seed_px"])
    assert mask[z, y, x] == 1


def test_the_unit_is_chosen_by_its_seed_cut_flat_on_request_and_combined_with_further_masks(dimer: Path, tmp_path: Path) -> None:
    first, summary = dimer_mask(dimer, tmp_path / "first", asymmetric_unit="C2", soft_edge=0)
    x, y, z = summary["unit_seed_px"]
    other, _ = dimer_mask(dimer, tmp_path / "other", asymmetric_unit="C2", soft_edge=0, unit_seed=f"{48 - x},{48 - y},{z}")
    assert (first * other).sum() < 0.02 * first.sum()
    flat, said = dimer_mask(dimer, tmp_path / "flat", asymmetric_unit="C2", soft_edge=0, unit_method="wedge", unit_seed="40,24,24")
    assert not flat[:, :, :24].any() and flat[:, :, 25:].any() and "by wedge" in said["mask"]
    half = np.zeros((DIMER_BOX,) * 3, np.float32)
    half[24:] = 1
    write_volume(tmp_path / "upper.mrc", Volume(half, DIMER_A))
    upper, _ = dimer_mask(dimer, tmp_path / "upper", None, (tmp_path / "upper.mrc",), asymmetric_unit="C2", soft_edge=0, dilate=0)
    assert upper.any() and not upper[:24].any()


def test_a_mask_can_be_cut_into_units_by_itself(files: Path) -> None:
    both = np.maximum(*(read_volume(files / f"{name}.mrc").data for name in ("left", "right")))
    unit, summary = make(files, None, ("left.mrc",), asymmetric_unit="C2", soft_edge=0)
    copy = np.roll(unit[:, ::-1, ::-1], (1, 1), (1, 2))
    np.testing.assert_array_equal(np.maximum(unit, copy), both)
    assert unit.sum() == pytest.approx(both.sum() / 2, rel=0.06) and "the first mask" in summary["mask"]


def test_a_map_that_does_not_have_the_group_is_warned_of(dimer: Path, tmp_path: Path) -> None:
    _, right = dimer_mask(dimer, tmp_path / "right", asymmetric_unit="C2")
    _, wrong = dimer_mask(dimer, tmp_path / "wrong", asymmetric_unit="C5")
    _, nearly = dimer_mask(dimer, tmp_path / "nearly", asymmetric_unit="D2")
    assert warned(right) == set() and warned(wrong) == warned(nearly) == {"group_not_carried"}


def test_the_plan_says_what_a_box_takes(files: Path) -> None:
    assert plan_job(JOB, {"volume": str(files / "map.mrc")}, {}, 1, 1).memory_bytes > 1e8
