"""Simulated data sets: signal-to-noise, reproducibility, files, motion, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import pytest
import starfile
from scipy.spatial.transform import Rotation

from protomer.catalogue import declaration
from protomer.errors import InputError, SettingsError
from protomer.formats.mrc import StackReader, read_volume, write_volume
from protomer.maps.rigid_motion import RigidMotion, move_volume
from protomer.maps.volumes import Volume
from protomer.running.job_run import RunOptions, plan_job, run_job
from protomer.simulation.dataset import PROBES, Simulator, noise_power, noise_variance, simulate_dataset
from protomer.simulation.draws import DEBRIS, EMPTY, PARTICLE, SimulationDesign, draw_truth
from protomer.simulation.files import read_truth
from protomer.simulation.scatterers import AtomModel, MapModel, read_atom_model
from protomer.simulation.shipped_models import shipped_model
from protomer_kernels.atoms import real_volume
from protomer_kernels.half_plane import HalfPlane, transform_images
from protomer_kernels.rotations import matrices_from_quaternions
from protomer_kernels.shells import shell_power
from simulated import chain_dataset, chain_model, symmetric_model

BOX, PIXEL_SIZE_A = 32, 4.0


def design(**changes: Any) -> SimulationDesign:
    return SimulationDesign(**{"number": 40, "box": BOX, "pixel_size_A": PIXEL_SIZE_A, "snr": 0.1, **changes})


def disc() -> np.ndarray:
    axis = np.arange(BOX) - BOX // 2
    return axis[:, None] ** 2 + axis**2 <= (0.4 * BOX) ** 2


def write_chain(path: Path, chains: str = "AB") -> Path:
    """The random chain as an mmCIF file, its atoms shared among the chains named."""
    model = chain_model(100)
    structure, part = gemmi.Structure(), gemmi.Model(1)
    for name, atoms in zip(chains, np.array_split(np.arange(len(model.weights)), len(chains)), strict=True):
        chain, residue = gemmi.Chain(name), gemmi.Residue()
        residue.name, residue.seqid = "UNK", gemmi.SeqId("1")
        for i in atoms:
            atom = gemmi.Atom()
            atom.name, atom.element, atom.pos = f"X{i}", gemmi.Element(int(model.weights[i])), gemmi.Position(*model.positions_A[i])
            residue.add_atom(atom)
        chain.add_residue(residue)
        part.add_chain(chain)
    structure.add_model(part)
    structure.make_mmcif_document().write_file(str(path))
    return path


def simulate(folder: Path, inputs: dict[str, Any], **settings: Any) -> dict[str, Any]:
    defaults = {"number": 30, "box": BOX, "pixel_size": PIXEL_SIZE_A, "snr": 0.5}
    return run_job(declaration("simulate"), inputs, defaults | settings, RunOptions(folder))


def test_the_signal_to_noise_ratio_is_the_one_asked_for() -> None:
    simulator = Simulator((chain_model(),), design(number=400, snr=0.25))
    rows = np.arange(400)
    signal = simulator.gain * simulator.signal(simulator.truth, rows)
    noise = simulator.images(rows) - signal
    assert noise.var() == pytest.approx(1.0, rel=0.01)
    assert signal[:, disc()].var(axis=1).mean() == pytest.approx(0.25, rel=0.1)  # the gain comes from PROBES other images
    assert PROBES < 400


def test_an_image_does_not_depend_on_how_many_there_are() -> None:
    few, many = (simulate_dataset(chain_model(), design(number=n, realistic=True, junk=0.3, seed=5)) for n in (10, 75))
    assert np.array_equal(few.images, many.images[:10])
    assert np.array_equal(few.truth.rotation, many.truth.rotation[:10])


def test_another_seed_gives_other_images() -> None:
    one, two = (chain_dataset(number=10, seed=seed).images for seed in (1, 2))
    assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < 0.1


def test_uniform_rotations_are_uniform() -> None:
    rotations = matrices_from_quaternions(draw_truth(design(number=4000), np.zeros((1, 3))).rotation)
    assert np.abs(rotations.mean(0)).max() < 0.04
    assert (rotations**2).mean(0) == pytest.approx(np.full((3, 3), 1 / 3), abs=0.02)


def test_realistic_views_are_uneven_and_contrast_spreads() -> None:
    truth = draw_truth(design(number=3000, realistic=True), np.zeros((1, 3)))
    directions = matrices_from_quaternions(truth.rotation)[:, :, 2]
    assert np.linalg.norm(directions.mean(0)) > 0.3
    assert truth.contrast.std() > 0.1
    assert (truth.stated_defocus_u_A - truth.defocus_u_A).std() == pytest.approx(200, rel=0.1)


def test_shifts_fill_the_disc_and_no_more() -> None:
    length_A = np.linalg.norm(draw_truth(design(number=2000, max_shift_A=9.0), np.zeros((1, 3))).shift_A, axis=1)
    assert length_A.max() <= 9.0
    assert np.median(length_A) == pytest.approx(9.0 / np.sqrt(2), rel=0.05)


def test_coloured_noise_has_the_power_it_says_and_variance_one() -> None:
    data = chain_dataset(number=300, snr=0.0, realistic=True)
    assert data.images.var() == pytest.approx(1.0, rel=0.02)
    plane = HalfPlane(BOX, BOX // 2 - 1)
    power = np.abs(transform_images(data.images, plane)) ** 2
    measured = np.bincount(plane.shell, power.mean(0)) / np.bincount(plane.shell)
    assert measured[1:] == pytest.approx(data.noise_variance[1 : len(measured)], rel=0.12)
    assert data.noise_variance[2] > 2 * data.noise_variance[-2]
    assert noise_power(data.design).shape == (BOX, BOX // 2 + 1)
    assert (noise_variance(design()) == 1).all()


def test_junk_holds_no_particle() -> None:
    simulator = Simulator((chain_model(),), design(number=60, junk=0.6))
    truth, rows = simulator.truth, np.arange(60)
    signal = simulator.signal(truth, rows)
    assert {PARTICLE, EMPTY, DEBRIS} == set(truth.junk.tolist())
    assert (signal[truth.junk == EMPTY] == 0).all()
    clean = Simulator((chain_model(),), design(number=60)).signal(draw_truth(design(number=60), np.zeros((1, 3))), rows)
    debris = np.flatnonzero(truth.junk == DEBRIS)
    assert all(np.corrcoef(signal[n].ravel(), clean[n].ravel())[0, 1] < 0.9 for n in debris)
    assert np.array_equal(signal[truth.junk == PARTICLE], clean[truth.junk == PARTICLE])


def test_a_moved_subunit_is_seen_where_its_own_pose_says() -> None:
    """Imaging one body alone with its own pose gives what moving its atoms in space and imaging those gives."""
    model = symmetric_model("C2")
    truth = draw_truth(design(number=5, motion_rotation_rad=0.2, motion_shift_A=3.0), model.body_centres_A)
    consensus = truth.rotation_matrix
    for n in range(5):
        for b, body in enumerate(model.bodies):
            own = matrices_from_quaternions(truth.body_rotation[n, b])
            turn = consensus[n] @ own.T  # Q of R_b = Q^T R
            centre_A = model.body_centres_A[b]
            seen_A = (model.positions_A[body] @ own)[:, :2] - truth.body_shift_A[n, b]
            turned_A = (model.positions_A[body] - centre_A) @ turn.T + centre_A
            moved_by_A = seen_A - (turned_A @ consensus[n])[:, :2] + truth.shift_A[n]
            assert np.abs(moved_by_A - moved_by_A[0]).max() < 1e-9  # a displacement of the body, the same for all its atoms
            assert 0 < np.linalg.norm(moved_by_A[0]) < 15
    particle = Rotation.from_quat(np.repeat(truth.rotation, 2, axis=0))
    angles = (Rotation.from_quat(truth.body_rotation.reshape(-1, 4)) * particle.inv()).magnitude()
    assert 0.1 < angles.mean() < 0.7


def test_without_motion_every_body_has_the_pose_of_the_particle() -> None:
    truth = draw_truth(design(), symmetric_model("D2").body_centres_A)
    assert np.abs(np.abs(np.einsum("nbi,ni->nb", truth.body_rotation, truth.rotation)) - 1).max() < 1e-12
    assert np.abs(truth.body_shift_A - truth.shift_A[:, None]).max() < 1e-9


def test_a_symmetric_model_makes_a_symmetric_map() -> None:
    model = symmetric_model("C2")
    volume = simulate_dataset(model, design(number=1)).volume.data
    turned = np.roll(volume[:, ::-1, ::-1], (1, 1), axis=(1, 2))  # half a turn about z through N//2
    assert np.abs(volume - turned)[:, 1:, 1:].max() < 1e-4 * volume.max()


def test_the_job_writes_all_its_files(tmp_path: Path) -> None:
    model = write_chain(tmp_path / "model.cif")
    summary = simulate(tmp_path / "out", {"model": model}, realistic=True, number=70)
    folder = tmp_path / "out"
    stack, table = StackReader(folder / "particles.mrcs"), starfile.read(folder / "particles.star", always_dict=True)
    truth, true_table = read_truth(folder / "truth.h5"), starfile.read(folder / "truth.star", always_dict=True)["particles"]
    assert (stack.number, stack.box) == (70, BOX) and stack.pixel_size_A == pytest.approx(PIXEL_SIZE_A)
    assert len(table["particles"]) == len(truth) == len(true_table) == summary["images"] == 70
    assert "rlnAngleRot" not in table["particles"] and table["optics"]["rlnVoltage"].iloc[0] == 300
    angles = true_table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy()
    assert np.abs(Rotation.from_euler("ZYZ", angles, degrees=True).as_matrix() - truth.rotation_matrix).max() < 1e-7
    assert true_table[["rlnOriginXAngst", "rlnOriginYAngst"]].to_numpy() == pytest.approx(truth.shift_A, abs=1e-6)
    assert table["particles"]["rlnDefocusU"].to_numpy() == pytest.approx(truth.stated_defocus_u_A, abs=1e-3)
    assert summary["junk"] == int((truth.junk > 0).sum())
    assert (folder / "report.html").read_text().count("<svg") == 5
    start, volume = read_volume(folder / "start.mrc"), read_volume(folder / "map.mrc")
    ratio = shell_power(start.data) / shell_power(volume.data)
    limit = BOX * PIXEL_SIZE_A / 40  # 3.2 shells
    assert ratio[: int(limit) - 1] == pytest.approx(1, abs=1e-3) and ratio[int(limit) + 3 :].max() < 1e-6
    in_memory = simulate_dataset(read_atom_model(model, 60.0), design(number=70, snr=0.5, realistic=True, junk=0.1))
    assert np.array_equal(stack.read(range(70)), in_memory.images)


def test_the_same_settings_give_the_same_bytes(tmp_path: Path) -> None:
    model = write_chain(tmp_path / "model.cif")
    outputs = [simulate(tmp_path / name, {"model": model}, poses="perturbed")["outputs"] for name in ("one", "two")]
    names = ("particles.mrcs", "particles.star", "truth.star", "truth.h5", "map.mrc", "start.mrc")
    assert all(outputs[0][name]["sha256"] == outputs[1][name]["sha256"] for name in names)


def test_perturbed_poses_are_off_by_as_much_as_asked(tmp_path: Path) -> None:
    model = write_chain(tmp_path / "model.cif")
    simulate(tmp_path / "out", {"model": model}, number=300, box=16, pixel_size=8.0, poses="perturbed", perturb_rotation="4deg",
             perturb_shift="3A")
    table = starfile.read(tmp_path / "out" / "particles.star", always_dict=True)["particles"]
    truth = read_truth(tmp_path / "out" / "truth.h5")
    stated = Rotation.from_euler("ZYZ", table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy(), degrees=True)
    errors_deg = np.rad2deg((stated * Rotation.from_quat(truth.rotation).inv()).as_rotvec())
    assert errors_deg.std(axis=0) == pytest.approx(np.full(3, 4.0), rel=0.15)
    moved_A = table[["rlnOriginXAngst", "rlnOriginYAngst"]].to_numpy() - truth.shift_A
    assert moved_A.std(axis=0) == pytest.approx(np.full(2, 3.0), rel=0.15)


def test_a_second_model_makes_a_second_class(tmp_path: Path) -> None:
    write_chain(tmp_path / "one.cif")
    other = Volume(simulate_dataset(symmetric_model("C2"), design(number=1)).volume.data, PIXEL_SIZE_A)
    write_volume(tmp_path / "two.mrc", other)
    summary = simulate(tmp_path / "out", {"model": tmp_path / "one.cif"}, number=200, second_model=str(tmp_path / "two.mrc"),
                       second_fraction=0.3)
    truth = read_truth(tmp_path / "out" / "truth.h5")
    assert sum(summary["classes"]) == 200 and 40 < summary["classes"][1] < 80
    assert (np.bincount(truth.class_number)[1:] == summary["classes"]).all()
    assert (tmp_path / "out" / "class_2" / "map.mrc").exists()


def test_subunits_are_chosen_by_chain(tmp_path: Path) -> None:
    path = write_chain(tmp_path / "model.cif", "ABCD")
    assert len(read_atom_model(path, 60.0).bodies) == 1
    assert len(read_atom_model(path, 60.0, "each").bodies) == 4
    grouped = read_atom_model(path, 60.0, "A+C,B")
    assert [body.stop - body.start for body in grouped.bodies] == [250, 125, 125]
    with pytest.raises(SettingsError, match="Z"):
        read_atom_model(path, 60.0, "A,Z")
    with pytest.raises(SettingsError, match="twice"):
        read_atom_model(path, 60.0, "A,A+B")


@pytest.mark.parametrize(("name", "atoms", "radius_A", "chains"), [("1y1v", 31803, 100, 14), ("5ni1", 4555, 36, 4)])
def test_the_models_that_come_with_protomer_are_whole(name: str, atoms: int, radius_A: float, chains: int) -> None:
    model = read_atom_model(shipped_model(name), 60.0, "each")
    assert len(model.weights) == atoms and len(model.bodies) == chains
    assert model.radius_A == pytest.approx(radius_A, rel=0.05)


def test_haemoglobin_has_its_two_fold_along_z_and_only_nearly_others() -> None:
    """The alpha and beta subunits are alike, so that two half turns across z, of every turn, come close."""
    volume = Volume(real_volume(read_atom_model(shipped_model("5ni1"), 120.0).volume_ft(BOX, 2.5), BOX), 2.5)

    def agreement(rotation_vector: tuple[float, float, float]) -> float:
        moved = move_volume(volume, RigidMotion(Rotation.from_rotvec(rotation_vector).as_matrix(), np.zeros(3)))
        return float(np.corrcoef(moved.data.ravel(), volume.data.ravel())[0, 1])

    across = max(agreement((np.pi * np.cos(a), np.pi * np.sin(a), 0.0)) for a in np.deg2rad(np.arange(0, 180, 9)))
    assert agreement((0, 0, np.pi)) > 0.99 and 0.5 < across < 0.8


def test_models_that_come_along_are_taken_by_name_where_no_file_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    summary = simulate(tmp_path / "out", {"model": "5NI1"}, number=4, second_model="1y1v", second_fraction=0.5, pixel_size=8.0)
    assert set(summary["models"]) == {"5ni1.cif.gz", "1y1v.cif.gz"}
    for inputs, settings in (({"model": "5ni2"}, {}), ({}, {"second_model": "5ni2"})):
        with pytest.raises(InputError, match="5ni2") as caught:
            simulate(tmp_path / "other", inputs, **settings)
        assert "1y1v, 5ni1" in caught.value.expected
    (tmp_path / "5ni1").write_text("no model")
    with pytest.raises(InputError, match="5ni1"):
        simulate(tmp_path / "other", {"model": "5ni1"})


@pytest.mark.parametrize("twist_deg", [40, -40])
def test_a_helix_of_copies_has_its_subunits_where_twist_and_rise_put_them(tmp_path: Path, twist_deg: float) -> None:
    path = write_chain(tmp_path / "model.cif")
    simulate(tmp_path / "out", {"model": path}, box=48, number=2, symmetry_radius="15A", helical_twist=twist_deg, helical_rise="9A",
             helical_order=3)
    unit = read_atom_model(path, 60.0)
    atoms = []
    for n in (-1, 0, 1):
        cosine, sine = np.cos(np.deg2rad(n * twist_deg)), np.sin(np.deg2rad(n * twist_deg))  # x towards y, rising: right-handed
        x, y, z = (unit.positions_A + np.array([15.0, 0.0, 0.0])).T
        atoms.append(np.stack([cosine * x - sine * y, sine * x + cosine * y, z + 9.0 * n], axis=1))
    expected = real_volume(AtomModel(np.concatenate(atoms), np.tile(unit.weights, 3), 60.0).volume_ft(48, PIXEL_SIZE_A), 48)
    assert np.corrcoef(expected.ravel(), read_volume(tmp_path / "out/map.mrc").data.ravel())[0, 1] > 0.99999


def test_a_start_map_is_turned_and_moved_as_asked(tmp_path: Path) -> None:
    model = write_chain(tmp_path / "model.cif")
    plain, moved = tmp_path / "plain", tmp_path / "moved"
    simulate(plain, {"model": model}, start_low_pass=20)
    simulate(moved, {"model": model}, start_low_pass=20, start_turn="25deg", start_shift="3A")
    before, after = (read_volume(folder / "start.mrc") for folder in (plain, moved))
    assert (plain / "map.mrc").read_bytes()[1024:] == (moved / "map.mrc").read_bytes()[1024:]
    axis = np.arange(BOX) - BOX // 2
    centre = [np.array([(v.data * (v.data > 0.3 * v.data.max())).sum(axes) @ axis for axes in ((0, 1), (0, 2), (1, 2))])
              / (v.data * (v.data > 0.3 * v.data.max())).sum() * PIXEL_SIZE_A for v in (before, after)]
    assert 0.5 < np.linalg.norm(centre[1] - centre[0]) < 10
    assert 0.3 < np.corrcoef(before.data.ravel(), after.data.ravel())[0, 1] < 0.97


@pytest.mark.parametrize(("inputs", "settings", "words"), [
    ({"model": "model.cif"}, {"box": 8, "pixel_size": 2.0}, "reaches"),
    ({"model": "model.cif"}, {"defocus_min": 20000, "defocus_max": 10000}, "defocus_min"),
    ({"model": "model.cif"}, {"second_fraction": 0.2}, "second_fraction"),
    ({"model": "model.cif"}, {"second_model": "nowhere.mrc"}, "no such file"),
    ({"model": "model.cif"}, {"helical_twist": 30, "helical_order": 3}, "no helical_rise"),
    ({"model": "model.cif"}, {"helical_twist": 30, "helical_rise": -2, "helical_order": 3}, "helical_rise = -2"),
    ({"model": "model.cif", "volume": "map.mrc"}, {}, "both given"),
    ({"volume": "map.mrc"}, {"motion_rotation": 3}, "motion"),
    ({"model": "model.cif", "symmetry": "C3"}, {"subunits": "A"}, "subunits"),
    ({"model": "model.cif", "symmetry": "Q7"}, {}, "Q7"),
])
def test_what_cannot_be_simulated_is_refused_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: dict[str, str],
                                                                    settings: dict[str, Any], words: str) -> None:
    monkeypatch.chdir(tmp_path)
    write_chain(tmp_path / "model.cif")
    write_volume(tmp_path / "map.mrc", chain_dataset().volume)
    with pytest.raises(InputError, match=words):
        simulate(tmp_path / "out", inputs, **settings)
    assert not (tmp_path / "out" / "particles.mrcs").exists()


def test_a_file_without_atoms_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.cif").write_text("data_x\n_entry.id x\n")
    with pytest.raises(InputError, match="no atoms"):
        read_atom_model(tmp_path / "empty.cif", 60.0)
    (tmp_path / "broken.cif").write_text("data_x\nloop_\n_atom_site.id\n_atom_site.x\n1\n")
    with pytest.raises(InputError, match="cannot be read"):
        read_atom_model(tmp_path / "broken.cif", 60.0)


def test_the_plan_knows_the_disk_it_will_use(tmp_path: Path) -> None:
    model = write_chain(tmp_path / "model.cif")
    settings = {"number": 100, "box": BOX, "pixel_size": PIXEL_SIZE_A}
    plan = plan_job(declaration("simulate"), {"model": model}, settings, 1, 1)
    simulate(tmp_path / "out", {"model": model}, **settings)
    used = sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert plan.disk_bytes == pytest.approx(used, rel=0.3)
    assert plan.seconds > 0 and plan.memory_bytes > 10**8


def test_images_of_a_map_resemble_images_of_its_atoms() -> None:
    atoms, exact = chain_model(), chain_dataset(number=20, snr=1.0, pixel_size_A=4.0)
    own_scale = Volume(simulate_dataset(atoms, design(number=1)).volume.data, PIXEL_SIZE_A)
    from_map = simulate_dataset(MapModel(own_scale), design(number=20, snr=1.0))
    assert np.corrcoef(from_map.images.ravel(), exact.images.ravel())[0, 1] > 0.999
