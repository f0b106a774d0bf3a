"""FSC sets: RELION's tables, the inflation that a shared mask causes, honest limits, and files."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from protomer.errors import InputError
from protomer.maps import fsc_curves, resolution
from protomer.maps.fsc_curves import FscSet
from protomer.maps.resolution import measure_fsc
from protomer.maps.volumes import Halves, Volume
from protomer_kernels import fourier, masks


def relion_table(path: Path) -> tuple[dict[str, np.ndarray], float]:
    """The columns of data_fsc by their names, and rlnRandomiseFrom (angstrom)."""
    text = path.read_text()
    block = text.split("data_fsc", 1)[1].split("data_guinier", 1)[0]
    names = re.findall(r"_rln(\w+) #\d+", block)
    rows = np.array([[float(word) for word in line.split()] for line in block.splitlines() if re.match(r"\s*\d", line)])
    return dict(zip(names, rows.T, strict=True)), float(re.search(r"_rlnRandomiseFrom\s+(\S+)", text)[1])


@pytest.mark.parametrize("name", ["iter0", "iter9", "postprocess"])
def test_the_corrected_columns_of_relion_are_reproduced(shared_data: Path, name: str) -> None:
    table, randomised_from_A = relion_table(shared_data / "oracles" / "fsc" / f"{name}.star")
    masked = table["FourierShellCorrelationMaskedMaps"]
    randomised = table["CorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps"]
    start = resolution.first_random_shell(table["FourierShellCorrelationUnmaskedMaps"])
    assert table["AngstromResolution"][start] == pytest.approx(randomised_from_A, abs=1e-5)
    corrected = resolution.corrected_fsc(masked, randomised, start)
    np.testing.assert_allclose(corrected, table["FourierShellCorrelationCorrected"], atol=5e-6, rtol=0)  # all have six decimals
    assert np.abs(corrected - masked).max() > 0.01, "the correction did nothing, so that nothing was tested"


def fsc_set(curve: list[float]) -> FscSet:
    values = np.array(curve)
    box = 2 * (len(values) - 1)
    return FscSet(np.arange(len(values)), resolution.shell_resolution_A(box, 1.5), *[values] * 5, "none", 3, box, 1.5)


def test_the_resolution_is_read_between_shells() -> None:
    fsc = fsc_set([1, 1, 0.9, 0.5, 0.1, 0.6, 0.0])
    assert fsc.shell_at("masked", 0.3) == pytest.approx(3.5)
    assert fsc.resolution_A_at("masked", 0.3) == pytest.approx(12 * 1.5 / 3.5)
    assert fsc.shell_at("masked", 0.5) == pytest.approx(3)
    assert fsc.describe("masked", 0.5) == "6.00 Å"


def test_a_curve_that_never_falls_is_limited_by_the_pixel_size_and_says_so() -> None:
    fsc = fsc_set([1, 1, 1, 0.9, 0.8])
    assert fsc.resolution_A_at("corrected") == 3.0
    assert fsc.is_limited_by_nyquist("corrected")
    assert "limited by the pixel size" in fsc.describe("corrected")
    assert fsc.summary()["limited_by_pixel_size"] == ["unmasked", "spherical", "masked", "corrected"]


@pytest.mark.parametrize("curve", [[1, 0.1, 0.9, 0.9, 0.9], [1, float("nan"), 0.9, 0.9, 0.9]])
def test_a_curve_that_is_low_from_the_start_reaches_no_resolution(curve: list[float]) -> None:
    fsc = fsc_set(curve)
    assert fsc.resolution_A_at("unmasked") == float("inf")
    assert fsc.describe("unmasked").startswith("not reached")
    assert fsc.summary()["unmasked"] is None


def test_an_unknown_curve_is_refused() -> None:
    with pytest.raises(ValueError, match="corrected"):
        fsc_set([1, 1, 1]).resolution_A_at("tight")


def test_ssnr_and_map_weight_follow_from_the_fsc() -> None:
    np.testing.assert_allclose(resolution.ssnr(np.array([0.5, 0.2, -0.1, 1.0])), [1, 0.25, 0, 999])
    np.testing.assert_allclose(resolution.combined_map_correlation(np.array([1, 1 / 7, -0.2])), [1, 0.5, 0])


def test_the_map_weight_is_the_correlation_with_the_truth_that_simulation_finds() -> None:
    rng = np.random.default_rng(0)
    truth, a, b = (rng.standard_normal(200_000) for _ in range(3))
    a, b = truth + 1.5 * a, truth + 1.5 * b
    fsc = np.corrcoef(a, b)[0, 1]
    assert resolution.combined_map_correlation(fsc) == pytest.approx(np.corrcoef(a + b, truth)[0, 1], abs=0.01)
    assert resolution.ssnr(fsc) == pytest.approx(1 / 1.5**2, abs=0.02)


def halves(box: int, signal: np.ndarray, noise: float, seed: int = 3) -> Halves[Volume]:
    rng = np.random.default_rng(seed)
    made = [Volume((signal + noise * rng.standard_normal((box,) * 3)).astype(np.float32), 2.0) for _ in range(2)]
    return Halves(*made)


def test_a_tight_shared_mask_inflates_the_fsc_of_noise_and_the_correction_takes_it_back() -> None:
    box = 64
    blob = fourier.low_pass(masks.sphere_mask(box, 8, 1), 4, 2) * 4  # nothing beyond shell 5
    mask = Volume(masks.sphere_mask(box, 9, 0), 2.0)  # a hard edge through the density correlates every shell
    fsc = measure_fsc(halves(box, blob, 1.0), mask, "hard sphere")
    noise_shells = slice(fsc.randomised_from_shell + 2, None)
    assert fsc.randomised_from_shell == 5
    assert abs(fsc.unmasked[noise_shells].mean()) < 0.02
    assert fsc.masked[noise_shells].mean() > 0.3
    assert fsc.randomised[noise_shells].mean() > 0.3
    assert abs(fsc.corrected[noise_shells].mean()) < 0.06


def test_the_corrected_fsc_of_real_signal_in_a_wide_mask_is_the_masked_fsc() -> None:
    box = 48
    signal = fourier.low_pass(np.random.default_rng(9).standard_normal((box,) * 3), 10, 2) * masks.sphere_mask(box, 12, 4)
    mask = Volume(masks.sphere_mask(box, 14, 6), 2.0)
    fsc = measure_fsc(halves(box, signal, 0.05), mask, "sphere of 14 voxels")
    assert fsc.masked[5] > 0.97
    np.testing.assert_allclose(fsc.corrected[3:10], fsc.masked[3:10], atol=0.03)
    assert fsc.resolution_A_at("masked") < fsc.resolution_A_at("unmasked")
    assert fsc.mask_name == "sphere of 14 voxels"


def test_without_a_mask_the_sphere_takes_its_place_by_name() -> None:
    fsc = measure_fsc(halves(32, fourier.low_pass(masks.sphere_mask(32, 6, 2), 6, 1), 0.2), None, "ignored")
    assert "soft sphere" in fsc.mask_name
    np.testing.assert_array_equal(fsc.masked, fsc.spherical)


def test_identical_halves_are_never_randomised() -> None:
    volume = Volume(np.random.default_rng(0).standard_normal((24,) * 3).astype(np.float32), 1.0)
    fsc = measure_fsc(Halves.of(volume), None, "")
    assert fsc.randomised_from_shell == 13
    np.testing.assert_array_equal(fsc.corrected, fsc.masked)


def test_the_seed_decides_the_random_phases_and_nothing_else() -> None:
    pair = halves(24, fourier.low_pass(masks.sphere_mask(24, 5, 2), 4, 1) * 3, 0.5)
    first, again, other = (measure_fsc(pair, None, "", seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.randomised, again.randomised)
    np.testing.assert_array_equal(first.masked, other.masked)
    assert not np.array_equal(first.randomised, other.randomised)


def test_half_maps_and_mask_of_different_frames_are_refused() -> None:
    small, large = (Volume(np.zeros((n, n, n), np.float32), 1.0) for n in (16, 18))
    with pytest.raises(InputError, match="half map B has box 18"):
        measure_fsc(Halves(small, large), None, "")
    with pytest.raises(InputError, match=r"FSC mask has box 16 at 1\.1"):
        measure_fsc(Halves.of(small), replace(small, voxel_size_A=1.1), "")


def test_fsc_csv_gives_back_every_bit(tmp_path: Path) -> None:
    fsc = measure_fsc(halves(24, masks.sphere_mask(24, 5, 2), 0.5), None, "")
    fsc = replace(fsc, mask_name='rule "low-pass 15 Å", 10 px\nand more')
    fsc_curves.write_fsc_csv(tmp_path / "fsc.csv", fsc)
    back = fsc_curves.read_fsc_csv(tmp_path / "fsc.csv")
    for name in ("shell", "resolution_A", *fsc_curves.CURVES):
        np.testing.assert_array_equal(getattr(back, name), getattr(fsc, name))
    assert (back.mask_name, back.randomised_from_shell, back.box, back.voxel_size_A) == (fsc.mask_name, fsc.randomised_from_shell, 24, 2.0)


def test_a_file_that_is_no_fsc_csv_is_refused(tmp_path: Path) -> None:
    (tmp_path / "fsc.csv").write_text("shell,unmasked\n0,1\n")
    with pytest.raises(InputError, match="cannot be read as FSC curves"):
        fsc_curves.read_fsc_csv(tmp_path / "fsc.csv")
