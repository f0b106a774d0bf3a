"""A part refined locally in subtracted images has the poses that it has where the rest is taken away on the fly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from protomer.config.settings import Job
from protomer.declarations.local_refine import JOB as LOCAL_REFINE
from protomer.declarations.reconstruct import JOB as RECONSTRUCT
from protomer.declarations.subtract import JOB as SUBTRACT
from protomer.engine.alignment import IDENTITY
from protomer.formats.hdf5 import read_particles, write_map_record, write_particles
from protomer.formats.mrc import write_volume
from protomer.maps.resolution import measure_fsc
from protomer.maps.volumes import Halves, MapRecord, Volume
from protomer.running.job_run import RunOptions, run_job
from protomer.simulation.dataset import SimulatedData, simulate_dataset
from protomer.simulation.draws import SimulationDesign
from protomer.simulation.scatterers import AtomModel
from protomer_kernels.rotations import matrices_from_quaternions, rotation_errors
from reconstructions import as_particles, rebuilt
from two_parts import BOX, PIXEL_A, mask_around, parts

PRIOR = {"rotation_prior": 5, "shift_prior": 2, "max_alignment_resolution": 12}


def moving() -> SimulatedData:
    """Both parts, each turned by 5 degrees rms about each axis and moved by 1 Å."""
    one, _, both = parts()
    model = AtomModel(both.positions_A, both.weights, both.bfactor_A2, (0, len(one.weights)))
    design = SimulationDesign(280, BOX, PIXEL_A, 0.3, seed=4, motion_rotation_rad=np.deg2rad(5.0), motion_shift_A=1.0)
    return simulate_dataset(model, design)


@pytest.fixture(scope="module")
def refined(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """Rotations (n, 3, 3): true ones of the first part, given ones, and what local-refine finds on the fly, from subtracted images, and
    from subtracted images moved to the part's centre."""
    folder, data = tmp_path_factory.mktemp("refined"), moving()
    particles, mask = as_particles(data, folder), mask_around(parts()[0])
    half_maps, together = rebuilt(particles)
    halves = Halves(*(Volume(np.asarray(half, np.float32), PIXEL_A) for half in half_maps))
    fsc = measure_fsc(halves, mask_around(parts()[2]), "known", 0)
    write_particles(folder / "particles.h5", particles)
    write_map_record(folder / "volume.h5", MapRecord(halves, Volume(np.asarray(together, np.float32), PIXEL_A), fsc=fsc))
    write_volume(folder / "mask.mrc", mask)

    def done(job: Job, output: str, particles: str, files: str = "", **settings: Any) -> None:
        maps = {} if job is RECONSTRUCT else {"volume": f"{files}volume.h5", "mask": f"{files}mask.mrc"}
        given = {name: str(folder / file) for name, file in {"particles": particles, **maps}.items()}
        run_job(job, given, settings, RunOptions(folder / output, threads=1))

    done(SUBTRACT, "subtracted", "particles.h5")
    done(LOCAL_REFINE, "after", "subtracted", **PRIOR)
    done(LOCAL_REFINE, "on_the_fly", "particles.h5", subtract_on_the_fly=True, **PRIOR)
    done(SUBTRACT, "moved", "particles.h5", recentre=True)
    done(RECONSTRUCT, "moved_map", "moved")
    (folder / "moved/volume.h5").write_bytes((folder / "moved_map/volume.h5").read_bytes())
    done(LOCAL_REFINE, "moved_after", "moved", "moved/", **PRIOR)
    found = {"truth": data.truth.body_rotation[:, 0], "given": data.truth.rotation}
    found |= {name: read_particles(folder / name / "particles.h5").rotation for name in ("after", "on_the_fly", "moved_after")}
    return {name: matrices_from_quaternions(rotation) for name, rotation in found.items()}


def angle_deg(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.rad2deg(np.linalg.norm(rotation_errors(first, second, IDENTITY), axis=1))


def test_poses_from_subtracted_images_are_those_found_on_the_fly_within_a_fraction_of_their_error(refined: dict[str, np.ndarray]) -> None:
    error = {name: float(np.median(angle_deg(refined["truth"], refined[name]))) for name in ("given", "on_the_fly", "after", "moved_after")}
    apart = {name: float(np.median(angle_deg(refined["on_the_fly"], refined[name]))) for name in ("after", "moved_after")}
    print(error, apart)
    assert error["after"] < 0.7 * error["given"] and error["after"] < error["on_the_fly"] + 0.05 * error["given"]
    assert apart["after"] < 0.5 * error["on_the_fly"]


def test_a_part_in_the_centre_of_its_images_is_refined_as_well(refined: dict[str, np.ndarray]) -> None:
    """Its map is made anew in the new frame; the mask is the one that subtract moved."""
    error = {name: float(np.median(angle_deg(refined["truth"], refined[name]))) for name in ("given", "after", "moved_after")}
    assert abs(error["moved_after"] - error["after"]) < 0.07 * error["given"]
