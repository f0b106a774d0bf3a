"""What ctf-refine finds, exported and read by RELION: its map and ours from the same particles."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from protomer.engine.maximisation import solid_sphere
from protomer.formats.hdf5 import read_particles, write_particles
from protomer.formats.mrc import read_volume
from protomer.formats.star import read_star_particles, write_star_particles
from protomer.simulation.dataset import SimulatedData
from protomer.simulation.optics import stretching
from protomer.tables.particles import Particles
from protomer_kernels.shells import fourier_shell_correlation
from reconstructions import rebuilt
from simulated import chain_dataset
from test_ctf_refine import BOX, DEFOCUS_SD_A, PIXEL_A, planted, refine

SHELLS = slice(3, 27)
WRONG_CS_A = 2.2e7
STRANGE = {"beam_tilt_rad": (9e-4, -6e-4), "odd_zernike": (0.0, 0.0, 40.0, 0.0, 0.0, -30.0),
           "even_zernike": (0.0, 0.0, 0.0, 0.0, 90.0, 0.0, 0.0, 0.0, -70.0), "magnification": stretching(2.0, 0.4)}
EVERYTHING = {"defocus": True, "beam_tilt": True, "trefoil": True, "tetrafoil": True, "spherical_aberration": True, "magnification": True,
              "rounds": 2}


def curve_between(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    mask = solid_sphere(BOX, 0.42)
    return fourier_shell_correlation(first * mask, second * mask)[SHELLS]


def relions_map(folder: Path, name: str, particles: Particles) -> np.ndarray:
    write_star_particles(folder / f"{name}.star", particles)
    command = ["relion_reconstruct", "--i", f"{name}.star", "--o", f"{name}.mrc", "--ctf"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return read_volume(folder / f"{name}.mrc").data


def strange_data(folder: Path) -> tuple[SimulatedData, Particles]:
    """Images of a microscope with every aberration, and particles that know of none, with wrong defoci and a wrong Cs, in a folder."""
    data = chain_dataset(300, BOX, PIXEL_A, 0.3, seed=12, **STRANGE)
    particles, _ = planted(data, folder, DEFOCUS_SD_A)
    groups = tuple(replace(group, spherical_aberration_A=WRONG_CS_A) for group in particles.optics_groups)
    particles = replace(particles, optics_groups=groups)
    write_particles(folder / "particles.h5", particles)
    return data, read_particles(folder / "particles.h5")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("relion_reconstruct") is None, reason="RELION is not installed")
def test_relion_makes_our_map_from_what_was_refined_and_exported(tmp_path: Path) -> None:
    data, before = strange_data(tmp_path)
    after, _ = refine(tmp_path, **EVERYTHING)
    back = read_star_particles(_exported(tmp_path, after)).optics_groups[0]
    np.testing.assert_allclose(back.even_zernike, after.optics_groups[0].even_zernike, rtol=1e-5)
    truth, ours = data.volume.data, rebuilt(after)[1]
    theirs, unaware = relions_map(tmp_path, "after", after), relions_map(tmp_path, "before", before)
    curves = {"ours to theirs": curve_between(ours, theirs), "ours to the truth": curve_between(ours, truth),
              "theirs": curve_between(theirs, truth), "theirs, before": curve_between(unaware, truth)}
    print({name: curve.round(2) for name, curve in curves.items()})
    assert curves["ours to theirs"].min() > 0.85
    assert np.abs(curves["theirs"] - curves["ours to the truth"]).max() < 0.1
    assert curves["theirs"][12:].mean() > curves["theirs, before"][12:].mean() + 0.1


def _exported(folder: Path, particles: Particles) -> Path:
    write_star_particles(folder / "out.star", particles)
    return folder / "out.star"
