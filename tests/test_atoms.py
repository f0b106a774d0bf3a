"""Exact transforms of atoms and maps: direct sums, the projection theorem, geometry, and RELION's projections."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
from scipy.spatial.transform import Rotation

from protomer.maps.volumes import Volume
from protomer.simulation.scatterers import AtomModel, MapModel
from protomer_kernels.atoms import image_fts_of_atoms, real_images, real_volume, volume_ft_of_atoms
from protomer_kernels.nufft import half_plane_frequencies
from protomer_kernels.volume_sampling import sample_volume_ft, sampling_grid


def some_atoms(number: int, box: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.normal(0.0, box / 8, (number, 3)), random.uniform(5, 9, number).astype(np.float32)


@pytest.mark.parametrize("box", [32, 33])
def test_image_transforms_equal_the_direct_sum_over_atoms(box: int) -> None:
    positions, weights = some_atoms(300, box)
    positions[0] = (0.55 * box, 0.0, 0.0)  # one beyond the edge: a transform knows no edge
    random = np.random.default_rng(1)
    rotations, offsets, bfactor = Rotation.random(3, rng=random).as_matrix(), random.normal(0, 3, (3, 2)), 3.0
    found = image_fts_of_atoms(positions, weights, rotations, offsets, box, bfactor)
    ky, kx = half_plane_frequencies(box)
    plane = np.stack(np.broadcast_arrays(kx, ky[:, None], 0), axis=-1)
    for n in range(3):
        phase = (plane @ rotations[n].T) @ positions.T + (plane[..., :2] @ offsets[n])[..., None]
        direct = (np.exp(-2j * np.pi * phase / box) @ weights.astype(float)) * np.exp(-bfactor * (plane**2).sum(-1) / (4 * box**2))
        direct[(plane**2).sum(-1) >= box**2 / 4] = 0
        assert np.abs(found[n] - direct).max() < 1e-5 * np.abs(direct).std()


@pytest.mark.parametrize("box", [16, 17])
def test_volume_transforms_equal_the_direct_sum_over_atoms(box: int) -> None:
    positions, weights = some_atoms(200, box)
    found = volume_ft_of_atoms(positions, weights, box, 2.0)
    k, kx = half_plane_frequencies(box)
    grid = np.stack(np.broadcast_arrays(kx, k[:, None], k[:, None, None]), axis=-1)
    direct = (np.exp(-2j * np.pi * (grid @ positions.T) / box) @ weights.astype(float)) * np.exp(-0.5 * (grid**2).sum(-1) / box**2)
    direct[(grid**2).sum(-1) >= box**2 / 4] = 0
    assert np.abs(found - direct).max() < 1e-5 * np.abs(direct).std()


@pytest.mark.parametrize("box", [24, 25])
def test_an_unrotated_image_is_the_volume_summed_along_z(box: int) -> None:
    positions, weights = some_atoms(100, box)
    volume = real_volume(volume_ft_of_atoms(positions, weights, box, 2.0), box)
    image = real_images(image_fts_of_atoms(positions, weights, np.eye(3)[None], np.zeros((1, 2)), box, 2.0), box)[0]
    assert np.abs(volume.sum(0) - image).max() < 1e-5 * image.max()


def test_images_of_a_map_equal_images_of_the_atoms_that_made_it() -> None:
    box, pixel_size_A = 32, 4.0
    positions, weights = some_atoms(200, box)
    atoms = AtomModel(0.6 * positions * pixel_size_A, weights, 2400.0)  # no power at Nyquist or at the edge: else the map only resembles it
    volume = Volume(real_volume(atoms.volume_ft(box, pixel_size_A), box), pixel_size_A)
    random = np.random.default_rng(2)
    rotations, offsets_A = Rotation.random(4, rng=random).as_matrix()[:, None], random.normal(0, 8, (4, 1, 2))
    ours, theirs = (m.image_fts(rotations, offsets_A, box, pixel_size_A) for m in (MapModel(volume), atoms))
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).std()


def test_a_map_keeps_its_grey_values_at_another_pixel_size() -> None:
    positions, weights = some_atoms(200, 40)
    atoms = AtomModel(1.2 * positions, weights, 900.0)
    fine = Volume(real_volume(atoms.volume_ft(40, 2.0), 40), 2.0)
    resampled = real_volume(MapModel(fine).volume_ft(32, 3.0), 32)
    exact = real_volume(atoms.volume_ft(32, 3.0), 32) * (2.0 / 3.0) ** 3  # electrons per voxel -> grey of the finer map
    assert np.abs(resampled - exact).max() < 1e-3 * exact.max()


@pytest.mark.parametrize("box", [12, 13])
def test_a_volume_is_sampled_like_its_trigonometric_sum(box: int) -> None:
    random = np.random.default_rng(3)
    volume, limit = random.normal(size=(box,) * 3).astype(np.float32), box // 2
    points = np.concatenate([random.uniform(-limit, limit, (100, 3)), [[0, 0, 0], [limit, 0, 0], [-limit, 0, 0], [0, -limit, 0]]])
    x = np.arange(box) - box // 2
    wave = np.exp(-2j * np.pi * points[:, :, None] * x / box)
    direct = np.einsum("pz,py,px,zyx->p", wave[:, 2], wave[:, 1], wave[:, 0], volume)
    direct[(points**2).sum(1) > limit**2] = 0
    assert np.abs(sample_volume_ft(sampling_grid(volume, limit), limit, points) - direct).max() < 1e-5 * np.abs(direct).std()


def test_a_blob_off_the_centre_appears_where_the_conventions_say() -> None:
    """A density at r in the map is seen at (R^T r)_xy + t, R from RELION's angles by ZYZ, x to the right and y down the rows."""
    box, pixel_size_A = 48, 2.0
    position_A, displacement_A = np.array([14.0, -9.0, 21.0]), np.array([6.0, -10.0])
    rotation = Rotation.from_euler("ZYZ", [35.0, 62.0, -110.0], degrees=True).as_matrix()
    blob = AtomModel(position_A[None], np.ones(1, np.float32), 300.0)
    image = real_images(blob.image_fts(rotation[None, None], displacement_A[None, None], box, pixel_size_A), box)[0]
    axis_A = (np.arange(box) - box // 2) * pixel_size_A
    weight = np.clip(image, 0.1 * image.max(), None) - 0.1 * image.max()
    seen_A = np.array([(weight.sum(0) * axis_A).sum(), (weight.sum(1) * axis_A).sum()]) / weight.sum()
    assert seen_A == pytest.approx((rotation.T @ position_A)[:2] + displacement_A, abs=0.05)


def test_each_body_has_its_own_pose() -> None:
    box, pixel_size_A = 32, 3.0
    positions, weights = some_atoms(100, box)
    both = AtomModel(positions, weights, 50.0, (0, 40))
    random = np.random.default_rng(4)
    rotations, offsets_A = Rotation.random(6, rng=random).as_matrix().reshape(3, 2, 3, 3), random.normal(0, 9, (3, 2, 2))
    parts = [AtomModel(positions[part], weights[part], 50.0).image_fts(rotations[:, i : i + 1], offsets_A[:, i : i + 1], box, pixel_size_A)
             for i, part in enumerate(both.bodies)]
    whole = both.image_fts(rotations, offsets_A, box, pixel_size_A)
    assert np.abs(whole - sum(parts)).max() < 1e-5 * np.abs(whole).std()


def correlations(volume: Volume, table: object, images: np.ndarray, displacement_px: np.ndarray) -> list[float]:
    """Between RELION's images and ours, for the angles of a STAR table."""
    angles = table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy(float)  # type: ignore[index]
    rotations = Rotation.from_euler("ZYZ", angles, degrees=True).as_matrix()[:, None]
    image_fts = MapModel(volume).image_fts(rotations, displacement_px[:, None] * volume.voxel_size_A, volume.box, volume.voxel_size_A)
    ours = real_images(image_fts, volume.box)
    return [float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) for a, b in zip(ours, images, strict=True)]


@pytest.mark.parametrize("name", ["rln_proj_65", "rln_proj_65_centered", "rln_proj_65_shifted"])
def test_stored_projections_of_relion_are_reproduced(shared_data: Path, name: str) -> None:
    """Its images are moved by minus rlnOrigin; these lie one pixel from N//2 in x and y besides."""
    folder = shared_data / "oracles" / "relion_project_70S"
    with mrcfile.open(folder / "clean70SRibosome_vol_65p.mrc", permissive=True) as handle:
        volume = Volume(np.array(handle.data, np.float32), 1.0)
    with mrcfile.open(folder / f"{name}.mrcs", permissive=True) as handle:
        images = np.array(handle.data, np.float32)
    table = starfile.read(folder / f"{name}.star", always_dict=True)["particles"]
    x, y = ("rlnOriginX", "rlnOriginY") if "rlnOriginX" in table else ("rlnOriginXAngst", "rlnOriginYAngst")
    displacement_px = 1.0 - table[[x, y]].to_numpy(float)
    assert min(correlations(volume, table, images, displacement_px)) > 0.999


@pytest.mark.skipif(shutil.which("relion_project") is None, reason="RELION is not installed")
def test_relion_projects_an_even_box_as_we_do(tmp_path: Path) -> None:
    box, voxel_size_A = 48, 2.5
    positions, weights = some_atoms(60, box, seed=5)
    volume = Volume(real_volume(volume_ft_of_atoms(positions, weights, box, 12.0), box), voxel_size_A)
    with mrcfile.new(tmp_path / "map.mrc") as handle:
        handle.set_data(volume.data)
        handle.voxel_size = voxel_size_A
    random = np.random.default_rng(6)
    rows = [(*random.uniform([-180, 0, -180], [180, 180, 180]), *random.uniform(-12, 12, 2)) for _ in range(5)]
    (tmp_path / "in.star").write_text(
        "data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnVoltage\n_rlnSphericalAberration\n_rlnAmplitudeContrast\n_rlnImagePixelSize\n"
        f"_rlnImageSize\n_rlnImageDimensionality\n1 300 2.7 0.1 {voxel_size_A} {box} 2\n\ndata_particles\n\nloop_\n_rlnAngleRot\n"
        "_rlnAngleTilt\n_rlnAnglePsi\n_rlnOriginXAngst\n_rlnOriginYAngst\n_rlnOpticsGroup\n_rlnImageName\n"
        + "".join(" ".join(f"{value:.5f}" for value in row) + f" 1 {i + 1}@x.mrcs\n" for i, row in enumerate(rows)))
    subprocess.run(["relion_project", "--i", "map.mrc", "--o", "out", "--ang", "in.star", "--angpix", str(voxel_size_A)], cwd=tmp_path,
                   check=True, capture_output=True)
    table = starfile.read(tmp_path / "in.star", always_dict=True)["particles"]
    displacement_px = -np.array(rows)[:, 3:] / voxel_size_A
    assert min(correlations(volume, table, np.array(mrcfile.read(tmp_path / "out.mrcs")), displacement_px)) > 0.999
