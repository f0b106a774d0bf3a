"""postprocess: the mask by rule, FSC weighting and B-factor, RELION as a peer, bad input."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protomer.declarations.postprocess import JOB
from protomer.errors import InputError
from protomer.formats.hdf5 import read_map_record
from protomer.formats.mrc import read_volume, write_volume
from protomer.maps.fsc_curves import read_fsc_csv
from protomer.maps.mask_rule import find_support, mask_by_rule
from protomer.maps.resolution import combined_map_correlation, first_random_shell, measure_fsc
from protomer.maps.sharpening import fit_guinier, fsc_weight, mean_amplitude, sharpened_map
from protomer.maps.volumes import Halves, Volume
from protomer.running.job_run import RunOptions, plan_job, run_job
from protomer_kernels import fourier, masks
from test_resolution import relion_table

VOXEL_A = 1.5


def atoms(box: int = 48, b_factor_A2: float = 0.0, seed: int = 1) -> np.ndarray:
    """Random points in a ball: a flat spectrum but for the B-factor."""
    rng = np.random.default_rng(seed)
    points = rng.random((box,) * 3) * (rng.random((box,) * 3) > 0.9) * masks.sphere_mask(box, 0.24 * box, 0)
    return fourier.apply_b_factor(points, b_factor_A2, VOXEL_A)


def noisy_halves(signal: np.ndarray, noise: float, seed: int = 2) -> Halves[Volume]:
    rng = np.random.default_rng(seed)
    return Halves(*(Volume((signal + noise * signal.std() * rng.standard_normal(signal.shape)).astype(np.float32), VOXEL_A)
                    for _ in range(2)))


@pytest.fixture
def half_map_files(tmp_path: Path) -> tuple[str, str]:
    paths = tmp_path / "half_a.mrc", tmp_path / "half_b.mrc"
    for path, half in zip(paths, noisy_halves(atoms(b_factor_A2=60), 1.0), strict=True):
        write_volume(path, half)
    return str(paths[0]), str(paths[1])


def postprocess(volumes: tuple[str, ...], folder: Path, mask: Path | None = None, **settings: Any) -> dict[str, Any]:
    return run_job(JOB, {"volume": volumes, "mask": None if mask is None else str(mask)}, settings, RunOptions(folder, threads=1))


def test_the_rule_covers_the_particle_leaves_out_the_solvent_and_says_its_values() -> None:
    made = mask_by_rule(noisy_halves(atoms(), 2.0))
    ball = masks.sphere_mask(48, 0.24 * 48, 0) > 0
    assert made.found_density
    assert made.mask.data[ball].min() > 0.9
    assert made.mask.data.mean() < 0.7
    assert made.mask.data[:, :, 0].max() < 0.5
    for words in ("low-pass 15.0 Å", "threshold", "soft edge 15.0 Å", "% of the box"):
        assert words in made.name


def test_the_rule_gives_the_same_mask_for_the_halves_in_either_order_and_for_any_grey_scale() -> None:
    halves = noisy_halves(atoms(), 2.0)
    first, swapped = mask_by_rule(halves), mask_by_rule(Halves(halves.b, halves.a))
    scaled = mask_by_rule(halves.map(lambda v: Volume(v.data * np.float32(8), v.voxel_size_A)))
    np.testing.assert_array_equal(first.mask.data, swapped.mask.data)
    np.testing.assert_array_equal(first.mask.data, scaled.mask.data)


def test_an_edge_by_rule_is_at_least_five_voxels_and_as_wide_as_the_low_pass() -> None:
    for voxel_A in (1.0, 4.0):
        signal = atoms(64)
        made = mask_by_rule(Halves.of(Volume(signal.astype(np.float32), voxel_A)))
        middle = made.mask.data[32, 32]
        ramp = int(((middle > 0) & (middle < 1)).sum())  # both sides
        assert ramp / 2 >= 4 and f"soft edge {max(5 * voxel_A, max(15, 6 * voxel_A)):.1f} Å" in made.name


def test_a_flat_map_has_no_density_and_the_mask_says_so() -> None:
    flat = Volume(np.full((32, 32, 32), 2, np.float32), VOXEL_A)
    made = mask_by_rule(Halves.of(flat))
    assert not made.found_density and "found no density" in made.name and made.mask.data.max() == 1


def test_the_support_of_noise_alone_is_small() -> None:
    noise = Volume(np.random.default_rng(0).standard_normal((48,) * 3).astype(np.float32), VOXEL_A)
    assert find_support(noise).voxels.mean() < 0.01


def test_the_guinier_fit_finds_the_b_factor_that_was_put_in() -> None:
    flat, faded = (Volume(atoms(64, b, seed=4).astype(np.float32), VOXEL_A) for b in (0.0, 90.0))
    ones = np.ones(33)
    before, after = (fit_guinier(volume, ones, 15, 3.5) for volume in (flat, faded))
    assert before is not None and after is not None
    assert after.b_factor_A2 - before.b_factor_A2 == pytest.approx(90, abs=2)
    assert fit_guinier(flat, ones, 15, 14) is None


def test_mean_amplitudes_are_those_of_the_full_transform() -> None:
    volume = np.random.default_rng(0).standard_normal((12, 12, 12))
    k = np.fft.fftfreq(12) * 12
    shell = np.rint(np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + k[None, None, :] ** 2))
    expected = [np.abs(np.fft.fftn(volume))[shell == s].mean() / 12**3 for s in range(7)]
    np.testing.assert_allclose(mean_amplitude(volume), expected, rtol=1e-6)


def test_sharpening_undoes_a_b_factor() -> None:
    sharp = fourier.low_pass(atoms(), 20, 2)
    blurred = Volume(fourier.apply_b_factor(sharp, 80, VOXEL_A).astype(np.float32), VOXEL_A)
    restored = sharpened_map(blurred, np.ones(25), 80)
    np.testing.assert_allclose(restored.data, sharp, atol=0.05 * sharp.std())  # the filter is linear between shells
    assert np.abs(blurred.data - sharp).max() > 3 * sharp.std()


def test_the_fsc_weight_brings_the_map_nearer_to_the_truth_than_the_plain_mean() -> None:
    truth = atoms(b_factor_A2=100)
    halves = noisy_halves(truth, 1.5)
    fsc = measure_fsc(halves, None, "")
    weight = fsc_weight(fsc)
    mean = Volume((halves.a.data + halves.b.data) / 2, VOXEL_A)
    filtered = sharpened_map(mean, weight, 0.0).data
    assert np.corrcoef(filtered.ravel(), truth.ravel())[0, 1] > np.corrcoef(mean.data.ravel(), truth.ravel())[0, 1] + 0.1
    crossing = fsc.shell_at("corrected", 0.143)
    assert weight[0] == 1 and np.all(weight[int(np.ceil(crossing)) + 3:] == 0)
    np.testing.assert_allclose(weight[1:5], combined_map_correlation(fsc.corrected)[1:5])


def test_postprocess_writes_maps_curves_and_a_report_that_agree(half_map_files: tuple[str, str], tmp_path: Path) -> None:
    summary = postprocess(half_map_files, tmp_path / "out")
    out = tmp_path / "out"
    record, fsc = read_map_record(out / "volume.h5"), read_fsc_csv(out / "fsc.csv")
    assert summary["resolution_A"]["corrected"] == pytest.approx(fsc.resolution_A_at("corrected"), abs=1e-3)
    assert summary["resolution_A"]["mask"] == summary["mask"] == fsc.mask_name
    assert record.fsc is not None and record.sharpened is not None
    np.testing.assert_array_equal(record.fsc.corrected, fsc.corrected)
    np.testing.assert_array_equal(record.half_maps.a.data, read_volume(half_map_files[0]).data)
    assert {"half_a.mrc", "half_b.mrc", "map.mrc", "map_sharpened.mrc", "mask.mrc", "fsc.csv", "volume.h5"} <= set(summary["outputs"])
    np.testing.assert_array_equal(record.sharpened.data, read_volume(out / "map_sharpened.mrc").data)
    page = (out / "report.html").read_text()
    assert fsc.mask_name.split(",")[0] in page and page.count("<svg") >= 4
    again = postprocess((str(out),), tmp_path / "again")
    assert again["resolution_A"] == summary["resolution_A"] and again["b_factor_A2"] == summary["b_factor_A2"]


def test_a_given_mask_and_b_factor_are_used_and_named(half_map_files: tuple[str, str], tmp_path: Path) -> None:
    mask = tmp_path / "tight.mrc"
    write_volume(mask, Volume(masks.sphere_mask(48, 10, 0), VOXEL_A))
    summary = postprocess(half_map_files, tmp_path / "out", mask, b_factor="-25A2")
    assert summary["mask"] == "tight.mrc" and summary["b_factor_A2"] == -25
    assert "tight_mask" in {warning["code"] for warning in summary["warnings"]}


@pytest.mark.parametrize(("change", "message"), [("same", "given as both half maps"), ("copy", "hold the same map"), ("single", "1 volume"),
                                                 ("box", "half maps of box 48"), ("mask", "values from")])
def test_bad_half_maps_and_masks_are_refused_and_nothing_is_left(half_map_files: tuple[str, str], tmp_path: Path, change: str,
                                                                message: str) -> None:
    a, b = half_map_files
    mask = None
    if change == "copy":
        shutil.copy(a, b)
    if change == "box":
        write_volume(b, Volume(np.zeros((40,) * 3, np.float32), VOXEL_A))
    if change == "mask":
        mask = tmp_path / "mask.mrc"
        write_volume(mask, Volume(np.full((48,) * 3, 7, np.float32), VOXEL_A))
    with pytest.raises(InputError, match=message):
        postprocess({"same": (a, a), "single": (a,)}.get(change, (a, b)), tmp_path / "out", mask)
    assert not (tmp_path / "out").exists()


def test_half_maps_of_noise_reach_no_resolution_and_the_job_warns(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    paths = tuple(str(tmp_path / name) for name in ("a.mrc", "b.mrc"))
    for path in paths:
        write_volume(path, Volume(rng.standard_normal((48,) * 3).astype(np.float32), VOXEL_A))
    summary = postprocess(paths, tmp_path / "out")
    codes = {warning["code"] for warning in summary["warnings"]}
    assert summary["resolution_A"]["unmasked"] is None
    assert (summary["resolution_A"]["corrected"] or 99) > 15
    assert {"no_resolution", "no_b_factor", "no_density"} <= codes


def test_identical_looking_halves_are_reported_as_limited_by_the_pixel_size(tmp_path: Path) -> None:
    signal = atoms()
    paths = tuple(str(tmp_path / name) for name in ("a.mrc", "b.mrc"))
    for path, half in zip(paths, noisy_halves(signal, 0.01), strict=True):
        write_volume(path, half)
    summary = postprocess(paths, tmp_path / "out")
    assert "limited_by_pixel_size" in {warning["code"] for warning in summary["warnings"]}
    assert summary["resolution_A"]["corrected"] == pytest.approx(2 * VOXEL_A)


def test_the_plan_says_what_a_box_takes(half_map_files: tuple[str, str]) -> None:
    small = plan_job(JOB, {"volume": half_map_files}, {}, 1, 1)
    assert 1e8 < small.memory_bytes < 1e9 and small.seconds > 0


@pytest.fixture(scope="module")
def relion_peer(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> tuple[Path, Halves[Volume], Volume]:
    """A folder where relion_postprocess worked on two noisy half maps of a real map, and those half maps and the mask."""
    if shutil.which("relion_postprocess") is None:
        pytest.skip("RELION is not installed")
    folder = tmp_path_factory.mktemp("relion")
    real = read_volume(shared_data / "real_maps" / "emd_3488.mrc", 1.05)
    rng, faded = np.random.default_rng(0), fourier.apply_b_factor(real.data, 60, 1.05)
    halves = Halves(*(Volume((faded + faded.std() * rng.standard_normal(faded.shape)).astype(np.float32), 1.05) for _ in range(2)))
    mask = Volume(masks.soft_edge(real.data > 0.03, 6), 1.05)
    for name, volume in (("half_a", halves.a), ("half_b", halves.b), ("mask", mask)):
        write_volume(folder / f"{name}.mrc", volume)
    subprocess.run(["relion_postprocess", "--i", "half_a.mrc", "--i2", "half_b.mrc", "--o", "peer", "--mask", "mask.mrc", "--angpix",
                    "1.05", "--auto_bfac", "--autob_lowres", "10", "--autob_highres", "3.3"], cwd=folder, check=False, capture_output=True,
                   env={**os.environ, "OMP_NUM_THREADS": "1"})
    if not (folder / "peer.star").exists():
        pytest.fail("relion_postprocess wrote no table")
    return folder, halves, mask


def test_all_curves_agree_with_relion_for_the_same_half_maps_and_mask(relion_peer: tuple[Path, Halves[Volume], Volume]) -> None:
    folder, halves, mask = relion_peer
    table, randomised_from_A = relion_table(folder / "peer.star")
    fsc = measure_fsc(halves, mask, "mask.mrc")
    assert fsc.resolution_A[fsc.randomised_from_shell] == pytest.approx(randomised_from_A, rel=1e-5)
    assert first_random_shell(table["FourierShellCorrelationUnmaskedMaps"]) == fsc.randomised_from_shell
    np.testing.assert_allclose(fsc.unmasked, table["FourierShellCorrelationUnmaskedMaps"], atol=0.004)
    np.testing.assert_allclose(fsc.masked, table["FourierShellCorrelationMaskedMaps"], atol=0.004)
    randomised = table["CorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps"]
    settled = np.abs(fsc.shell - fsc.randomised_from_shell) > 1  # RELION begins half a shell later
    np.testing.assert_allclose(fsc.randomised[settled], randomised[settled], atol=0.06)  # other random phases
    np.testing.assert_allclose(np.maximum(fsc.corrected, 0), table["FourierShellCorrelationCorrected"], atol=0.06)
    their_shell = np.flatnonzero(table["FourierShellCorrelationCorrected"] < 0.143)[0] - 1
    assert int(fsc.shell_at("corrected", 0.143)) == their_shell


def test_the_b_factor_agrees_with_that_of_relion_over_the_same_range(relion_peer: tuple[Path, Halves[Volume], Volume]) -> None:
    folder, halves, mask = relion_peer
    theirs = float((folder / "peer.star").read_text().split("_rlnBfactorUsedForSharpening")[1].split()[0])
    fsc = measure_fsc(halves, mask, "mask.mrc")
    fit = fit_guinier(Volume((halves.a.data + halves.b.data) / 2, 1.05), fsc_weight(fsc), 10, 3.3)
    assert fit is not None and fit.b_factor_A2 == pytest.approx(-theirs, rel=0.03)
