"""Maps of symmetry copies equal symmetric reconstructions, helices of both hands come out right, and copies of noise stay noise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protomer.declarations.reconstruct import JOB as RECONSTRUCT
from protomer.engine.maximisation import solid_sphere
from protomer.errors import InputError, SettingsError
from protomer.formats.hdf5 import read_map_record, read_particles, write_particles
from protomer.formats.mrc import write_volume
from protomer.maps.volumes import Halves, Volume
from protomer.running.job_run import RunOptions, run_job
from protomer.simulation.dataset import SimulatedData, Simulator, simulate_dataset
from protomer.simulation.draws import SimulationDesign
from protomer.simulation.scatterers import AtomModel
from protomer.symmetry.expansion import expanded
from protomer.symmetry.operator_sets import Helix, OperatorSet, helical_operators
from protomer.tables.particles import Particles
from protomer_kernels.atoms import real_volume
from protomer_kernels.shells import fourier_shell_correlation
from reconstructions import as_particles, rebuilt
from simulated import chain_model, symmetric_dataset

BOX, PIXEL_A = 40, 4.5
TWIST, RISE_A, SUBUNITS, ORDER = np.deg2rad(48.0), 9.0, 9, 5


@pytest.mark.parametrize("group", ["C2", "D3", "T"])
def test_without_symmetry_the_copies_give_the_map_that_the_images_give_with_it(tmp_path: Path, group: str) -> None:
    particles = as_particles(symmetric_dataset("D3", 60, 32), tmp_path)
    operators = OperatorSet.of_group(group)
    symmetric, copied = rebuilt(particles, operators), rebuilt(expanded(particles, operators))
    for one, other in zip((*symmetric[0], symmetric[1]), (*copied[0], copied[1]), strict=True):
        curve = fourier_shell_correlation(one, other)
        assert len(curve) == 17 and curve.min() > 0.9999


def helix_model(twist_rad: float) -> AtomModel:
    """SUBUNITS random chains on a helix."""
    unit = chain_model(60, 4, size=0.25)
    operators = helical_operators(Helix(twist_rad, RISE_A, SUBUNITS))
    moved = unit.positions_A + np.array([22.0, 0.0, 0.0])
    return copied_model(AtomModel(moved, unit.weights, 100.0), operators)


def copied_model(model: AtomModel, operators: OperatorSet) -> AtomModel:
    """The mean of a model's copies."""
    pairs = zip(operators.rotations, operators.translations_A, strict=True)
    positions = np.concatenate([model.positions_A @ rotation.T + move_A for rotation, move_A in pairs])
    return AtomModel(positions, np.tile(model.weights, len(operators)), model.bfactor_A2)


def side_views(data: SimulatedData, from_deg: float, to_deg: float) -> SimulatedData:
    """The images that look across z, from one side only."""
    direction = data.truth.rotation_matrix[:, :, 2]
    angle = np.rad2deg(np.arctan2(direction[:, 1], direction[:, 0])) % 360
    rows = np.flatnonzero((np.abs(direction[:, 2]) < 0.6) & (angle >= from_deg) & (angle < to_deg))
    return replace(data, images=data.images[rows], truth=data.truth.take(rows))


@pytest.mark.parametrize("hand", [1, -1])
def test_a_helix_of_either_hand_is_rebuilt_from_views_of_one_side(tmp_path: Path, hand: int) -> None:
    model = helix_model(hand * TWIST)
    design = SimulationDesign(900, BOX, PIXEL_A, 4.0, seed=2)
    particles = as_particles(side_views(simulate_dataset(model, design), 0, 70), tmp_path)
    assert 50 < len(particles) < 150
    right, wrong = (helical_operators(Helix(way * hand * TWIST, RISE_A, ORDER)) for way in (1, -1))
    truth = real_volume(copied_model(model, right).volume_ft(BOX, PIXEL_A), BOX)
    shells = slice(2, 15)  # further out the gaps between so few views count
    curves = {name: fourier_shell_correlation(rebuilt(particles, operators)[1], truth)[shells]
              for name, operators in (("right", right), ("wrong hand", wrong), ("none", OperatorSet.identity()))}
    assert curves["right"].min() > 0.94
    assert curves["wrong hand"].mean() < 0.6 and curves["none"].mean() < 0.9 * curves["right"].mean()
    copies = fourier_shell_correlation(rebuilt(particles, right)[1], rebuilt(expanded(particles, right))[1])
    assert copies.min() > 0.9999


def noise_particles(folder: Path, number: int, seed: int) -> Particles:
    """Images of noise at random poses."""
    design = SimulationDesign(number, 32, 4.0, 0.0, seed=seed, max_shift_A=0.0)
    simulator = Simulator((chain_model(),), design)
    images = simulator.images(np.arange(number))
    return as_particles(SimulatedData(images, simulator.truth, simulator.volume(), np.ones(17), design), folder)


def in_bands(halves: Halves[np.ndarray], order: int) -> float:
    """Root mean square over shells of the FSC in a sphere, in units of what chance gives at most: sqrt(order / independent voxels).

    Noise in a mask m fills (sum m^2)^2 / sum m^4 voxels, and Fourier voxels are by so much fewer; within a thin shell by somewhat less.
    (Outside the sphere that fits the box, maps of copies are not symmetric: images end there.)
    """
    mask = solid_sphere(32, 0.42)
    curve = fourier_shell_correlation(halves.a * mask, halves.b * mask)
    axis = np.fft.fftfreq(32, 1 / 32)
    shell = np.rint(np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)).astype(int)
    voxels = np.bincount(shell.ravel())[:17] * (mask**2).sum() ** 2 / (mask**4).sum() / mask.size
    shells = np.arange(5, 15)
    return float(np.sqrt(np.mean(curve[shells] ** 2 * voxels[shells] / order)))


def test_copies_of_noise_correlate_by_chance_alone_in_a_band_that_is_wider_by_the_root_of_the_order(tmp_path: Path) -> None:
    seen: dict[str, list[float]] = {"C1": [], "D7": []}
    for seed in range(4):
        particles = noise_particles(tmp_path, 120, seed)
        for group, values in seen.items():
            operators = OperatorSet.of_group(group)
            copies = particles if group == "C1" else expanded(particles, operators)
            values.append(in_bands(rebuilt(copies)[0], len(operators)))
    plain, copied = (float(np.sqrt(np.mean(np.square(values)))) for values in seen.values())
    assert 0.5 < plain < 1.05 and 0.5 < copied < 1.05 and 0.6 < copied / plain < 1.6, seen  # without the root: 3.7 times


def test_copies_of_noise_in_both_half_sets_make_a_resolution_of_nothing_which_is_why_they_are_refused(tmp_path: Path) -> None:
    """Under their group, half maps of which each has some copies of every image are the same map."""
    operators = OperatorSet.of_group("D2")
    copies = expanded(noise_particles(tmp_path, 120, 0), operators)
    halves = np.arange(len(copies)) % 2
    with pytest.raises(InputError, match="copies in both half-sets"):
        copies.with_columns(half=halves)
    torn = copies.with_columns(half=halves, image_uid=np.arange(len(copies)))  # forced: every copy as if it were an image of its own
    kept, split = (fourier_shell_correlation(*rebuilt(table, operators)[0])[4:15] for table in (copies, torn))
    assert np.abs(kept).max() < 0.3 and split.min() > 0.99


def reconstruct(folder: Path, name: str, particles: Particles, **settings: Any) -> tuple[dict[str, Any], np.ndarray]:
    """Run the job; its summary and its half maps' mean."""
    write_particles(folder / f"{name}.h5", particles)
    summary = run_job(RECONSTRUCT, {"particles": str(folder / f"{name}.h5")}, settings, RunOptions(folder / name, threads=1))
    record = read_map_record(folder / name / "volume.h5")
    return summary, record.half_maps.a.data + record.half_maps.b.data


def test_the_job_reconstructs_a_helix_from_images_as_it_does_from_their_copies(tmp_path: Path) -> None:
    data = simulate_dataset(helix_model(TWIST), SimulationDesign(120, 32, 5.6, 2.0, seed=3))
    particles, helix = as_particles(data, tmp_path), Helix(TWIST, RISE_A, 3)
    settings = {"helical_twist": float(np.rad2deg(TWIST)), "helical_rise": RISE_A, "helical_order": 3}
    summary, wound = reconstruct(tmp_path, "wound", particles, **settings)
    assert summary["operators"] == helix.describe() and {w["code"] for w in summary["warnings"]} >= {"few_particles"}
    copies = expanded(particles, helical_operators(helix))
    plain, same = reconstruct(tmp_path, "copies", copies)
    assert fourier_shell_correlation(wound, same).min() > 0.9999
    assert plain["particles_in"] == 360 and plain["images"] == 120 and "expanded_twice" not in {w["code"] for w in plain["warnings"]}
    twice, _ = reconstruct(tmp_path, "twice", copies, flip_hand=True, **settings)
    assert "expanded_twice" in {w["code"] for w in twice["warnings"]}
    mirrored = read_particles(tmp_path / "twice/particles.h5")
    np.testing.assert_allclose(mirrored.operators.translations_A, -helical_operators(helix).translations_A)


def test_a_helix_without_a_rise_is_refused_by_the_job(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no helical_rise"):
        reconstruct(tmp_path, "wound", noise_particles(tmp_path, 10, 0), helical_twist=20.0, helical_order=3)


def test_the_job_says_how_far_its_map_agrees_with_a_reference(tmp_path: Path) -> None:
    particles = as_particles(symmetric_dataset("D3", 60, 32), tmp_path)
    write_particles(tmp_path / "images.h5", particles)

    def compared(output: str, reference: str, symmetry: str = "C1") -> dict[str, Any]:
        inputs = {"particles": str(tmp_path / "images.h5"), "reference": str(tmp_path / reference), "symmetry": symmetry}
        return dict(run_job(RECONSTRUCT, inputs, {}, RunOptions(tmp_path / output, threads=1))["agreement"])

    plain, _ = reconstruct(tmp_path, "plain", particles)
    assert plain["agreement"] is None
    assert compared("same", "plain")["lowest"] == 1.0
    other = compared("other", "plain", "C2")
    expected = fourier_shell_correlation(*[sum(half.data for half in read_map_record(tmp_path / name / "volume.h5").half_maps)
                                           for name in ("other", "plain")])
    assert other["lowest"] == pytest.approx(expected[1:].min(), abs=1e-5) and other["lowest"] < 0.9
    assert "lowest of all shells" in (tmp_path / "other/report.html").read_text()
    write_volume(tmp_path / "small.mrc", Volume(np.ones((16, 16, 16), np.float32), 9.0))
    write_volume(tmp_path / "flat.mrc", Volume(np.ones((32, 32, 32), np.float32), particles.optics_groups[0].pixel_size_A))
    for name, words in (("small.mrc", "16 voxels"), ("flat.mrc", "constant")):
        with pytest.raises(InputError, match=words):
            compared("refused", name)
