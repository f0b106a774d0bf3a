"""A particle of two separate parts that are seen together and alone, in images with and without noise, for tests of subtraction."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_edt

from protomer.declarations.subtract import JOB
from protomer.formats.hdf5 import read_particles, write_map_record, write_particles
from protomer.formats.mrc import write_volume
from protomer.imaging.images import read_images
from protomer.maps.resolution import measure_fsc
from protomer.maps.volumes import Halves, MapRecord, Volume
from protomer.running.job_run import RunOptions, run_job
from protomer.running.provenance import file_digest
from protomer.simulation.dataset import SimulatedData, Simulator, simulate_dataset
from protomer.simulation.draws import SimulationDesign
from protomer.simulation.optics import optics_of
from protomer.simulation.scatterers import AtomModel
from protomer.symmetry.operator_sets import OperatorSet
from protomer.tables.image_uids import image_uids
from protomer.tables.particles import Particles
from reconstructions import as_particles, rebuilt
from simulated import chain_model

BOX, PIXEL_A = 48, 3.4
PLACE_A = np.array([38.0, 4.0, -3.0])  # of the first part; the second is where C2 takes it


@functools.cache
def parts() -> tuple[AtomModel, AtomModel, AtomModel]:
    """The first part, the second, and both."""
    chain = chain_model(160, 3, size=0.5)
    one = AtomModel(chain.positions_A + PLACE_A, chain.weights, chain.bfactor_A2)
    two = AtomModel(one.positions_A @ np.diag([-1.0, -1.0, 1.0]), chain.weights, chain.bfactor_A2)
    return one, two, AtomModel(np.concatenate([one.positions_A, two.positions_A]), np.tile(chain.weights, 2), chain.bfactor_A2)


def mask_around(model: AtomModel, near_A: float = 7.0, far_A: float = 13.0) -> Volume:
    """1 within near_A of the model's atoms, 0 beyond far_A."""
    away = np.ones((BOX,) * 3)
    x, y, z = np.rint(model.positions_A / PIXEL_A + BOX // 2).astype(int).T
    away[z, y, x] = 0
    distance_A = distance_transform_edt(away) * PIXEL_A
    return Volume(np.clip((far_A - distance_A) / (far_A - near_A), 0.0, 1.0).astype(np.float32), PIXEL_A)


@dataclass(frozen=True)
class Images:
    """Images of both parts, what of them shows the first and the second part, and the map in their grey scale."""

    data: SimulatedData
    first: np.ndarray
    second: np.ndarray

    def particles(self, folder: Path) -> Particles:
        """In folder/images.mrcs, at their true poses, optics as designed."""
        particles, digest = as_particles(self.data, folder), file_digest(folder / "images.mrcs")
        stacks = (replace(particles.stacks[0], digest=digest),)
        uid = image_uids(stacks, particles.stack, particles.stack_index)
        return replace(particles.with_columns(image_uid=uid), optics_groups=(optics_of(self.data.design),), stacks=stacks)


@functools.cache
def images(number: int, snr: float, noise: bool, seed: int = 4, **design: Any) -> Images:
    """snr: also without noise, where it is the grey scale."""
    one, two, both = parts()
    designed = SimulationDesign(number, BOX, PIXEL_A, snr, seed=seed, **design)
    simulator, rows = Simulator((both,), designed), np.arange(number)
    alone = [np.float32(simulator.gain) * Simulator((m,), designed).signal(simulator.truth, rows) for m in (one, two)]
    data = simulate_dataset(both, designed)
    return Images(data if noise else replace(data, images=alone[0] + alone[1]), *alone)


def record_of(half_maps: Halves[np.ndarray]) -> MapRecord:
    """Half maps without an FSC, and their mean."""
    a, b = (np.asarray(half, np.float32) for half in half_maps)
    return MapRecord(Halves(Volume(a, PIXEL_A), Volume(b, PIXEL_A)), Volume(0.5 * (a + b), PIXEL_A))


def with_fsc(record: MapRecord) -> MapRecord:
    """The same with the FSC in a mask around both parts."""
    return replace(record, fsc=measure_fsc(record.half_maps, mask_around(parts()[2]), "known", 0))


def data_set(folder: Path, shown: Images, particles: Particles | None = None) -> Path:
    """particles.h5, volume.h5 (from these images at their poses) and mask.mrc (the first part) in a folder."""
    given = particles or shown.particles(folder)
    write_particles(folder / "particles.h5", given)
    write_map_record(folder / "volume.h5", with_fsc(record_of(rebuilt(given, OperatorSet.identity())[0])))
    write_volume(folder / "mask.mrc", mask_around(parts()[0]))
    return folder


def subtract(folder: Path, output: str, inputs: dict[str, str] | None = None, **settings: Any) -> dict[str, Any]:
    """Run the job in this process on data_set's files; its summary."""
    given = {name: str(folder / file) for name, file in
             {"particles": "particles.h5", "volume": "volume.h5", "mask": "mask.mrc", **(inputs or {})}.items() if file}
    return run_job(JOB, given, settings, RunOptions(folder / output, threads=1))


def subtracted(folder: Path, number: int) -> Path:
    """A folder with noisy images, their half maps, the mask of the first part, and what subtract makes of them in `out`."""
    subtract(data_set(folder, images(number, 0.2, True)), "out")
    return folder


def shown_by(particles: Particles) -> np.ndarray:
    """The images of a table, in its order, as they are refined."""
    return read_images(particles, np.arange(len(particles)), {})


def taken_from(folder: Path, output: str = "out") -> np.ndarray:
    """What the images of folder/particles.h5 have lost."""
    return shown_by(read_particles(folder / "particles.h5")) - shown_by(read_particles(folder / output / "particles.h5"))


def codes(summary: dict[str, Any]) -> set[str]:
    """The codes of its warnings."""
    return {warning["code"] for warning in summary["warnings"]}


def read_summary(folder: Path) -> dict[str, Any]:
    """summary.json."""
    return dict(json.loads((folder / "summary.json").read_text()))
