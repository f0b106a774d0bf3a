"""Data that nobody here made: RELION's projections through the refinement's own slices, and a ribosome tilt stack from import to report."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest

from protomer.formats.hdf5 import read_map_record, read_particles, write_particles
from protomer.formats.mrc import StackReader, read_volume
from protomer.formats.star import read_star_particles
from protomer.tables.particles import Particles
from protomer_kernels.fourier import low_pass
from protomer_kernels.half_plane import HalfPlane, largest_radius
from protomer_kernels.masks import largest_component, sphere_mask
from protomer_kernels.rotations import matrices_from_quaternions
from protomer_kernels.shells import fourier_shell_correlation
from protomer_kernels.slices import extract_slices, transform_volume
from refinement_runs import protomer

PIXEL_A = 14.65  # of the tilt stack; its STAR file says 1.96
RIBOSOME_RADIUS_A = 150.0
WIDTH_A = 64 * PIXEL_A


# --- RELION's projections


def real_image(half_plane_ft: np.ndarray, plane: HalfPlane, centre_px: int) -> np.ndarray:
    """The image (box, box), float64, of which half_plane_ft (K,) is the transform about pixel `centre_px` in x and y."""
    y, x = np.meshgrid(*[np.arange(plane.box) - centre_px] * 2, indexing="ij")
    kx, ky = plane.coordinates.astype(np.float64).T
    wave_x, wave_y = (np.exp(2j * np.pi * np.outer(k, axis) / plane.box) for k, axis in ((kx, x[0]), (ky, y[:, 0])))
    return np.asarray(np.einsum("k,ky,kx->yx", plane.multiplicity * half_plane_ft, wave_y, wave_x, optimize=True).real)


def engine_images(particles: Particles, volume: np.ndarray, pixel_size_A: float, centre_px: int) -> np.ndarray:
    """Projections (n, box, box) by the slices that a refinement uses, each moved by minus its shift."""
    plane = HalfPlane(len(volume), largest_radius(len(volume)))
    rotations = matrices_from_quaternions(particles.rotation).astype(np.float32)
    slices = np.empty((len(particles), 2, len(plane)), np.float32)
    extract_slices(transform_volume(volume, plane.radius), rotations, plane.kx, plane.ky, slices)
    shift_px = particles.shift_A / pixel_size_A
    moved = (slices[:, 0] + 1j * slices[:, 1]) * np.exp(2j * np.pi * shift_px @ plane.coordinates.T / plane.box)
    return np.array([real_image(image_ft, plane, centre_px) for image_ft in moved])


@pytest.mark.parametrize("name", ["rln_proj_65", "rln_proj_65_centered", "rln_proj_65_shifted"])
def test_slices_of_the_engine_reproduce_the_projections_of_relion(shared_data: Path, name: str) -> None:
    """RELION's images of an odd box lie one pixel in x and y from N // 2."""
    folder = shared_data / "oracles" / "relion_project_70S"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        volume = read_volume(folder / "clean70SRibosome_vol_65p.mrc", 1.0).data
        particles = read_star_particles(folder / f"{name}.star", pixel_size_A=1.0)
        images = StackReader(folder / f"{name}.mrcs").read(particles.stack_index)
    ours = engine_images(particles, volume, 1.0, len(volume) // 2 + 1)
    correlation = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(ours, images, strict=True)]
    print(f"{name}: mean {np.mean(correlation):.5f}, minimum {np.min(correlation):.5f}")
    assert len(correlation) > 1 and min(correlation) >= 0.999


# --- 219 images of 6 ribosomes


@pytest.fixture(scope="module")
def ribosomes(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the imported tilt stack and its reconstruction from the poses of the STAR file."""
    folder = tmp_path_factory.mktemp("ribosomes")
    table = shared_data / "real_particles" / "ribosome_tilts_64_220" / "sta_testing_bin8.star"
    protomer("import", "--star", table, "--set", f"pixel_size={PIXEL_A}A", "--output", folder / "imported")
    protomer("reconstruct", "--particles", folder / "imported", "--output", folder / "reconstructed")
    return folder


@pytest.fixture(scope="module")
def refined(ribosomes: Path) -> Path:
    """A refinement to its end from the reconstruction, low-passed."""
    words = ["--volume", ribosomes / "reconstructed", "--set", "initial_low_pass=80A", "--set", "box=48"]
    protomer("refine", "--particles", ribosomes / "imported", *words, "--output", ribosomes / "refined")
    return ribosomes / "refined"


def summary_of(folder: Path) -> dict:
    return dict(json.loads((folder / "summary.json").read_text()))


def warning_codes(folder: Path) -> set[str]:
    return {warning["code"] for warning in summary_of(folder)["warnings"]}


def halves_of(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    return read_volume(folder / "half_a.mrc").data, read_volume(folder / "half_b.mrc").data


def mean_map(folder: Path) -> np.ndarray:
    """Both halves by their numbers of images, at 60 Å."""
    a, b = halves_of(folder)
    return low_pass((39 * a + 180 * b) / np.float32(219), WIDTH_A / 60.0, 2.0)


def distances_A(centre: np.ndarray) -> np.ndarray:
    """(64, 64, 64) from a point (z, y, x) in voxels."""
    return PIXEL_A * np.sqrt(sum((axis - c) ** 2 for axis, c in zip(np.indices((64,) * 3), centre, strict=True)))


def contrast(folder: Path) -> float:
    """Mean density within 90 Å of the centre, over the standard deviation between 200 and 400 Å."""
    density, distance_A = mean_map(folder), distances_A(np.full(3, 32))
    return float(density[distance_A < 90].mean() / density[(distance_A > 200) & (distance_A < 400)].std())


def agreement(folder: Path) -> float:
    """Mean FSC of the half maps within RIBOSOME_RADIUS_A from 190 to 115 Å: finer than a ball, which any poses give."""
    mask = sphere_mask(64, RIBOSOME_RADIUS_A / PIXEL_A, 4)
    a, b = halves_of(folder)
    return float(fourier_shell_correlation(a * mask, b * mask)[5:9].mean())


def control(ribosomes: Path, name: str, particles: Particles) -> Path:
    """A reconstruction of changed particles."""
    folder = ribosomes / name
    folder.mkdir()
    write_particles(folder / "particles.h5", particles)
    protomer("reconstruct", "--particles", folder, "--output", folder / "reconstructed")
    return folder / "reconstructed"


def test_the_tilt_stack_imports_with_its_pixel_size_and_says_what_is_odd(ribosomes: Path) -> None:
    summary, particles = summary_of(ribosomes / "imported"), read_particles(ribosomes / "imported" / "particles.h5")
    assert summary["rows_out"] == 219 and summary["half_sets"] == [39, 180] and particles.optics_groups[0].pixel_size_A == PIXEL_A
    told = " ".join(warning["text"] for warning in summary["warnings"])
    assert "MAP identifier is missing" in told and f"{PIXEL_A} Å is used" in told


def test_all_tilt_images_of_one_ribosome_are_in_one_half(ribosomes: Path, shared_data: Path) -> None:
    table = shared_data / "real_particles" / "ribosome_tilts_64_220" / "sta_testing_bin8.star"
    fields = [line.split() for line in table.read_text().splitlines() if "@" in line]
    ribosome, image = (np.array([row[-1] for row in fields]), np.array([int(row[9].split("@")[0]) - 1 for row in fields]))
    particles = read_particles(ribosomes / "imported" / "particles.h5")
    half = dict(zip(particles.stack_index.tolist(), particles.half.tolist(), strict=True))
    sets = [{half[int(n)] for n in image[ribosome == name]} for name in np.unique(ribosome)]
    assert len(sets) == 6 and all(len(halves) == 1 for halves in sets)


def test_the_reconstruction_is_a_compact_particle_in_the_middle(ribosomes: Path) -> None:
    density = mean_map(ribosomes / "reconstructed")
    level = 0.5 * float(np.percentile(density[distances_A(np.full(3, 32)) < RIBOSOME_RADIUS_A], 99))
    dense = largest_component(density > level)
    centre = np.argwhere(dense).mean(axis=0)
    assert PIXEL_A * np.linalg.norm(centre - 32) < 25.0
    assert distances_A(centre)[dense].max() < RIBOSOME_RADIUS_A
    diameter_A = 2 * PIXEL_A * np.cbrt(3 * dense.sum() / (4 * np.pi))
    assert 150.0 < diameter_A < 280.0
    assert {"few_particles", "unequal_halves"} <= warning_codes(ribosomes / "reconstructed")


def test_neither_contrast_nor_agreement_survives_wrong_poses(ribosomes: Path) -> None:
    particles, random = read_particles(ribosomes / "imported" / "particles.h5"), np.random.default_rng(0)
    true = ribosomes / "reconstructed"
    moved = control(ribosomes, "moved", particles.with_columns(shift_A=particles.shift_A + random.normal(0.0, 150.0, (219, 2))))
    turned = control(ribosomes, "turned", particles.with_columns(rotation=particles.rotation[random.permutation(219)]))
    print(f"contrast {contrast(true):.2f}, moved {contrast(moved):.2f}; agreement {agreement(true):.2f}, turned {agreement(turned):.2f}")
    assert contrast(true) > 3.0 and contrast(moved) < 0.6 * contrast(true)
    assert agreement(true) > 0.3 and agreement(turned) < 0.6 * agreement(true)


def test_a_refinement_of_the_tilt_stack_ends_and_says_how_little_it_supports(refined: Path) -> None:
    summary, record = summary_of(refined), read_map_record(refined / "volume.h5")
    assert summary["status"] == "done" and np.isfinite(record.map.data).all()
    codes = warning_codes(refined)
    assert {"few_particles", "unequal_halves", "join_moved", "poses_disagree"} <= codes
    assert {"no_better_than_start", "no_resolution"} & codes
    assert "resolution_A" in summary and summary["joined_below_A"] >= 80.0  # 20 Å, as set by default, is beyond Nyquist
    page = (refined / "report.html").read_text()
    assert "do not believe it: see the warnings" in page
    texts = [warning["text"] for warning in summary["warnings"]]
    assert all(text in page for text in texts) and page.index(texts[0]) < page.index("Resolution")
