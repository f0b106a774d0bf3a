"""The CTF against float64 NumPy, known zeros, known directions and RELION."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import scipy.constants as codata

from protomer_kernels.ctf import CtfParameters, ctf_coefficients, ctf_value, ctf_values, electron_wavelength_A
from protomer_kernels.nufft import half_plane_frequencies


def oracle(p: CtfParameters, kx: np.ndarray, ky: np.ndarray, cycle_per_A: float) -> np.ndarray:
    """The CTF in polar form, float64, one row per image."""
    energy = codata.e * p.voltage_V
    momentum = np.sqrt(2 * codata.m_e * energy * (1 + energy / (2 * codata.m_e * codata.c**2)))
    wavelength = codata.h / momentum * 1e10
    s, azimuth = np.hypot(kx, ky) * cycle_per_A, np.arctan2(ky, kx)
    u, v, angle = (np.atleast_1d(x)[:, None] for x in (p.defocus_u_A, p.defocus_v_A, p.defocus_angle_rad))
    defocus = 0.5 * (u + v) + 0.5 * (u - v) * np.cos(2 * (azimuth - angle))
    q = p.amplitude_contrast
    chi = np.pi * wavelength * defocus * s**2 - 0.5 * np.pi * p.spherical_aberration_A * wavelength**3 * s**4
    phase = chi + np.atleast_1d(p.phase_shift_rad)[:, None] + np.arctan(q / np.sqrt(1 - q * q))
    return np.sin(phase) * np.exp(-np.atleast_1d(p.bfactor_A2)[:, None] * s**2 / 4)


def values(p: CtfParameters, kx: np.ndarray, ky: np.ndarray, cycle_per_A: float) -> np.ndarray:
    out = np.empty((np.size(p.defocus_u_A), len(kx)), np.float32)
    ctf_values(p, kx, ky, cycle_per_A, out)
    return out


def plane(radius: int) -> tuple[np.ndarray, np.ndarray]:
    kx, ky = np.meshgrid(np.arange(radius + 1), np.arange(-radius, radius + 1))
    inside = kx**2 + ky**2 <= radius**2
    return kx[inside], ky[inside]


@pytest.mark.parametrize(("box", "pixel_size_A", "defocus_A"), [(256, 1.0, 30000.0), (256, 1.0, 100000.0), (64, 3.0, 150000.0)])
def test_float32_values_agree_with_float64_however_large_the_defocus(box: int, pixel_size_A: float, defocus_A: float) -> None:
    random = np.random.default_rng(1)
    p = CtfParameters(random.uniform(0.9, 1.0, 20) * defocus_A, random.uniform(0.9, 1.0, 20) * defocus_A, random.uniform(-3, 3, 20), 300e3,
                      2.7e7, 0.1, random.uniform(0, 2, 20), random.uniform(0, 100, 20))
    kx, ky = plane(box // 2)
    error = np.abs(values(p, kx, ky, 1 / (box * pixel_size_A)) - oracle(p, kx, ky, 1 / (box * pixel_size_A)))
    assert error.max() < 5e-6


def test_the_fourth_power_term_keeps_its_precision_beyond_one_and_a_half_angstrom() -> None:
    p = CtfParameters(60000.0, 55000.0, 0.4, 300e3, 2.7e7, 0.1)
    kx, ky = plane(256)
    assert np.abs(values(p, kx, ky, 1 / (512 * 0.6)) - oracle(p, kx, ky, 1 / (512 * 0.6))).max() < 5e-5


def test_the_wavelength_is_the_known_one_at_300_kilovolts() -> None:
    assert electron_wavelength_A(300e3) == pytest.approx(0.0196874, abs=1e-7)
    assert electron_wavelength_A(300e3) == pytest.approx(12.2643247 / np.sqrt(300e3 + 0.978466e-6 * 300e3**2), rel=1e-5)


def test_without_aberration_zeros_lie_where_defocus_puts_them() -> None:
    """sin(pi lambda df s^2) = 0 at s = sqrt(n / (lambda df)), with neither Cs nor amplitude contrast."""
    box, wavelength = 1000, float(electron_wavelength_A(200e3))
    for n, k in ((1, 40), (2, 55), (5, 90)):
        defocus_A = n * box**2 / (wavelength * k**2)
        p = CtfParameters(defocus_A, defocus_A, 0.0, 200e3, 0.0, 0.0)
        either_side = values(p, np.array([k - 1, k, k + 1]), np.zeros(3, int), 1 / box)[0]
        assert abs(either_side[1]) < 1e-5
        assert either_side[0] * either_side[2] < 0


def test_white_particles_stay_white_at_low_frequency_under_underfocus() -> None:
    p = CtfParameters(15000.0, 15000.0, 0.0, 300e3, 2.7e7, 0.1)
    assert values(p, np.array([0]), np.array([0]), 1 / 300)[0, 0] == pytest.approx(0.1, abs=1e-6)
    assert (values(p, np.arange(10), np.zeros(10, int), 1 / 300)[0] > 0).all()


def test_defocus_u_acts_along_its_angle_from_x() -> None:
    along = CtfParameters(20000.0, 10000.0, np.pi / 6, 300e3, 2.7e7, 0.1)
    kx, ky = np.array([26, -15]), np.array([15, 26])  # nearly at 30 and 120 degrees
    same_u, same_v = (CtfParameters(df, df, 0.0, 300e3, 2.7e7, 0.1) for df in (20000.0, 10000.0))
    both = values(along, kx, ky, 1 / 300)[0]
    assert both[0] == pytest.approx(values(same_u, kx, ky, 1 / 300)[0, 0], abs=1e-3)
    assert both[1] == pytest.approx(values(same_v, kx, ky, 1 / 300)[0, 1], abs=1e-3)
    assert abs(both[0] - both[1]) > 0.05


def test_the_scalar_function_runs_as_plain_python_too() -> None:
    p = CtfParameters(18000.0, 16000.0, 0.5, 300e3, 2.7e7, 0.1, 0.2, 30.0)
    quadratic, smooth = ctf_coefficients(p, 1 / 200)
    plain = ctf_value([int(q) for q in quadratic[0]], smooth[0], 31, -17, np.float32(0))
    assert plain == pytest.approx(values(p, np.array([31]), np.array([-17]), 1 / 200)[0, 0], abs=1e-6)


def test_fractional_frequencies_are_refused() -> None:
    p = CtfParameters(18000.0, 16000.0, 0.5, 300e3, 2.7e7, 0.1)
    with pytest.raises(ValueError, match="whole numbers"):
        values(p, np.array([0.5]), np.array([1.0]), 1 / 200)


def test_a_defocus_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="beyond the range"):
        ctf_coefficients(CtfParameters(1e9, 1e9, 0.0, 300e3, 2.7e7, 0.1), 1 / 100)


@pytest.mark.skipif(shutil.which("relion_project") is None, reason="RELION is not installed")
def test_relion_applies_the_same_ctf(tmp_path: Path) -> None:
    """relion_project --ctf of a small blob at the centre, divided by our image of the blob, is our CTF wherever the blob has power."""
    box, pixel_size_A = 64, 2.0
    axis = np.arange(box) - box // 2
    blob = np.exp(-(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2) / (2 * 0.8**2)).astype(np.float32)
    with mrcfile.new(tmp_path / "blob.mrc") as handle:
        handle.set_data(blob)
        handle.voxel_size = pixel_size_A
    (tmp_path / "in.star").write_text(
        "data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnVoltage\n_rlnSphericalAberration\n_rlnAmplitudeContrast\n_rlnImagePixelSize\n"
        "_rlnImageSize\n_rlnImageDimensionality\n1 300 2.7 0.1 2.0 64 2\n\ndata_particles\n\nloop_\n_rlnAngleRot\n_rlnAngleTilt\n"
        "_rlnAnglePsi\n"
        "_rlnOriginXAngst\n_rlnOriginYAngst\n_rlnDefocusU\n_rlnDefocusV\n_rlnDefocusAngle\n_rlnPhaseShift\n_rlnOpticsGroup\n_rlnImageName\n"
        "0 0 0 0 0 22000 15000 35 0 1 1@x.mrcs\n0 0 0 0 0 9000 12000 110 0 1 2@x.mrcs\n")
    subprocess.run(["relion_project", "--i", "blob.mrc", "--o", "out", "--ang", "in.star", "--ctf", "--angpix", "2.0"], cwd=tmp_path,
                   check=True, capture_output=True)
    theirs = np.array(mrcfile.read(tmp_path / "out.mrcs"), np.float64)
    p = CtfParameters(np.array([22000.0, 9000.0]), np.array([15000.0, 12000.0]), np.deg2rad([35.0, 110.0]), 300e3, 2.7e7, 0.1)
    ky, kx = (k.ravel() for k in np.meshgrid(*half_plane_frequencies(box), indexing="ij"))
    projection_ft = np.fft.rfft2(np.fft.ifftshift(blob.sum(0)))
    ours = (projection_ft * values(p, kx, ky, 1 / (box * pixel_size_A)).reshape(2, box, -1)).reshape(2, -1)
    theirs_ft = np.fft.rfft2(np.fft.ifftshift(theirs, axes=(1, 2))).reshape(2, -1)
    inside = kx**2 + ky**2 < (box // 2 - 2) ** 2
    difference = np.abs(theirs_ft - ours)[:, inside] / np.abs(projection_ft).ravel()[inside]
    assert difference.max() < 2e-3
