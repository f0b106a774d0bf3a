"""local-resolution: the correlation against a slow oracle, noise, a planted blurred half, the filtered map, bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protomer.declarations.local_resolution import JOB
from protomer.errors import InputError, SettingsError
from protomer.formats.mrc import read_volume, write_volume
from protomer.maps.local_resolution import choose_bands, critical_correlation, filter_locally, measure_local_resolution
from protomer.maps.volumes import Halves, Volume
from protomer.running.job_run import RunOptions, plan_job, run_job
from protomer_kernels import fourier, masks
from protomer_kernels.local_correlation import independent_pairs, local_correlation

BOX, VOXEL_A = 72, 1.5
SHARP_A, BLURRED_A = 5.0, 9.0


def noise(box: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((box,) * 3).astype(np.float32)


def half_blurred() -> np.ndarray:
    """A ball of random density that ends at SHARP_A for x > 0 and at BLURRED_A for x < 0."""
    width_A, signal = BOX * VOXEL_A, noise(BOX, 0)
    sharp, blurred = (fourier.low_pass(signal, width_A / cut_A, 1) for cut_A in (SHARP_A, BLURRED_A))
    right = (np.arange(BOX) >= BOX // 2).astype(np.float32)
    return np.asarray(masks.sphere_mask(BOX, 0.34 * BOX, 2) * (right * sharp + (1 - right) * blurred))


def halves_of(signal: np.ndarray, sd: float = 0.5) -> Halves[Volume]:
    return Halves(*(Volume((signal + sd * noise(len(signal), seed)).astype(np.float32), VOXEL_A) for seed in (1, 2)))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("halves")
    for name, half in zip("ab", halves_of(half_blurred()), strict=True):
        write_volume(folder / f"{name}.mrc", half)
    for name, seed in (("noise_a", 3), ("noise_b", 4)):
        write_volume(folder / f"{name}.mrc", Volume(noise(32, seed), VOXEL_A))
    write_volume(folder / "all.mrc", Volume(np.ones((BOX,) * 3, np.float32), VOXEL_A))
    write_volume(folder / "all_32.mrc", Volume(np.ones((32,) * 3, np.float32), VOXEL_A))
    return folder


def resolve(files: Path, output: Path, halves: tuple[str, ...] = ("a", "b"), mask: str | None = "all", **settings: Any) -> dict[str, Any]:
    inputs = {"volume": [str(files / f"{name}.mrc") for name in halves], "mask": None if mask is None else str(files / f"{mask}.mrc")}
    return run_job(JOB, inputs, settings, RunOptions(output, threads=1))


@pytest.fixture(scope="module")
def resolved(files: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    output = tmp_path_factory.mktemp("resolved") / "out"
    return output, resolve(files, output)


def test_the_local_correlation_is_that_of_band_passed_maps_in_a_window() -> None:
    box, band, width_px, grid = 20, (5.0, 2.0), 6.0, 20
    maps = [noise(box, seed).astype(np.float64) for seed in (5, 6)]
    maps[1] += maps[0]
    found = local_correlation(*(np.fft.rfftn(one) for one in maps), band, width_px, grid)
    k = np.sqrt(sum(np.square(axis) for axis in np.meshgrid(*[np.fft.fftfreq(box, 1 / box)] * 3, indexing="ij")))
    weight = np.where(np.abs(k - band[0]) < band[1], 0.5 + 0.5 * np.cos(np.pi * (k - band[0]) / band[1]), 0)
    a, b = (np.fft.ifftn(np.fft.fftn(one) * weight).real for one in maps)
    away = [np.minimum(np.abs(axis - at), box - np.abs(axis - at)) for axis, at in zip(np.indices((box,) * 3), (3, 11, 19), strict=True)]
    window = 0.5 + 0.5 * np.cos(np.pi * np.minimum(np.sqrt(sum(np.square(axis) for axis in away)) / width_px, 1))
    expected = (window * a * b).sum() / np.sqrt((window * a * a).sum() * (window * b * b).sum())
    assert found[3, 11, 19] == pytest.approx(expected, abs=0.01) and abs(expected) > 0.1


@pytest.mark.parametrize(("band", "width_px"), [((4.0, 1.5), 14.0), ((10.0, 1.5), 8.0), ((16.0, 3.0), 5.0)])
def test_noise_correlates_by_as_much_as_the_number_of_independent_pairs_says(band: tuple[float, float], width_px: float) -> None:
    box = 40
    spectra = [np.fft.rfftn(noise(box, seed)) for seed in range(10, 30)]
    found = [np.mean(local_correlation(a, b, band, width_px, 32) ** 2) for a, b in zip(spectra[::2], spectra[1::2], strict=True)]
    assert 1 / float(np.mean(found)) == pytest.approx(independent_pairs(box, band, width_px), rel=0.12)


def test_few_of_many_correlations_of_noise_are_taken_for_signal_and_strong_ones_are_found() -> None:
    random, pairs = np.random.default_rng(3), 80.0
    null = np.tanh(random.standard_normal(20_000) / np.sqrt(pairs - 2))
    assert (null >= critical_correlation(null, len(null), 0.01, pairs)).sum() == 0
    mixed = np.concatenate([null, np.tanh(0.7 + random.standard_normal(5_000) / np.sqrt(pairs - 2))])
    limit = critical_correlation(mixed, len(mixed), 0.01, pairs)
    assert (mixed[20_000:] >= limit).mean() > 0.95 and (null >= limit).sum() <= 0.01 * 5_000


def test_a_blurred_half_is_told_from_a_sharp_one_and_solvent_has_no_resolution(resolved: tuple[Path, dict[str, Any]]) -> None:
    output, summary = resolved
    found = read_volume(output / "local_resolution.mrc").data
    z, y, x = np.indices(found.shape) - BOX // 2
    radius = np.sqrt(x**2 + y**2 + z**2)
    is_known = found < summary["unresolved_value_A"]
    for side, truth_A in ((x > 9, SHARP_A), (x < -9, BLURRED_A)):
        place = side & (radius < 0.3 * BOX)
        assert is_known[place].mean() > 0.8
        assert np.median(found[place & is_known]) == pytest.approx(truth_A, rel=0.15)
    assert is_known[radius > 0.62 * BOX].mean() < 0.01
    assert 0 < summary["unresolved_share_of_mask"] < 1


def test_the_filtered_map_is_sharp_where_the_half_maps_agree_and_has_less_error_than_one_cut_off_for_all(
        resolved: tuple[Path, dict[str, Any]], files: Path, tmp_path: Path) -> None:
    truth, halves = half_blurred(), halves_of(half_blurred())
    mean = Volume((halves.a.data + halves.b.data) / np.float32(2), VOXEL_A)
    local_A, radius = read_volume(resolved[0] / "local_resolution.mrc").data, BOX * VOXEL_A
    levels = choose_bands(BOX, VOXEL_A, 40.0, 0.0).radius
    filtered = filter_locally(mean, np.maximum(radius / local_A, levels[0]), levels).data
    inside = masks.sphere_mask(BOX, 0.3 * BOX, 0) > 0
    errors = [float(np.mean((one - truth)[inside] ** 2)) for one in (filtered, *(fourier.low_pass(mean.data, radius / cut_A, 2)
                                                                                for cut_A in (SHARP_A, 6.0, 7.0, BLURRED_A)))]
    assert errors[0] < 0.97 * min(errors[1:])
    np.testing.assert_allclose(filter_locally(mean, np.full((BOX,) * 3, levels[5]), levels).data, fourier.low_pass(mean.data, levels[5], 2),
                               atol=1e-4)


def test_noise_alone_has_no_resolution_anywhere(files: Path, tmp_path: Path) -> None:
    summary = resolve(files, tmp_path / "out", ("noise_a", "noise_b"), "all_32")
    assert summary["unresolved_share_of_mask"] == 1 and summary["local_resolution_A"]["median"] is None
    assert "nothing_resolved" in {warning["code"] for warning in summary["warnings"]}


def test_without_a_mask_the_rule_makes_one_and_the_files_are_there(files: Path, tmp_path: Path) -> None:
    summary = resolve(files, tmp_path / "out", mask=None, threshold=0.3, window="15A")
    assert summary["mask"].startswith("by rule") and summary["unresolved_share_of_mask"] < 0.9
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"local_resolution.mrc", "map_locally_filtered.mrc", "mask.mrc", "colour_by_resolution.cxc", "report.html"} <= names
    assert "color sample #1 map #2" in (tmp_path / "out/colour_by_resolution.cxc").read_text()
    text = (tmp_path / "out/report.html").read_text()
    assert text.count("<svg") == 5 and "correlation asked" in text


def test_resolutions_do_not_depend_on_the_grey_scale_of_either_half() -> None:
    halves, inside = halves_of(half_blurred()[16:56, 16:56, 16:56]), np.ones((40,) * 3, bool)
    bands = choose_bands(40, VOXEL_A, 20.0, 0.0)
    scaled = Halves(Volume(halves.a.data * np.float32(1e-6), VOXEL_A), Volume(halves.b.data * np.float32(4e3), VOXEL_A))
    one, two = (measure_local_resolution(each, bands, inside, 0.5, 0.01) for each in (halves, scaled))
    np.testing.assert_allclose(one.resolution_A.data, two.resolution_A.data, rtol=1e-3)


def test_half_maps_that_somebody_masked_are_warned_of(files: Path, tmp_path: Path) -> None:
    ball = masks.sphere_mask(32, 10, 3)
    for name in ("noise_a", "noise_b"):
        write_volume(tmp_path / f"{name}.mrc", Volume(read_volume(files / f"{name}.mrc").data * ball, VOXEL_A))
    write_volume(tmp_path / "all_32.mrc", Volume(np.ones((32,) * 3, np.float32), VOXEL_A))
    summary = resolve(tmp_path, tmp_path / "out", ("noise_a", "noise_b"), "all_32")
    assert "masked_half_maps" in {warning["code"] for warning in summary["warnings"]}


def test_one_map_other_boxes_and_a_first_band_beyond_the_voxels_are_refused(files: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 volume"):
        resolve(files, tmp_path / "out", ("a",))
    with pytest.raises(InputError, match="as both half maps"):
        resolve(files, tmp_path / "out", ("a", "a"))
    with pytest.raises(InputError, match="of box 32"):
        resolve(files, tmp_path / "out", mask="all_32")
    with pytest.raises(SettingsError, match="coarsest"):
        resolve(files, tmp_path / "out", ("noise_a", "noise_b"), None, coarsest="4.2A")
    assert not (tmp_path / "out").exists()


def test_the_plan_says_what_a_box_takes(files: Path) -> None:
    inputs = {"volume": [str(files / "a.mrc"), str(files / "b.mrc")]}
    assert 1 < plan_job(JOB, inputs, {}, 1, 1).seconds < 600
