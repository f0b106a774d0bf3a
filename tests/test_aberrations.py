"""Zernike phases, the CTF of magnified and aberrated images, and how particles are whitened with them: oracles in float64, and RELION."""

from __future__ import annotations

import math
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from scipy.special import eval_jacobi

from protomer.errors import InputError
from protomer.imaging.aberrations import correct_odd_phases, odd_correction, usable_radius
from protomer.imaging.images import common_frame, contrast_transfer, whiten
from protomer.tables.optics import OpticsGroup, describe
from protomer.tables.particles import Particles, Stack, empty_columns
from protomer_kernels.aberrations import is_whole, orders, zernike, zernike_sum
from protomer_kernels.ctf import CtfParameters, ctf_values, electron_wavelength_A
from protomer_kernels.half_plane import HalfPlane
from protomer_kernels.nufft import half_plane_frequencies

BOX, PIXEL_A = 64, 2.0
PLANE = HalfPlane(BOX, 31)
ODD = (1.0, -2.0, 50.0, 20.0, -30.0, 40.0)
EVEN = (0.3, 5.0, -4.0, 6.0, 60.0, 50.0, -40.0, 30.0, 80.0)
STRETCH = (1.01, 0.012, 0.007, 0.985)
GROUP = OpticsGroup("g", 300e3, 2.7e7, 0.1, PIXEL_A, BOX, (4e-3, -3e-3), ODD, EVEN, STRETCH)


def particles_of(*groups: OpticsGroup) -> Particles:
    """Two particles of the first group and one of each other."""
    columns = empty_columns(len(groups) + 1)
    columns["optics"][:] = [0, *range(len(groups))]
    columns["image_uid"][:] = np.arange(len(groups) + 1)
    columns["half"][:] = 0
    columns["defocus_u_A"][:], columns["defocus_v_A"][:], columns["defocus_angle_rad"][:] = 21000, 14000, 0.6
    columns["phase_shift_rad"][:], columns["ctf_bfactor_A2"][:] = 0.2, 40.0
    return Particles(columns, groups, (Stack("x.mrcs", len(groups) + 1, BOX, 0, 0, ""),))


def oracle_zernike(n: int, m: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """In polar form, the radial part from a Jacobi polynomial (Abramowitz & Stegun 22; Prata & Rusch 1989)."""
    r, phi, order = np.hypot(x, y), np.arctan2(y, x), abs(m)
    k = (n - order) // 2
    return (-1) ** k * r**order * eval_jacobi(k, order, 0, 1 - 2 * r**2) * (np.sin(order * phi) if m < 0 else np.cos(m * phi))


def oracle_frequencies(group: OpticsGroup, kx: np.ndarray, ky: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.reshape(group.magnification, (2, 2)) @ np.stack([kx, ky]).astype(np.float64) / (BOX * group.pixel_size_A)
    return x, y


def oracle_ctf(group: OpticsGroup, kx: np.ndarray, ky: np.ndarray, u_A: float, v_A: float, angle: float, shift: float,
               b: float) -> np.ndarray:
    """The CTF in polar form at M k, the even Zernike phase within gamma."""
    x, y = oracle_frequencies(group, kx, ky)
    s, azimuth, wavelength = np.hypot(x, y), np.arctan2(y, x), float(electron_wavelength_A(group.voltage_V))
    defocus = 0.5 * (u_A + v_A) + 0.5 * (u_A - v_A) * np.cos(2 * (azimuth - angle))
    gamma = -np.pi * wavelength * defocus * s**2 + 0.5 * np.pi * group.spherical_aberration_A * wavelength**3 * s**4 - shift
    gamma -= np.arcsin(group.amplitude_contrast)
    pairs = [(n, m) for n in (0, 2, 4) for m in range(-n, n + 1, 2)]
    gamma += sum(c * oracle_zernike(n, m, x, y) for c, (n, m) in zip(group.even_zernike, pairs, strict=True))
    return -np.sin(gamma) * np.exp(-b * s**2 / 4)


def oracle_chi(group: OpticsGroup, kx: np.ndarray, ky: np.ndarray) -> np.ndarray:
    """Odd Zernike terms, less 2 pi Cs lambda^2 s^2 (s . tilt)."""
    x, y = oracle_frequencies(group, kx, ky)
    pairs = [(1, -1), (1, 1), (3, -3), (3, -1), (3, 1), (3, 3)]
    chi = sum(c * oracle_zernike(n, m, x, y) for c, (n, m) in zip(group.odd_zernike, pairs, strict=True))
    coma = 2 * np.pi * group.spherical_aberration_A * float(electron_wavelength_A(group.voltage_V)) ** 2
    return chi - coma * (x**2 + y**2) * (x * group.beam_tilt_rad[0] + y * group.beam_tilt_rad[1])


@pytest.mark.parametrize(("n", "m"), orders(25, False) + orders(20, True))
def test_zernike_polynomials_equal_their_polar_form(n: int, m: int) -> None:
    x, y = np.random.default_rng(100 * n + m).uniform(-1.2, 1.2, (2, 50))
    np.testing.assert_allclose(zernike(n, m, x, y), oracle_zernike(n, m, x, y), atol=1e-10)


def test_polynomials_are_orthogonal_on_the_disc_and_all_of_an_order_come_before_the_next() -> None:
    radius, angle = np.meshgrid(np.sqrt((np.arange(400) + 0.5) / 400), 2 * np.pi * np.arange(64) / 64)
    for is_odd, whole in ((False, (0, 1, 4, 9, 16)), (True, (0, 2, 6, 12, 20))):
        values = np.array([zernike(n, m, radius * np.cos(angle), radius * np.sin(angle)).ravel() for n, m in orders(16, is_odd)])
        products = values @ values.T
        off = products - np.diag(np.diag(products))
        assert np.abs(off).max() < 1e-3 * np.diag(products).min()
        assert [n for n in range(21) if is_whole(n, is_odd)] == list(whole)
        assert np.all(np.diff([n for n, _ in orders(20, is_odd)]) >= 0)


def test_beam_tilt_is_the_coma_of_two_zernike_terms() -> None:
    """r^3 cos phi = (Z_3^1 + 2 Z_1^1) / 3."""
    tilt = replace(GROUP, odd_zernike=(), even_zernike=(), magnification=(1.0, 0.0, 0.0, 1.0))
    coma = -2 * np.pi * 2.7e7 * float(electron_wavelength_A(300e3)) ** 2 * np.array(tilt.beam_tilt_rad)
    terms = replace(tilt, beam_tilt_rad=(0.0, 0.0), odd_zernike=tuple([2 * coma[1], 2 * coma[0], 0, coma[1], coma[0], 0] / np.float64(3)))
    one, other = odd_correction(tilt, PLANE), odd_correction(terms, PLANE)
    assert one is not None and other is not None
    np.testing.assert_allclose(one, other, atol=1e-6)
    assert np.abs(one - 1).max() > 1


def test_the_ctf_and_the_phases_of_a_batch_agree_with_float64_group_by_group() -> None:
    plain = OpticsGroup("plain", 200e3, 2.0e7, 0.07, PIXEL_A, BOX)
    particles, rows = particles_of(GROUP, plain), np.arange(3)
    length = PLANE.prefix(30)
    transfer = contrast_transfer(particles, rows, PLANE, length, PIXEL_A)
    random = np.random.default_rng(4)
    crops = (random.standard_normal((3, len(PLANE))) + 1j * random.standard_normal((3, len(PLANE)))).astype(np.complex64)
    corrected = crops.copy()
    correct_odd_phases(particles, rows, PLANE, corrected)
    batch = whiten(corrected, transfer, np.ones((1, length), np.float32), np.zeros(3, np.int64))
    for n, group in enumerate((GROUP, GROUP, replace(plain, even_zernike=(0.0,) * 9, odd_zernike=(0.0,) * 6))):
        expected = oracle_ctf(group, PLANE.kx[:length], PLANE.ky[:length], 21000, 14000, 0.6, 0.2, 40.0)
        np.testing.assert_allclose(batch.amplitude[n], expected, atol=5e-6)
        data = crops[n, :length] * np.exp(-1j * oracle_chi(group, PLANE.kx[:length], PLANE.ky[:length]))
        np.testing.assert_allclose(batch.data[n, 0] + 1j * batch.data[n, 1], data, atol=2e-5)
    np.testing.assert_array_equal(crops[2], corrected[2])
    assert batch.magnification is not None
    np.testing.assert_array_equal(batch.magnification, [np.reshape(STRETCH, (2, 2)), np.reshape(STRETCH, (2, 2)), np.eye(2)])


def test_groups_without_aberrations_have_neither_tables_nor_matrices() -> None:
    bare = replace(GROUP, beam_tilt_rad=(0.0, 0.0), odd_zernike=(0.0,) * 6, even_zernike=(), magnification=(1.0, 0, 0, 1.0))
    particles = particles_of(bare)
    crops = np.ones((2, len(PLANE)), np.complex64)
    correct_odd_phases(particles, np.arange(2), PLANE, crops)
    transfer = contrast_transfer(particles, np.arange(2), PLANE, len(PLANE), PIXEL_A)
    assert transfer.magnification is None and np.all(crops == 1)
    rotations = np.random.default_rng(1).standard_normal((2, 3, 3))
    batch = whiten(crops, transfer, np.ones((1, len(PLANE)), np.float32), np.zeros(2, np.int64))
    assert batch.magnified(rotations, np.arange(2)) is rotations


def test_images_are_used_as_far_out_as_their_magnified_points_stay_in_the_volume() -> None:
    enlarged = replace(GROUP, magnification=(1.05, 0.0, 0.0, 0.97))
    shrunk = replace(GROUP, magnification=(0.95, 0.0, 0.0, 0.97))
    assert usable_radius(particles_of(enlarged, shrunk), 31) == 29  # 31.49 / 1.05
    assert usable_radius(particles_of(shrunk), 31) == 31
    unused = replace(particles_of(shrunk), optics_groups=(shrunk, enlarged))
    assert usable_radius(unused, 31) == 31


def test_an_optics_group_without_particles_does_not_disturb_the_common_frame() -> None:
    particles = replace(particles_of(GROUP), optics_groups=(GROUP, replace(GROUP, name="empty", box=0, pixel_size_A=9.0)))
    assert common_frame(particles) == (BOX, PIXEL_A)


def test_reports_say_what_aberrations_a_group_has() -> None:
    words = describe(replace(GROUP, magnification=(1.02, 0.0, 0.0, 0.99), odd_zernike=(0.0, 3.0)))
    assert words == "tilt 4, -3 mrad; 1 odd Zernike terms; 9 even Zernike terms; frequencies stretched by +2.00 and -1.00 %"
    assert describe(OpticsGroup("plain", 3e5, 2.7e7, 0.1, 1.0, 64)) == "none"


@pytest.mark.parametrize(("change", "said"), [
    ({"odd_zernike": (1.0, 2.0, 3.0)}, "3 odd Zernike coefficients.*0, 2, 6"),
    ({"even_zernike": (1.0,) * 8}, "8 even Zernike coefficients.*0, 1, 4, 9"),
    ({"even_zernike": (math.nan,)}, "finite"),
    ({"beam_tilt_rad": (math.inf, 0.0)}, "finite"),
    ({"magnification": (0.0, 0.0, 0.0, 0.0)}, "added to 1, 0, 0, 1"),
    ({"magnification": (1.5, 0.0, 0.0, 1.0)}, "stretches by 1 to 1.5"),
])
def test_aberrations_that_cannot_be_meant_so_are_refused(change: dict, said: str) -> None:
    with pytest.raises(InputError, match=f"(?s)optics group g.*{said}"):
        replace(GROUP, **change)


@pytest.mark.skipif(shutil.which("relion_project") is None, reason="RELION is not installed")
def test_relion_puts_the_same_even_aberrations_and_magnification_into_the_ctf(tmp_path: Path) -> None:
    """relion_project --ctf of a Gaussian blob at the centre, whose transform is known in closed form. (RELION 3.1 magnifies the CTF here,
    but not the slice; that it magnifies slices, and takes odd phases out, is tested on its reconstructions.)"""
    width = 1.6
    axis = np.arange(BOX) - BOX // 2
    blob = np.exp(-(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2) / (2 * width**2)).astype(np.float32)
    with mrcfile.new(tmp_path / "blob.mrc") as handle:
        handle.set_data(blob)
        handle.voxel_size = PIXEL_A
    even, stretch = ",".join(map(str, EVEN)), " ".join(map(str, STRETCH))
    (tmp_path / "in.star").write_text(
        "data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnVoltage\n_rlnSphericalAberration\n_rlnAmplitudeContrast\n_rlnImagePixelSize\n"
        "_rlnImageSize\n_rlnImageDimensionality\n_rlnEvenZernike\n_rlnMagMat00\n_rlnMagMat01\n_rlnMagMat10\n_rlnMagMat11\n"
        f"1 300 2.7 0.1 {PIXEL_A} {BOX} 2 [{even}] {stretch}\n\ndata_particles\n\nloop_\n_rlnAngleRot\n_rlnAngleTilt\n_rlnAnglePsi\n"
        "_rlnOriginXAngst\n_rlnOriginYAngst\n_rlnDefocusU\n_rlnDefocusV\n_rlnDefocusAngle\n_rlnPhaseShift\n_rlnOpticsGroup\n_rlnImageName\n"
        "0 0 0 0 0 22000 15000 35 0 1 1@x.mrcs\n")
    subprocess.run(["relion_project", "--i", "blob.mrc", "--o", "out", "--ang", "in.star", "--ctf", "--angpix", str(PIXEL_A)], cwd=tmp_path,
                   check=True, capture_output=True)
    theirs = np.fft.rfft2(np.fft.ifftshift(np.array(mrcfile.read(tmp_path / "out.mrcs"), np.float64).reshape(BOX, BOX))).ravel()
    ky, kx = (k.ravel() for k in np.meshgrid(*half_plane_frequencies(BOX), indexing="ij"))
    x, y = oracle_frequencies(GROUP, kx, ky)
    blob_ft = np.exp(-2 * np.pi**2 * width**2 * (kx**2 + ky**2) / BOX**2) * (2 * np.pi) ** 1.5 * width**3
    turns = (zernike_sum(EVEN, False, x, y) / (2 * np.pi)).astype(np.float32)[None]
    difference = {}
    for name, matrix, added in (("all", STRETCH, turns), ("no even", STRETCH, 0 * turns), ("not magnified", (1, 0, 0, 1), turns)):
        parameters = CtfParameters(22000.0, 15000.0, np.deg2rad(35.0), 300e3, 2.7e7, 0.1, magnification=np.reshape(matrix, (2, 2)))
        ours = np.empty((1, len(kx)), np.float32)
        ctf_values(parameters, kx, ky, 1 / (BOX * PIXEL_A), ours, (added, np.zeros(1, np.int64)))
        inside = kx**2 + ky**2 < 18**2
        difference[name] = np.abs(theirs / blob_ft - ours[0])[inside].max()
    print(difference)
    assert difference["all"] < 0.005
    assert difference["no even"] > 0.1 and difference["not magnified"] > 0.1
