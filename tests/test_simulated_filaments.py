"""Simulated filaments: they run through their images, are seen from the poses that are told, and carry what picking tells of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import starfile
from scipy.spatial.transform import Rotation

from protomer.catalogue import declaration
from protomer.errors import SettingsError
from protomer.running.job_run import RunOptions, run_job
from protomer.simulation.dataset import Simulator
from protomer.simulation.draws import SimulationDesign
from protomer.simulation.filaments import FilamentDesign, cut_out, field_box, filament_columns, segment_poses
from protomer.simulation.scatterers import AtomModel, with_symmetry
from protomer.symmetry.operator_sets import Helix, helical_operators
from protomer_kernels.atoms import image_fts_of_atoms, real_images
from simulated import chain_model

BOX, PIXEL_A = 40, 4.0
DESIGN = FilamentDesign(np.deg2rad(65.0), 12.0, 4, 31.0, np.deg2rad(3.0), np.deg2rad(2.0))


def simulator(number: int = 12) -> Simulator:
    unit = chain_model(40, 3, 100.0, size=0.4)
    helix = helical_operators(Helix(DESIGN.twist_rad, DESIGN.rise_A, DESIGN.copies(BOX, PIXEL_A)))
    model = with_symmetry(unit, helix.rotations, 20.0, helix.translations_A)
    model = AtomModel(model.positions_A, model.weights, model.bfactor_A2)
    return Simulator((model,), SimulationDesign(number, BOX, PIXEL_A, 1.0, max_shift_A=3.0, filament=DESIGN))


def test_segments_are_where_a_step_along_the_endless_helix_puts_them() -> None:
    rotation, shift_A = segment_poses(DESIGN, 8, 0.0, 1, "test")
    matrix = Rotation.from_quat(rotation).as_matrix()
    assert np.abs(np.linalg.norm(shift_A, axis=1)).max() <= DESIGN.rise_A / 2 + 1e-9
    n = np.arange(-60, 61)
    helix_A = np.stack([20 * np.cos(n * DESIGN.twist_rad), 20 * np.sin(n * DESIGN.twist_rad), n * DESIGN.rise_A], axis=1)
    first, second = (helix_A @ matrix[i][:, :2] - shift_A[i] for i in (0, 1))  # of one filament, a step apart
    axis = matrix[0][2, :2] / np.linalg.norm(matrix[0][2, :2])
    moved = first - axis * DESIGN.step_A * np.linalg.norm(matrix[0][2, :2])
    assert np.abs(moved[40:-40, None] - second[None]).max(axis=2).min(axis=1).max() < 1e-6
    assert np.allclose(matrix[4][2], matrix[5][2]) and not np.allclose(matrix[3][2], matrix[4][2])


def test_the_filament_runs_through_the_image_from_edge_to_edge_and_is_not_folded_back() -> None:
    made = simulator()
    truth = made.truth.take(slice(0, 3))
    images = made.signal(truth, np.arange(3))
    assert images.shape == (3, BOX, BOX)
    model, wide = made.scatterers[0], 2 * field_box(BOX)  # an endless field, for comparison
    rotation = truth.rotation_matrix
    fts = image_fts_of_atoms(model.positions_A / PIXEL_A, model.weights, rotation, -truth.shift_A / PIXEL_A, wide,
                             model.bfactor_A2 / PIXEL_A**2)
    wide_images = real_images(fts * made_transfer(made, truth, wide), wide)
    expected = cut_out(wide_images, BOX)
    assert np.corrcoef(images.ravel(), expected.ravel())[0, 1] > 0.995
    along = np.abs(images).reshape(3, -1, BOX)
    assert along[:, [0, -1]].max() > 0.1 * along.max() or np.abs(images[:, :, [0, -1]]).max() > 0.1 * along.max()


def made_transfer(made: Simulator, truth: object, box: int) -> np.ndarray:
    """The CTF of some images in a field of another size."""
    from dataclasses import replace

    from protomer.simulation.draws import true_ctf
    from protomer_kernels.ctf import ctf_values
    from protomer_kernels.nufft import half_plane_frequencies

    ky, kx = (k.ravel() for k in np.meshgrid(*half_plane_frequencies(box), indexing="ij"))
    out = np.empty((len(truth), len(kx)), np.float32)
    ctf_values(true_ctf(replace(made.design, number=len(truth)), truth), kx, ky, 1.0 / (box * PIXEL_A), out)
    return out.reshape(len(truth), box, box // 2 + 1)


def test_the_table_tells_filaments_and_priors_that_are_a_little_off_and_may_be_the_other_way_round() -> None:
    rotation, _ = segment_poses(DESIGN, 400, 0.0, 1, "test")
    columns = filament_columns(DESIGN, rotation, 1)
    tubes = set(zip(columns["rlnMicrographName"].tolist(), columns["rlnHelicalTubeID"].tolist(), strict=True))
    assert len(tubes) == 100 and columns["rlnHelicalTubeID"].min() == 1
    _, tilt, psi = Rotation.from_quat(rotation).as_euler("ZYZ", degrees=True).T
    away = np.mod(columns["rlnAnglePsiPrior"] - psi + 180, 360) - 180
    turned = np.abs(away) > 90
    assert 0.3 < turned.mean() < 0.7 and np.array_equal(turned, np.repeat(turned[::4], 4))
    assert np.where(turned, np.abs(away) - 180, away).std() == pytest.approx(2.0, rel=0.15)
    assert (columns["rlnAngleTiltPrior"] - np.where(turned, 180 - tilt, tilt)).std() == pytest.approx(2.0, rel=0.15)


def test_the_job_writes_them_and_refuses_filaments_without_a_helix(tmp_path: Path) -> None:
    settings = {"number": 10, "box": 32, "pixel_size": 6.0, "filament_segments": 5}
    with pytest.raises(SettingsError, match="without a helix"):
        run_job(declaration("simulate"), {"model": "5ni1"}, settings, RunOptions(tmp_path / "bad"))
    settings |= {"helical_twist": 100.0, "helical_rise": 18.0, "symmetry_radius": 40.0}
    run_job(declaration("simulate"), {"model": "5ni1"}, settings, RunOptions(tmp_path / "out"))
    table = starfile.read(tmp_path / "out/particles.star")["particles"]
    assert table["rlnHelicalTubeID"].tolist() == [1] * 5 + [2] * 5 and "rlnAnglePsiPrior" in table
    assert table["rlnHelicalTrackLengthAngst"].tolist()[:5] == [0, 30, 60, 90, 120]
