"""The volume job: each operation against an oracle, all sub-maps alike, poses that follow, what it warns of and refuses."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import yaml
from scipy import ndimage
from scipy.spatial.transform import Rotation

from protomer.config.chain import parse_chain
from protomer.declarations.volume import JOB
from protomer.errors import InputError, SettingsError
from protomer.formats.hdf5 import read_map_record, read_particles, write_map_record, write_particles
from protomer.formats.mrc import read_volume, write_volume
from protomer.maps.resolution import measure_fsc
from protomer.maps.rigid_motion import mirror_particles
from protomer.maps.volumes import Halves, MapRecord, Volume
from protomer.running.job_run import RunOptions, plan_job, run_job
from protomer.simulation.scatterers import AtomModel
from protomer.tables.optics import OpticsGroup
from protomer.tables.particles import Particles, Stack, empty_columns
from protomer_kernels.atoms import real_volume
from protomer_kernels.masks import sphere_mask
from protomer_kernels.rotations import matrices_from_quaternions
from protomer_kernels.shells import fourier_shell_correlation, shell_power
from simulated import chain_model

BOX, VOXEL_A = 48, 2.5
MODEL, SOFT = chain_model(200, size=0.6, bfactor_A2=300.0), chain_model(200, size=0.6, bfactor_A2=1500.0)
MASK_AT_A = np.array([12.5, -10.0, 7.5])


def map_of(model: AtomModel = MODEL, box: int = BOX, voxel_A: float = VOXEL_A) -> Volume:
    return Volume(real_volume(model.volume_ft(box, voxel_A), box).astype(np.float32), voxel_A)


def moved(rotation: np.ndarray, shift_A: np.ndarray) -> AtomModel:
    return AtomModel(SOFT.positions_A @ np.asarray(rotation).T + shift_A, SOFT.weights, SOFT.bfactor_A2)


def posed(number: int = 6) -> Particles:
    columns, random = empty_columns(number), np.random.default_rng(1)
    columns["rotation"][:] = Rotation.random(number, rng=random).as_quat()
    columns["shift_A"][:] = random.normal(0, 3, (number, 2))
    columns["image_uid"][:] = np.arange(number)
    columns["half"][:] = 0
    optics = OpticsGroup("one", 300e3, 2.7e7, 0.1, VOXEL_A, BOX)
    return Particles(columns, (optics,), (Stack("a.mrcs", number, BOX, 0, 0, ""),), has_poses=True)


def with_noise(volume: Volume, seed: int) -> Volume:
    noise = np.random.default_rng(seed).standard_normal(volume.data.shape, dtype=np.float32)
    return Volume(volume.data + np.float32(0.3 * volume.data.std()) * noise, volume.voxel_size_A)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map as .mrc and as volume.h5 with half maps and masks, a mask off its centre, particles."""
    folder = tmp_path_factory.mktemp("maps")
    clean, sphere = map_of(), Volume(sphere_mask(BOX, 17, 5), VOXEL_A)
    halves = Halves(with_noise(clean, 1), with_noise(clean, 2))
    write_map_record(folder / "volume.h5", MapRecord(halves, clean, clean, sphere, sphere, measure_fsc(halves, sphere, "a sphere")))
    write_map_record(folder / "symmetric.h5", MapRecord(halves, clean, symmetry="C2"))
    write_volume(folder / "map.mrc", clean)
    write_volume(folder / "soft.mrc", map_of(SOFT))
    z, y, x = BOX // 2 + MASK_AT_A[::-1] / VOXEL_A
    write_volume(folder / "mask.mrc", Volume(sphere_mask(BOX, 6, 4, (z, y, x)), VOXEL_A))
    write_volume(folder / "constant.mrc", Volume(np.ones((BOX,) * 3, np.float32), VOXEL_A))
    write_particles(folder / "particles.h5", posed())
    write_particles(folder / "unposed.h5", replace(posed(), has_poses=False))
    return folder


@pytest.fixture
def pictures() -> None:
    """Asked for by tests in which reports are drawn: they take most of a run's time."""


@pytest.fixture(autouse=True)
def no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr("protomer.jobs.volume.write_report", lambda *_: None)


def run(files: Path, output: Path, given: str = "--volume map.mrc", **settings: Any) -> dict[str, Any]:
    words = shlex.split(given)
    inputs = {name[2:]: str(files / path) for name, path in zip(words[::2], words[1::2], strict=True)}
    return run_job(JOB, inputs, settings, RunOptions(output, overwrite=True, threads=1))


def made(files: Path, output: Path, given: str = "--volume map.mrc", **settings: Any) -> Volume:
    """The map, checked for warnings."""
    assert run(files, output, given, **settings)["warnings"] == []
    return read_volume(output / "map.mrc")


def codes(summary: dict[str, Any]) -> set[str]:
    return {warning["code"] for warning in summary["warnings"]}


@pytest.mark.parametrize(("voxel_A", "box"), [(3.75, 32), (2.0, 60), (3.1, 38), (2.9, 40), (120 / 33, 33)])
def test_a_resampled_map_is_the_map_of_the_atoms_at_that_voxel_size(files: Path, tmp_path: Path, voxel_A: float, box: int) -> None:
    found = made(files, tmp_path / "out", "--volume soft.mrc", resample=voxel_A)
    assert found.box == box and found.voxel_size_A == pytest.approx(voxel_A, rel=1e-6)
    exact = map_of(SOFT, box, voxel_A).data * (VOXEL_A / voxel_A) ** 3  # atoms are electrons per voxel; a map keeps its greys
    assert np.abs(found.data - exact).max() < 0.02 * exact.max()


def test_crop_and_pad_keep_the_centre_odd_or_even(files: Path, tmp_path: Path) -> None:
    before = read_volume(files / "map.mrc").data
    for box in (41, 40):
        cut = made(files, tmp_path / "out", crop=box).data
        start = BOX // 2 - box // 2
        np.testing.assert_array_equal(cut, before[(slice(start, start + box),) * 3])
        wide = made(files, tmp_path / "out", pad=box + 20).data
        start = (box + 20) // 2 - BOX // 2
        np.testing.assert_array_equal(wide[(slice(start, start + BOX),) * 3], before)
        assert wide.max() == before.max() and abs(wide[0, 0, 0]) < 1e-3 * before.max()


def test_filters_act_on_the_shells_that_they_name(files: Path, tmp_path: Path) -> None:
    before, width_A = shell_power(read_volume(files / "map.mrc").data), BOX * VOXEL_A
    shells = np.arange(BOX // 2 + 1)
    low = shell_power(made(files, tmp_path / "out", low_pass="12A").data) / before
    assert np.allclose(low[shells < width_A / 12 - 2], 1, atol=1e-3) and np.all(low[shells > width_A / 12 + 2] < 1e-6)
    high = shell_power(made(files, tmp_path / "out", high_pass="20A").data) / before
    assert np.all(high[shells < width_A / 20 - 2] < 1e-6) and np.allclose(high[shells > width_A / 20 + 2], 1, atol=1e-3)
    blurred = shell_power(made(files, tmp_path / "out", b_factor=80).data) / before
    np.testing.assert_allclose(blurred[1:20], np.exp(-80 / 2 * (shells[1:20] / width_A) ** 2), rtol=0.1)


def test_a_turned_and_moved_map_is_that_of_the_moved_atoms(files: Path, tmp_path: Path) -> None:
    quarter = made(files, tmp_path / "out", "--volume soft.mrc", rotate="0,0,2,90", shift="5,-7.5,2.5")
    exact = map_of(moved(Rotation.from_euler("z", 90, degrees=True).as_matrix(), np.array([5, -7.5, 2.5]))).data
    assert np.abs(quarter.data - exact).max() < 5e-3 * exact.max()
    euler = made(files, tmp_path / "out", "--volume soft.mrc", rotate="30,-50,75")
    exact = map_of(moved(Rotation.from_euler("ZYZ", [30, -50, 75], degrees=True).as_matrix(), np.zeros(3))).data
    assert np.abs(euler.data - exact).max() < 5e-3 * exact.max()
    said = yaml.safe_load((tmp_path / "out/transformation.yaml").read_text())
    np.testing.assert_allclose(said["rotation"], Rotation.from_euler("ZYZ", [30, -50, 75], degrees=True).as_matrix(), atol=1e-12)


def test_a_shift_alone_keeps_the_corners_and_brings_nothing_round(files: Path, tmp_path: Path) -> None:
    random = ndimage.gaussian_filter(np.random.default_rng(3).standard_normal((BOX,) * 3), 1.5).astype(np.float32)
    write_volume(tmp_path / "noise.mrc", Volume(random, VOXEL_A))
    run(tmp_path, tmp_path / "out", "--volume noise.mrc", shift=f"{2 * VOXEL_A},0,{-3 * VOXEL_A}")
    found = read_volume(tmp_path / "out/map.mrc").data
    np.testing.assert_allclose(found[:-3, :, 2:], random[3:, :, :-2], atol=1e-5)
    assert np.ptp(found[-3:]) == 0 == np.ptp(found[:, :, :2])


@pytest.mark.parametrize("box", [48, 47])
def test_a_flip_is_the_mirror_image_about_the_central_voxel(tmp_path: Path, box: int) -> None:
    write_volume(tmp_path / "map.mrc", map_of(box=box))
    summary = run(tmp_path, tmp_path / "out", flip_hand=True)
    mirrored = AtomModel(MODEL.positions_A * np.array([1, 1, -1.0]), MODEL.weights, MODEL.bfactor_A2)
    np.testing.assert_allclose(read_volume(tmp_path / "out/map.mrc").data, map_of(mirrored, box).data, atol=1e-4)
    assert codes(summary) == {"hand_flipped"}


def test_noise_and_random_phases_are_those_asked_for_and_others_in_each_half_map(files: Path, tmp_path: Path) -> None:
    before = read_map_record(files / "volume.h5")
    run(files, tmp_path / "noisy", "--volume volume.h5", add_noise=1.0, seed=4)
    noisy = read_map_record(tmp_path / "noisy/volume.h5")
    a, b = (new.data - old.data for new, old in zip(noisy.half_maps, before.half_maps, strict=True))
    assert a.std() == pytest.approx(before.map.data.std(), rel=0.02) and abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.02
    np.testing.assert_allclose(noisy.map.data - before.map.data, (a + b) / 2, atol=1e-4)
    bits = [made(files, tmp_path / "out", add_noise=1.0, seed=seed).data for seed in (4, 4, 5)]
    assert np.array_equal(bits[0], bits[1]) and abs(np.corrcoef(*((b - before.map.data).ravel() for b in bits[1:]))[0, 1]) < 0.02
    run(files, tmp_path / "random", "--volume volume.h5", phase_randomise="10A")
    random = read_map_record(tmp_path / "random/volume.h5")
    same = fourier_shell_correlation(random.half_maps.a.data, before.half_maps.a.data)
    shells = np.arange(BOX // 2 + 1)
    assert np.all(same[1:12] > 0.999) and np.abs(same[13:]).max() < 0.25
    np.testing.assert_allclose(shell_power(random.half_maps.a.data), shell_power(before.half_maps.a.data), rtol=1e-3)
    apart = fourier_shell_correlation(random.half_maps.a.data, random.half_maps.b.data)
    assert np.abs(apart[shells > 12]).max() < 0.3 < fourier_shell_correlation(*(half.data for half in before.half_maps))[14]
    assert random.fsc is not None and random.fsc.resolution_A_at("unmasked", 0.5) == pytest.approx(10, abs=1)


def test_all_sub_maps_go_through_the_same_and_masks_are_not_filtered(files: Path, tmp_path: Path) -> None:
    settings = {"resample": 3.75, "pad": 36, "low_pass": "14A", "rotate": "1,1,0,40", "shift": "2,3,-4", "scale": -2}
    run(files, tmp_path / "all", "--volume volume.h5", **settings)
    after, before = read_map_record(tmp_path / "all/volume.h5"), read_map_record(files / "volume.h5")
    for name, old, new in (("a", before.half_maps.a, after.half_maps.a), ("b", before.half_maps.b, after.half_maps.b),
                           ("map", before.map, after.map), ("sharp", before.sharpened, after.sharpened)):
        assert old is not None and new is not None
        write_volume(tmp_path / f"{name}.mrc", old)
        run(tmp_path, tmp_path / "one", f"--volume {name}.mrc", **settings)
        np.testing.assert_allclose(new.data, read_volume(tmp_path / "one/map.mrc").data, atol=1e-4 * np.abs(new.data).max())
    for mask in (after.fsc_mask, after.refinement_mask):
        assert mask is not None and mask.box == 36 and 0 <= mask.data.min() and mask.data.max() == pytest.approx(1, abs=1e-5)
        exact = sphere_mask(36, 17 * 2.5 / 3.75, 5 * 2.5 / 3.75, tuple(18 + np.array([-4, 3, 2]) / 3.75))
        assert np.abs(mask.data - exact).max() < 0.25 and np.abs(mask.data - exact).mean() < 5e-3
    names = {path.name for path in (tmp_path / "all").iterdir()}
    assert {"map.mrc", "half_a.mrc", "half_b.mrc", "map_sharpened.mrc", "mask.mrc", "fsc.csv"} <= names


def test_the_fsc_is_that_of_the_half_maps_and_ends_where_a_low_pass_ends_them(files: Path, tmp_path: Path) -> None:
    fsc = read_map_record(files / "volume.h5").fsc
    assert fsc is not None
    summary = run(files, tmp_path / "out", "--volume volume.h5", low_pass="12A", b_factor=50)
    low = read_map_record(tmp_path / "out/volume.h5").fsc
    assert low is not None
    np.testing.assert_array_equal(low.unmasked, np.where(np.arange(BOX // 2 + 1) <= 10, fsc.unmasked, 0))
    assert summary["resolution_A"]["corrected"] == pytest.approx(12, abs=1.2) and fsc.resolution_A_at("corrected") < 9
    run(files, tmp_path / "out", "--volume volume.h5", resample=3.75, low_pass="12A", high_pass="60A")
    binned = read_map_record(tmp_path / "out/volume.h5").fsc
    assert binned is not None and binned.box == 32 and not binned.corrected[11:].any()
    np.testing.assert_allclose(binned.unmasked[1:11], fsc.unmasked[1:11], atol=1e-3)
    run(files, tmp_path / "out", "--volume volume.h5", resample=1.25)
    fine = read_map_record(tmp_path / "out/volume.h5").fsc
    assert fine is not None and not fine.corrected[25:].any(), "finer voxels hold no finer detail"


def test_a_mask_alone_is_brought_to_another_box(files: Path, tmp_path: Path) -> None:
    assert run(files, tmp_path / "out", "--mask mask.mrc", resample=2.0, pad=64)["warnings"] == []
    mask = read_volume(tmp_path / "out/mask.mrc")
    exact = sphere_mask(64, 7.5, 5, tuple(32 + MASK_AT_A[::-1] / 2.0))
    assert mask.box == 64 and mask.data.min() >= 0 and np.abs(mask.data - exact).max() < 0.1
    assert not (tmp_path / "out/map.mrc").exists()
    with pytest.raises(SettingsError, match="low_pass of a mask"):
        run(files, tmp_path / "out", "--mask mask.mrc", low_pass="12A")


def image_of(model: AtomModel, particles: Particles, row: int) -> np.ndarray:
    rotation, shift_A = matrices_from_quaternions(particles.rotation[row]), particles.shift_A[row]
    return np.asarray(model.image_fts(rotation[None, None], -shift_A[None, None], BOX, VOXEL_A)[0])


@pytest.mark.parametrize("flip", [False, True])
def test_poses_follow_a_map_that_is_centred_on_a_mask_turned_and_moved(files: Path, tmp_path: Path, flip: bool) -> None:
    summary = run(files, tmp_path / "out", "--volume map.mrc --particles particles.h5 --mask mask.mrc", centre_on_mask=True,
                  rotate="0,1,0,30", shift="0,5,0", flip_hand=flip, update_flipped_poses=flip)
    centre_A, turn = MASK_AT_A * (1, 1, -1 if flip else 1), Rotation.from_euler("y", 30, degrees=True).as_matrix()
    before_A = MODEL.positions_A * (1, 1, -1 if flip else 1)
    model = AtomModel((before_A - centre_A) @ turn.T + (0, 5, 0), MODEL.weights, MODEL.bfactor_A2)
    exact = map_of(model).data
    inside = sphere_mask(BOX, 18, 0) > 0
    assert np.abs(read_volume(tmp_path / "out/map.mrc").data - exact)[inside].max() < 0.02 * exact.max()
    after = read_particles(tmp_path / "out/particles.h5")
    for row in range(len(after)):
        given = image_of(MODEL, posed(), row)
        assert np.abs(image_of(model, after, row) - given).max() < 1e-3 * np.abs(given).max()
    mask = read_volume(tmp_path / "out/mask.mrc").data
    assert ndimage.center_of_mass(mask) == pytest.approx((24, 26, 24), abs=0.1)
    assert "particles_unmoved" not in codes(summary) and summary["particles"] == 6


def test_particles_are_centred_on_a_mask_without_their_map_too(files: Path, tmp_path: Path) -> None:
    assert run(files, tmp_path / "out", "--mask mask.mrc --particles particles.h5", centre_on_mask=True)["warnings"] == []
    after, rotation = read_particles(tmp_path / "out/particles.h5"), matrices_from_quaternions(posed().rotation)
    np.testing.assert_allclose(after.shift_A, posed().shift_A - np.einsum("nij,i->nj", rotation, MASK_AT_A)[:, :2], atol=0.02)
    np.testing.assert_allclose(np.abs((after.rotation * posed().rotation).sum(axis=1)), 1, atol=1e-12)


def test_the_error_of_a_mirrored_pose_is_the_mirror_of_its_error() -> None:
    mirror, particle = np.diag([1.0, 1.0, -1.0]), posed(1)
    lower, random = np.tril_indices(5), np.random.default_rng(3)
    factor = random.normal(size=(5, 5)) * np.array([0.01, 0.01, 0.01, 1, 1])[:, None]
    packed = (factor @ factor.T)[lower]
    mirrored = mirror_particles(particle.with_columns(pose_covariance=packed[None]))
    draws = random.multivariate_normal(np.zeros(5), factor @ factor.T, 20000)
    turned = Rotation.from_rotvec(draws[:, :3]).as_matrix() @ matrices_from_quaternions(particle.rotation[0])
    errors = Rotation.from_matrix(mirror @ turned @ mirror @ matrices_from_quaternions(mirrored.rotation[0]).T).as_rotvec()
    sampled = np.cov(np.concatenate([errors, draws[:, 3:]], axis=1).T)
    scale = np.sqrt(np.outer(np.diag(sampled), np.diag(sampled)))[lower]
    np.testing.assert_allclose(mirrored.pose_covariance[0] / scale, sampled[lower] / scale, atol=0.04)


@pytest.mark.parametrize(("create", "volume_A3"), [("sphere:60", np.pi / 6 * 60**3), ("shell:80,60", np.pi / 6 * (80**3 - 60**3)),
                                                   ("ellipsoid:80,50,60", np.pi / 6 * 80 * 50 * 60)])
def test_shapes_are_created_with_their_size(tmp_path: Path, create: str, volume_A3: float) -> None:
    assert run(tmp_path, tmp_path / "out", "", create=create, box=64, voxel_size=2.0)["created"] == create
    shape = read_volume(tmp_path / "out/map.mrc")
    assert (shape.data > 0.999).sum() * 8 == pytest.approx(volume_A3, rel=0.06) and shape.data.max() == 1 and shape.data[0, 0, 0] == 0
    if create.startswith("ellipsoid"):
        assert shape.data[32, 32, 32 + 19] == 1 and shape.data[32, 32 + 15, 32] == 0 and shape.data[32 + 14, 32, 32] == 1


def test_a_map_is_created_from_a_model_and_then_filtered_or_from_noise(files: Path, tmp_path: Path) -> None:
    run_job(JOB, {"model": "5ni1"}, {"box": 40, "voxel_size": "3A", "low_pass": "10A"}, RunOptions(tmp_path / "model", threads=1))
    model = read_volume(tmp_path / "model/map.mrc")
    turned = np.roll(model.data[:, ::-1, ::-1], (1, 1), (1, 2))
    assert model.box == 40 and np.corrcoef(turned.ravel(), model.data.ravel())[0, 1] > 0.99
    assert shell_power(model.data)[15:].max() < 1e-6 * shell_power(model.data)[1]
    noise = run(files, tmp_path / "noise", "--volume map.mrc", create="noise", seed=3)
    assert noise["box"] == BOX and read_volume(tmp_path / "noise/map.mrc").data.std() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("settings", "given", "code"), [
    ({"crop": 12}, "--volume map.mrc", "density_lost"), ({"shift": "50,0,0"}, "--volume map.mrc", "density_lost"),
    ({"low_pass": "3A"}, "--volume map.mrc", "no_effect"), ({"phase_randomise": "3A"}, "--volume map.mrc", "no_effect"),
    ({"scale": 2}, "--volume map.mrc --particles particles.h5", "particles_unmoved"),
    ({"shift": "0,90,70"}, "--volume map.mrc --particles particles.h5", "centre_off_images"),
    ({"rotate": "1,0,0,20"}, "--volume symmetric.h5", "off_its_axes"), ({"shift": "3,0,0"}, "--volume symmetric.h5", "off_its_axes")])
def test_what_may_not_be_meant_is_warned_of(files: Path, tmp_path: Path, settings: dict[str, Any], given: str, code: str) -> None:
    assert code in codes(run(files, tmp_path / "out", given, **settings))


def test_a_map_that_stays_on_its_axes_keeps_its_group(files: Path, tmp_path: Path) -> None:
    summary = run(files, tmp_path / "out", "--volume symmetric.h5", rotate="0,0,1,33", shift="0,0,4", flip_hand=True)
    assert codes(summary) == {"hand_flipped"}
    assert read_map_record(tmp_path / "out/volume.h5").symmetry == "C2"
    run(files, tmp_path / "out", "--volume symmetric.h5", shift="0,4,0")
    assert read_map_record(tmp_path / "out/volume.h5").symmetry == "C1"


@pytest.mark.parametrize(("settings", "given", "error", "message"), [
    ({}, "--volume map.mrc", SettingsError, "no operation"), ({"scale": 2}, "", InputError, "neither --volume nor --mask"),
    ({"crop": 50}, "--volume map.mrc", SettingsError, "crop 50 px of a box of 48"),
    ({"pad": 40}, "--volume map.mrc", SettingsError, "pad 40 px of a box of 48"),
    ({"crop": 32, "pad": 30}, "--volume map.mrc", SettingsError, "pad 30 px of a box of 32"),
    ({"resample": 60}, "--volume map.mrc", SettingsError, "leaves 2 voxels"),
    ({"rotate": "1,2"}, "--volume map.mrc", SettingsError, "3 or 4 numbers"),
    ({"rotate": "0,0,0,30"}, "--volume map.mrc", SettingsError, "no axis"),
    ({"shift": "1,x,2"}, "--volume map.mrc", SettingsError, "3 numbers"),
    ({"shift": "1nm,0,2"}, "--volume map.mrc", SettingsError, "3 numbers"),
    ({"low_pass": 500}, "--volume map.mrc", SettingsError, "at most 120"),
    ({"high_pass": 4}, "--volume map.mrc", SettingsError, "leaves nothing"),
    ({"high_pass": 10, "low_pass": 20}, "--volume map.mrc", SettingsError, "leaves nothing"),
    ({"scale": 0}, "--volume map.mrc", SettingsError, "scale 0"),
    ({"scale": 2}, "--volume constant.mrc", InputError, "is constant"),
    ({"centre_on_mask": True}, "--volume map.mrc", InputError, "without --mask"),
    ({"shift": "1,0,0"}, "--volume map.mrc --particles unposed.h5", InputError, "no poses"),
    ({"flip_hand": True}, "--volume map.mrc --particles particles.h5", InputError, "a decision about their poses"),
    ({"create": "cube:3", "box": 32, "voxel_size": 2}, "", SettingsError, "ellipsoid:X,Y,Z"),
    ({"create": "shell:30,50", "box": 32, "voxel_size": 2}, "", SettingsError, "outer one of a shell first"),
    ({"create": "sphere:90", "box": 32, "voxel_size": 2}, "", InputError, "in a box of 64"),
    ({"create": "sphere:30"}, "", SettingsError, "box .px. and voxel_size"),
    ({"create": "model"}, "--volume map.mrc", InputError, "--model"),
    ({"sclae": 2}, "--volume map.mrc", SettingsError, "did you mean 'scale'")])
def test_what_cannot_be_done_is_refused(files: Path, tmp_path: Path, settings: dict[str, Any], given: str, error: type[Exception],
                                        message: str) -> None:
    with pytest.raises(error, match=message):
        run(files, tmp_path / "out", given, **settings)
    assert not (tmp_path / "out").exists()


def test_maps_with_nan_or_uneven_voxels_and_masks_of_another_box_are_not_taken_in_silence(files: Path, tmp_path: Path) -> None:
    broken = read_volume(files / "map.mrc").data
    broken[3, 4, 5] = np.nan
    with pytest.warns(RuntimeWarning, match="NaN"):
        write_volume(tmp_path / "nan.mrc", Volume(broken, VOXEL_A))
    with pytest.raises(InputError, match="NaN"):
        run(tmp_path, tmp_path / "out", "--volume nan.mrc", scale=2)
    write_volume(tmp_path / "uneven.mrc", read_volume(files / "map.mrc"))
    with mrcfile.mmap(tmp_path / "uneven.mrc", mode="r+") as handle:
        handle.voxel_size = (2.5, 2.5, 3.0)
    summary = run(tmp_path, tmp_path / "out", "--volume uneven.mrc", scale=2)
    assert codes(summary) == {"input"} and "differ between axes" in summary["warnings"][0]["text"]
    write_volume(tmp_path / "small.mrc", Volume(sphere_mask(20, 5, 3), VOXEL_A))
    write_volume(tmp_path / "map.mrc", map_of())
    with pytest.raises(InputError, match="the mask has box 20"):
        run(tmp_path, tmp_path / "out", "--volume map.mrc --mask small.mrc", scale=2)


@pytest.mark.usefixtures("pictures")
def test_the_report_says_what_was_done_and_shows_spectra_and_agreement_where_they_mean_something(files: Path, tmp_path: Path) -> None:
    run(files, tmp_path / "low", "--volume volume.h5", low_pass="12A", scale=2)
    low = (tmp_path / "low/report.html").read_text()
    assert "low-pass 12 Å" in low and "this is agreement, no resolution" in low and "Fourier shell correlation between the half maps" in low
    run(files, tmp_path / "moved", "--volume map.mrc --mask mask.mrc", shift="3,0,0")
    moved_report = (tmp_path / "moved/report.html").read_text()
    assert "moved by 3.00, 0.00, 0.00 Å" in moved_report and "this is agreement" not in moved_report


@pytest.mark.usefixtures("pictures")
def test_both_jobs_are_steps_of_a_chain_that_hand_their_files_on(files: Path, tmp_path: Path) -> None:
    jobs = {"one": {"job": "mask", "volume": "map.mrc", "settings": {"asymmetric_unit": "C2", "soft_edge": "12A"}},
            "small": {"job": "volume", "volume": "map.mrc", "mask": "one", "settings": {"resample": "3.75A", "shift": [0, 0, 4]}},
            "again": {"job": "mask", "volume": "small/map.mrc", "mask": "small"}}
    chain = parse_chain({"jobs": jobs}, files)
    assert [step.name for step in chain.steps] == ["one", "small", "again"]
    assert {str(path) for path in chain.outputs["small"]} == {"small/summary.json", "small/map.mrc", "small/mask.mrc"}
    for step in chain.steps:
        inputs = {name: [str(tmp_path / path) for path in paths if path is not None] for name, paths in step.files.items()}
        run_job(step.job, inputs, step.settings, RunOptions(tmp_path / step.name, threads=1))
    assert all((tmp_path / path).is_file() for paths in chain.outputs.values() for path in paths)
    assert read_volume(tmp_path / "again/mask.mrc").box == 32


def test_the_plan_says_what_a_box_takes(files: Path) -> None:
    small, large = (plan_job(JOB, {"volume": str(files / "map.mrc")}, {"pad": box}, 1, 1) for box in (48, 256))
    assert 1e8 < small.memory_bytes < large.memory_bytes < 1e9
