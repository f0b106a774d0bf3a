"""What keeps a local refinement honest: rehearsal, noise control, withheld resolutions; and half-sets, masks and mates that are chosen."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest

from protomer.engine.alignment import IDENTITY
from protomer.engine.local_alignment import nearest_priors
from protomer.formats.hdf5 import read_map_record, read_particles, write_map_record, write_particles
from protomer.formats.mrc import write_volume
from protomer.imaging.images import ImageStore
from protomer.maps.fsc_curves import first_crossing
from protomer.maps.resolution import measure_fsc
from protomer.maps.volumes import Halves, MapRecord, Volume
from protomer.refinement.noise_control import NoiseControl, NoiseSubstituted
from protomer.refinement.setup import Masking
from protomer.simulation.dataset import SimulatedData, simulate_dataset
from protomer.simulation.draws import SimulationDesign
from protomer.simulation.scatterers import AtomModel, with_symmetry
from protomer.symmetry.point_groups import operators
from protomer_kernels.fourier import low_pass
from protomer_kernels.rotations import matrices_from_quaternions, quaternions_from_matrices, rotation_errors
from reconstructions import as_particles, rebuilt, store_of
from refinement_runs import protomer
from simulated import chain_model

BOX, PIXEL_A, NUMBER, SNR = 40, 4.4, 400, 0.25


@functools.cache
def rigid_dimer() -> SimulatedData:
    """A dimer that does not move, one protomer of which carries a domain of an eighth of its mass."""
    dimer = with_symmetry(chain_model(420, 3, size=0.8), operators("C2"), 26.0)
    domain = chain_model(110, 8, size=0.4)
    model = AtomModel(np.concatenate([dimer.positions_A, domain.positions_A + np.array([50.0, 18.0, 14.0])]),
                      np.concatenate([dimer.weights, domain.weights]), dimer.bfactor_A2)
    return simulate_dataset(model, SimulationDesign(NUMBER, BOX, PIXEL_A, SNR, seed=3))


def first_protomer() -> np.ndarray:
    """A soft mask about the half of the dimer with x above 0."""
    x = np.indices((BOX,) * 3)[2] - BOX // 2
    density = low_pass(rigid_dimer().volume.data, BOX * PIXEL_A / 20.0, 2.0)
    inside = (density > 0.1 * density.max()) & (x > 0)
    return np.clip(low_pass(inside.astype(np.float32), 6.0, 3.0) * 1.6, 0.0, 1.0).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Particles at their true poses, the half maps that these give, and the mask."""
    path = tmp_path_factory.mktemp("controls")
    particles = as_particles(rigid_dimer(), path)
    write_particles(path / "particles.h5", particles)
    half_maps, together = rebuilt(particles)
    write_map_record(path / "volume.h5", MapRecord(half_maps.map(lambda half: Volume(half, PIXEL_A)), Volume(together, PIXEL_A)))
    write_volume(path / "mask.mrc", Volume(first_protomer(), PIXEL_A))
    return path


def refined(folder: Path, name: str, *settings: str, more: tuple[object, ...] = ()) -> tuple[Path, dict[str, object]]:
    """A finished run and its summary."""
    words = [word for setting in settings for word in ("--set", setting)]
    protomer("local-refine", "--particles", folder / "particles.h5", "--volume", folder / "volume.h5", "--mask", folder / "mask.mrc",
             "--output", folder / name, *more, *words)
    return folder / name, json.loads((folder / name / "summary.json").read_text())


def errors_deg(folder: Path) -> np.ndarray:
    """Of the rotations found."""
    found = matrices_from_quaternions(read_particles(folder / "particles.h5").rotation)
    return np.asarray(np.rad2deg(np.linalg.norm(rotation_errors(rigid_dimer().truth.rotation_matrix, found, IDENTITY), axis=1)))


def test_a_rigid_dimer_stays_within_what_its_poses_may_be_off_and_the_rehearsal_says_how_far(folder: Path) -> None:
    output, summary = refined(folder, "rigid", "rotation_prior=5deg", "shift_prior=2A", "noise_control=on", "subtract_on_the_fly=on")
    error, stated = errors_deg(output), summary["pose_confidence"]
    assert isinstance(stated, dict)
    given, found = read_particles(folder / "particles.h5"), read_particles(output / "particles.h5")
    half_maps = read_map_record(folder / "volume.h5").half_maps
    record = read_map_record(output / "volume.h5")
    assert record.fsc is not None and record.fsc_mask is not None
    before = measure_fsc(half_maps, record.fsc_mask, "the same", 0).shell_at("corrected", 0.143)
    after = record.fsc.shell_at("corrected", 0.143)
    print(f"median error {np.median(error):.2f} degrees, stated {stated['median_error_deg']}; shells {before:.2f} -> {after:.2f}; "
          f"{summary['noise_control']}")
    assert 0.6 < stated["median_error_deg"] / np.median(error) < 1.4
    turn = rotation_errors(*(matrices_from_quaternions(p.rotation) for p in (given, found)), IDENTITY)
    covariance = np.zeros((NUMBER, 5, 5))
    lower = np.tril_indices(5)
    covariance[:, lower[0], lower[1]] = covariance[:, lower[1], lower[0]] = found.pose_covariance
    change = np.concatenate([turn, found.shift_A - given.shift_A], axis=1)
    distance = np.einsum("ni,ni->n", change, np.linalg.solve(covariance, change[:, :, None])[:, :, 0])
    assert 0.35 < np.mean(distance <= 5.0) < 0.85  # of a Gaussian: 0.58
    assert abs(after - before) < 1.5
    control = summary["noise_control"]
    assert isinstance(control, dict) and abs(control["fsc_of_noise"]) < 0.15
    assert "poses_no_better" in [warning["code"] for warning in summary["warnings"]]  # the given ones are the truth
    assert summary["resolution_withheld_for"] == [] and summary["believed_resolution_A"] is not None
    assert not list(output.glob("checkpoint*"))
    page = (output / "report.html").read_text()
    assert "noise in place of detail" in page and "Turns about the fulcrum" in page and "before and after" in page


def test_where_poses_pile_up_at_the_extent_no_resolution_is_given(folder: Path) -> None:
    output, summary = refined(folder, "narrow", "rotation_extent=0.5deg", "shift_extent=0.5A", "rehearse=off")
    assert "rotation_at_extent" in summary["resolution_withheld_for"] and summary["believed_resolution_A"] is None
    assert "withheld" in (output / "report.html").read_text()


def test_halves_are_drawn_anew_by_image_with_a_warning_and_begin_with_their_own_maps(folder: Path) -> None:
    output, summary = refined(folder, "anew", "resplit=on", "rotation_prior=2deg", "rehearse=off", "max_alignment_resolution=20A")
    before, after = read_particles(folder / "particles.h5").half, read_particles(output / "particles.h5").half
    assert 0.4 < np.mean(before != after) < 0.6
    assert "split_anew" in [warning["code"] for warning in summary["warnings"]]  # type: ignore[attr-defined]


def test_an_image_at_its_mates_pose_is_put_back_by_relaxation(folder: Path) -> None:
    mate, random = operators("C2")[1], np.random.default_rng(6)
    particles = read_particles(folder / "particles.h5")
    rotation, turned = matrices_from_quaternions(particles.rotation), random.random(NUMBER) < 0.25
    rotation[turned] = mate @ rotation[turned]
    write_particles(folder / "flipped.h5", particles.with_columns(rotation=quaternions_from_matrices(rotation)))
    write_volume(folder / "all.mrc", Volume(np.maximum(first_protomer(), first_protomer()[:, ::-1, ::-1]), PIXEL_A))
    words = ("--particles", folder / "flipped.h5", "--volume", folder / "volume.h5", "--mask", folder / "all.mrc", "--symmetry", "C2")
    protomer("local-refine", *words, "--output", folder / "relaxed", "--set", "relaxation=maximise", "--set", "rotation_prior=3deg",
             "--set", "rehearse=off")
    error, summary = errors_deg(folder / "relaxed"), json.loads((folder / "relaxed/summary.json").read_text())
    print(f"right before {1 - turned.mean():.3f}, after {np.mean(error < 30.0):.3f}")
    assert np.mean(error < 30.0) > 0.9 and summary["symmetry"] == "C1"
    assert summary["rotation_change_deg"][3] < 10.0  # mates count as the same


def test_noise_takes_the_place_of_detail_alone_the_same_for_copies(folder: Path) -> None:
    particles = read_particles(folder / "particles.h5").take(np.array([0, 1, 2, 0]))
    given = store_of(particles)
    names = ("particles", "plane", "batches", "cache", "arithmetic", "half_precision", "blocks", "_held")
    store: ImageStore = NoiseSubstituted(*(getattr(given, name) for name in names), from_shell=6, seed=1)
    for number, rows in enumerate(given.batches):
        before, after = given.load(number), store.load(number)
        first = given.plane.prefix(5)
        np.testing.assert_array_equal(before[:, :first], after[:, :first])
        np.testing.assert_allclose(np.abs(before), np.abs(after), rtol=1e-5)
        agreement = np.abs(np.sum(before[:, first:] * after[:, first:].conj(), axis=1)) / np.sum(np.abs(before[:, first:]) ** 2, axis=1)
        assert agreement.max() < 0.25
        np.testing.assert_array_equal(after, store.load(number))
        same = np.flatnonzero(particles.image_uid[rows] == particles.image_uid[0])
        assert all(np.array_equal(after[same[0]], after[row]) for row in same)


def test_a_control_that_agrees_beyond_its_noise_is_told_and_corrects_the_resolution() -> None:
    shell = np.arange(33)
    masked = np.clip(1.2 - shell / 22.0, 0.0, 1.0)
    clean = NoiseControl(masked, np.where(shell < 14, masked, 0.01), np.where(shell < 14, masked, 0.0), 14, 23.2, 128.0)
    assert not clean.fits_noise(0.1) and abs(clean.resolution_A - 128.0 / first_crossing(masked, 0.143)) < 0.3
    fitted = NoiseControl(masked, np.where(shell < 14, masked, 0.3), np.where(shell < 14, masked, 0.3), 14, 23.2, 128.0)
    assert fitted.fits_noise(0.1) and fitted.resolution_A > clean.resolution_A + 0.5
    np.testing.assert_allclose(fitted.true_fsc[18], (masked[18] - 0.3) / 0.7)


def test_a_dynamic_mask_is_the_density_inside_the_given_one() -> None:
    density = np.zeros((32,) * 3, np.float32)
    density[12:20, 12:20, 6:12] = density[12:20, 12:20, 20:26] = 1.0
    given = np.zeros((32,) * 3, np.float32)
    given[:, :, :16] = 1.0
    mask = Masking("dynamic", 0.2, 3.0, 8.0, 12.0, given).on(Halves(density, density), 2.0, 9.0)
    assert mask[16, 16, 9] == 1.0 and mask[16, 16, 22] == 0.0 and mask[2, 2, 2] == 0.0
    np.testing.assert_array_equal(Masking("dynamic", 0.2, 3.0, 8.0, 12.0, given).on(Halves(density, density), 2.0, 15.0), given)


def test_each_start_is_held_by_the_prior_of_the_mate_that_it_lies_near() -> None:
    mates = operators("D2")
    priors = np.zeros((1, 4, 19))
    priors[0, :, :9], priors[0, :, 9] = mates.reshape(4, 9), np.arange(4)
    chosen = nearest_priors(priors, mates[None, [2, 0, 3, 3, 1]])
    assert chosen[0, :, 9].tolist() == [2.0, 0.0, 3.0, 3.0, 1.0]
