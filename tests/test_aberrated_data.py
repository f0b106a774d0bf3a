"""Data simulated with large aberrations, taken into account or ignored, against data without any: maps, poses, files and RELION."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from protomer.engine.alignment import Poses
from protomer.engine.maximisation import Sums, unregularised
from protomer.engine.sums import insert_poses
from protomer.formats.hdf5 import read_map_record
from protomer.formats.star import read_star_particles
from protomer.imaging.aberrations import correct_odd_phases, usable_radius
from protomer.imaging.images import whitened
from protomer.simulation.dataset import SimulatedData
from protomer.simulation.optics import optics_of, stretching
from protomer.simulation.pose_trial import try_poses
from protomer.tables.optics import OpticsGroup
from protomer.tables.particles import Particles, Stack, empty_columns
from protomer_kernels.half_plane import HalfPlane, largest_radius, transform_images
from protomer_kernels.insertion import empty_accumulator, fixed_point_scale
from protomer_kernels.shells import fourier_shell_correlation
from refinement_runs import protomer
from simulated import chain_dataset, chain_model

NUMBER, BOX, PIXEL_A, SNR, POSES = 400, 48, 3.2, 0.3, 150
SHELLS = slice(2, 22)  # the last one lies beyond what magnified images reach
ABERRATIONS = {  # 3 to 5 radians each at the edge of the images; 8 % from axis to axis
    "odd": {"beam_tilt_rad": (0.012, -0.008), "odd_zernike": (0.0, 0.0, 500.0, 0.0, 0.0, -600.0)},
    "even": {"even_zernike": (0.0, 4500.0, 0.0, 0.0, 5000.0, 1500.0, 0.0, 0.0, 7000.0)},
    "magnification": {"magnification": stretching(8.0, 0.4)},
}
EVERYTHING = {name: value for part in ABERRATIONS.values() for name, value in part.items()}


@functools.cache
def aberrated() -> SimulatedData:
    return chain_dataset(NUMBER, BOX, PIXEL_A, SNR, seed=11, **EVERYTHING)


@functools.cache
def without_any() -> SimulatedData:
    return chain_dataset(NUMBER, BOX, PIXEL_A, SNR, seed=11)


def first_images(data: SimulatedData) -> SimulatedData:
    """The first POSES images."""
    return replace(data, images=data.images[:POSES], truth=data.truth.take(slice(POSES)), design=replace(data.design, number=POSES))


def truth_curve(data: SimulatedData, group: OpticsGroup) -> np.ndarray:
    """FSC with the truth of the map from true poses, the images being taken as those of an optics group."""
    columns, truth = empty_columns(NUMBER), data.truth
    columns["half"][:], columns["image_uid"][:] = 0, np.arange(NUMBER)
    for name in ("rotation", "shift_A", "defocus_u_A", "defocus_v_A", "defocus_angle_rad"):
        columns[name][:] = getattr(truth, name)
    particles = Particles(columns, (group,), (Stack("x.mrcs", NUMBER, BOX, 0, 0, ""),), has_poses=True)
    plane, rows = HalfPlane(BOX, largest_radius(BOX)), np.arange(NUMBER)
    length = plane.prefix(usable_radius(particles, plane.radius))
    crops = transform_images(data.images, plane)
    correct_odd_phases(particles, rows, plane, crops)
    batch = whitened(particles, rows, crops, np.ones((1, length), np.float32), plane, PIXEL_A)
    poses = Poses(truth.rotation_matrix[:, None], truth.shift_A[:, None] / PIXEL_A, np.ones((NUMBER, 1)), np.zeros(NUMBER),
                  np.zeros((NUMBER, 15)), np.zeros(NUMBER))
    scale, accumulator = fixed_point_scale(float(np.abs(crops).max()), NUMBER), empty_accumulator(plane.radius)
    insert_poses(batch, poses, plane, np.eye(3)[None], scale, accumulator)
    volume = unregularised(Sums.of(accumulator, scale), BOX, plane.radius + 1, 1)
    return fourier_shell_correlation(volume, data.volume.data)


def test_known_aberrations_cost_no_resolution_and_each_of_them_does_when_it_is_ignored() -> None:
    group = optics_of(aberrated().design)
    plain = truth_curve(without_any(), optics_of(without_any().design))
    known = truth_curve(aberrated(), group)
    print("plain", plain[SHELLS].round(2), "known", known[SHELLS].round(2), sep="\n")
    assert known[SHELLS].mean() > plain[SHELLS].mean() - 0.02
    assert np.abs(known - plain)[SHELLS].max() < 0.1
    for name, part in ABERRATIONS.items():
        ignored = truth_curve(aberrated(), replace(group, **{key: getattr(OpticsGroup("", 1, 1, 1, 1, 1), key) for key in part}))
        print(f"{name} ignored", ignored[SHELLS].round(2), sep="\n")
        assert ignored[15:22].mean() < known[15:22].mean() - 0.07


def test_poses_of_aberrated_images_are_found_as_well_as_those_of_others() -> None:
    some = {"plain": first_images(without_any()), "known": first_images(aberrated())}
    some["ignored"] = replace(some["known"], design=some["plain"].design)
    found = {name: try_poses(data, chain_model()) for name, data in some.items()}
    medians = {name: (np.median(trial.angle_deg), np.median(trial.shift_A), np.mean(trial.angle_deg > 10)) for name, trial in found.items()}
    print(medians)
    squares = {name: trial.squares() for name, trial in found.items()}  # mean of (error / what the engine says it is)^2
    print({name: each.round(2) for name, each in squares.items()})
    assert medians["known"][0] < 1.25 * medians["plain"][0] and medians["known"][1] < 1.25 * medians["plain"][1]  # +- 0.11
    assert medians["known"][2] <= medians["plain"][2] + 0.01
    assert squares["known"].max() < 1.5 and squares["ignored"].max() > 2.5
    assert medians["ignored"][0] > 1.4 * medians["known"][0]
    assert np.mean(found["known"].shortfall > 0.5) < 0.03


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """plain and aberrated: simulations with true poses; ignored.star beside the latter says nothing of its aberrations."""
    folder = tmp_path_factory.mktemp("aberrated")
    settings = {"number": 240, "box": BOX, "pixel_size": "4.4A", "snr": 0.4, "bfactor": 30, "poses": "true", "seed": 5}
    strange = {"beam_tilt": "25,-18", "trefoil": "1000,-1200", "tetrafoil": "5000,7000", "magnification": 6, "magnification_angle": 25}
    for name, more in (("plain", {}), ("aberrated", strange)):
        words = [word for key, value in (settings | more).items() for word in ("--set", f"{key}={value}")]
        protomer("simulate", "--output", folder / name, *words)
    text = (folder / "aberrated/particles.star").read_text()
    bare = (folder / "plain/particles.star").read_text().split("data_particles")[0]
    (folder / "aberrated/ignored.star").write_text(bare + "data_particles" + text.split("data_particles")[1])
    return folder


def test_a_simulation_states_its_aberrations_and_they_come_back_from_the_file(files: Path) -> None:
    group = read_star_particles(files / "aberrated/particles.star").optics_groups[0]
    np.testing.assert_allclose(group.beam_tilt_rad, (0.025, -0.018), rtol=1e-9)
    assert group.odd_zernike == (0, 0, 1000, 0, 0, -1200) and group.even_zernike == (0, 0, 0, 0, 5000, 0, 0, 0, 7000)
    axis = np.array([np.cos(np.deg2rad(25)), np.sin(np.deg2rad(25))])
    across = np.array([-axis[1], axis[0]])
    matrix = np.reshape(group.magnification, (2, 2))
    np.testing.assert_allclose([matrix @ axis, matrix @ across], [1.03 * axis, 0.97 * across], atol=1e-8)
    plain = read_star_particles(files / "plain/particles.star").optics_groups[0]
    assert plain == replace(group, beam_tilt_rad=(0.0, 0.0), odd_zernike=(), even_zernike=(), magnification=(1.0, 0.0, 0.0, 1.0),
                            extra=plain.extra)


def test_import_and_reconstruct_apply_them_and_an_optics_group_without_particles_changes_no_bit(files: Path) -> None:
    text = (files / "aberrated/particles.star").read_text()
    row = next(line for line in text.splitlines() if re.match(r"1\tsimulated", line))
    unused = "\t".join(["2", "nobody", "200", "1.0", "0.2", "9.9", "100", "2", "0", "0", "[]", "[]", "1.2", "0", "0", "1.2"])
    (files / "aberrated/unused.star").write_text(text.replace(row, f"{row}\n{unused}"))
    maps = {}
    for name, table in (("plain", "plain/particles.star"), ("known", "aberrated/particles.star"), ("unused", "aberrated/unused.star")):
        protomer("import", "--star", files / table, "--output", files / f"imported_{name}")
        protomer("reconstruct", "--particles", files / f"imported_{name}", "--output", files / f"map_{name}")
        halves = read_map_record(files / f"map_{name}/volume.h5").half_maps
        maps[name] = halves.a.data + halves.b.data
    np.testing.assert_array_equal(maps["unused"], maps["known"])
    truth = np.array(mrcfile.read(files / "plain/map.mrc"))
    curves = {name: fourier_shell_correlation(volume, truth)[SHELLS] for name, volume in maps.items()}
    print({name: curve.round(2) for name, curve in curves.items()})
    assert curves["known"].mean() > curves["plain"].mean() - 0.02


@pytest.mark.skipif(shutil.which("relion_reconstruct") is None, reason="RELION is not installed")
def test_relion_takes_the_simulated_aberrations_for_what_they_are(files: Path) -> None:
    """relion_reconstruct corrects odd and even phases and magnification by its own reading of the same columns."""
    means = {}
    for name, table in (("plain", "plain/particles.star"), ("known", "aberrated/particles.star"), ("ignored", "aberrated/ignored.star")):
        command = ["relion_reconstruct", "--i", Path(table).name, "--o", str(files / f"{name}.mrc"), "--ctf"]
        subprocess.run(command, cwd=(files / table).parent, check=True, capture_output=True)
        truth = np.array(mrcfile.read(files / Path(table).parent / "map.mrc"))
        means[name] = fourier_shell_correlation(np.array(mrcfile.read(files / f"{name}.mrc")), truth)[SHELLS].mean()
    print(means)
    assert means["known"] > means["plain"] - 0.02
    assert means["ignored"] < means["known"] - 0.1
