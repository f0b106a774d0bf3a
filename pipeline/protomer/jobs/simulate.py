"""simulate: particles with CTF, noise and known truth, from an atomic model or a map."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import fft
from scipy.spatial.transform import Rotation

from protomer.declarations.simulate import SimulateSettings
from protomer.errors import InputError, SettingsError
from protomer.formats.hdf5 import read_any_volume
from protomer.formats.mrc import write_volume
from protomer.maps.rigid_motion import RigidMotion, move_volume
from protomer.maps.volumes import Volume
from protomer.randomness import generator
from protomer.running.job_run import Inputs, JobRun, Plan
from protomer.running.provenance import file_digest
from protomer.simulation.dataset import BLOCK, Simulator
from protomer.simulation.draws import PARTICLE, SimulationDesign, Truth
from protomer.simulation.filaments import FilamentDesign
from protomer.simulation.files import perturbed_poses, star_tables, write_blocks, write_star, write_truth
from protomer.simulation.optics import stretching
from protomer.simulation.report import simulation_report
from protomer.simulation.scatterers import MapModel, Scatterer, read_atom_model, with_symmetry
from protomer.simulation.shipped_models import is_shipped, shipped_model, shipped_names
from protomer.symmetry.operator_sets import operators_of
from protomer_kernels.fourier import low_pass

DEFAULT_MODEL = shipped_model("1y1v")
DEFAULT_BFACTOR_A2 = 60.0
REALISTIC_JUNK = 0.1
MODEL_ENDINGS = (".pdb", ".ent", ".cif", ".pdb.gz", ".ent.gz", ".cif.gz")
START_EDGE_SHELLS = 2.0
SIGNS = {"none": 0, "+1": 1, "-1": -1}
LAYERS = 12  # of atoms, on an Ewald sphere
SECONDS_PER_ATOM_AND_IMAGE, SECONDS_PER_PIXEL = 6e-8, 4e-8  # measured on one core


def run(inputs: Inputs, settings: SimulateSettings, job: JobRun) -> dict[str, Any]:
    """Simulate, block by block, and write the images, their STAR file, the truth and a map to start from."""
    with fft.set_workers(job.threads):
        return _simulate(load_scatterers(inputs, settings), inputs, with_order(settings), job)


def _simulate(scatterers: tuple[Scatterer, ...], inputs: Inputs, settings: SimulateSettings, job: JobRun) -> dict[str, Any]:
    simulator = Simulator(scatterers, design_of(settings))
    design, truth = simulator.design, simulator.truth
    volume = simulator.volume()
    with job.progress("simulating", len(truth)) as line, job.output.writing("particles.mrcs") as path:

        def advance(images: int) -> None:
            line.advance(images)
            job.check_stop()

        write_blocks(path, simulator.blocks(), (design.number, design.box, design.box), design.pixel_size_A, advance)
    for name, is_truth, poses in (("particles.star", False, _stated_poses(truth, settings)),
                                  ("truth.star", True, (truth.rotation, truth.shift_A))):
        with job.output.writing(name) as path:
            write_star(path, star_tables(truth, design, poses, is_truth))
    with job.output.writing("truth.h5") as path:
        write_truth(path, truth, design)
    start = _start_map(volume, settings)
    _write_maps(job, simulator, volume, start)
    job.output.write_text("report.html", simulation_report(simulator, volume, start, list(job.events.warnings)))
    return {"images": len(truth), "box": design.box, "pixel_size_A": design.pixel_size_A, "snr": design.snr, "gain": simulator.gain,
            "junk": int((truth.junk != PARTICLE).sum()),
            "classes": np.bincount(truth.class_number, minlength=len(scatterers) + 1)[1:].tolist(),
            "models": {path.name: file_digest(path) for path in particle_paths(inputs, settings)}}


def plan(inputs: Inputs, settings: SimulateSettings, ranks: int, threads: int) -> Plan:
    """Memory for one block and the doubled grid of the map; disk for the stack; time from measured rates."""
    scatterer, box = load_scatterers(inputs, settings)[0], settings.box
    atoms = len(getattr(scatterer, "weights", ()))
    block_bytes = BLOCK * box * box * 4 * 16
    map_bytes = 8 * box**3 * 4 * 2
    own_bytes = 8 * scatterer.volume.box**3 * 8 if isinstance(scatterer, MapModel) else atoms * 100
    layers = LAYERS if SIGNS[settings.ewald_sign] else 1
    per_image = layers * atoms * SECONDS_PER_ATOM_AND_IMAGE + box * box * SECONDS_PER_PIXEL * (1 if atoms else 15)
    return Plan(memory_bytes=300_000_000 + block_bytes + map_bytes + own_bytes,
                disk_bytes=settings.number * (box * box * 4 + 600) + 2 * box**3 * 4, seconds=5 + settings.number * per_image / threads)


def with_order(settings: SimulateSettings) -> SimulateSettings:
    """Settings in which filaments that are imaged have as many subunits as run through the images. Raises SettingsError."""
    if settings.filament_segments is None or settings.helical_order is not None:
        return settings
    filament = filament_of(settings)
    assert filament is not None
    return replace(settings, helical_order=filament.copies(settings.box, settings.pixel_size))


def filament_of(settings: SimulateSettings) -> FilamentDesign | None:
    """How filaments lie in the images; None where single particles are imaged. Raises SettingsError."""
    if settings.filament_segments is None:
        return None
    if settings.helical_twist is None or settings.helical_rise is None or not settings.helical_rise > 0:
        raise SettingsError(f"filament_segments = {settings.filament_segments} without a helix",
                            "helical_twist and helical_rise, a rise above 0", "give both, or leave filament_segments out")
    return FilamentDesign(float(np.deg2rad(settings.helical_twist)), settings.helical_rise, settings.filament_segments,
                          settings.segment_step, float(np.deg2rad(settings.tilt_spread)), float(np.deg2rad(settings.prior_error)))


def design_of(settings: SimulateSettings) -> SimulationDesign:
    """The settings in the units used inside."""
    trefoil, tetrafoil = (_pair(name, getattr(settings, name)) for name in ("trefoil", "tetrafoil"))
    tilt_mrad = _pair("beam_tilt", settings.beam_tilt)
    junk = (REALISTIC_JUNK if settings.realistic else 0.0) if settings.junk is None else settings.junk
    return SimulationDesign(
        number=settings.number, box=settings.box, pixel_size_A=settings.pixel_size, snr=settings.snr, seed=settings.seed,
        defocus_min_A=settings.defocus_min, defocus_max_A=settings.defocus_max, astigmatism_A=settings.astigmatism,
        voltage_V=settings.voltage * 1e3, spherical_aberration_A=settings.spherical_aberration * 1e7,
        amplitude_contrast=settings.amplitude_contrast, max_shift_A=settings.max_shift, realistic=settings.realistic, junk=junk,
        motion_rotation_rad=float(np.deg2rad(settings.motion_rotation)), motion_shift_A=settings.motion_shift,
        second_fraction=settings.second_fraction, beam_tilt_rad=(tilt_mrad[0] * 1e-3, tilt_mrad[1] * 1e-3),
        odd_zernike=(0.0, 0.0, trefoil[0], 0.0, 0.0, trefoil[1]) if any(trefoil) else (),
        even_zernike=(0.0,) * 4 + (tetrafoil[0], 0.0, 0.0, 0.0, tetrafoil[1]) if any(tetrafoil) else (),
        magnification=stretching(settings.magnification, float(np.deg2rad(settings.magnification_angle))),
        ewald_sign=SIGNS[settings.ewald_sign],
        filament=filament_of(settings))


def _pair(name: str, text: str) -> tuple[float, float]:
    """Two numbers with a comma between them. Raises SettingsError."""
    try:
        x, y = (float(part) for part in text.split(","))
        if np.isfinite(x) and np.isfinite(y):
            return x, y
    except ValueError:
        pass
    raise SettingsError(f"{name} {text!r}", "two numbers with a comma between them", f"write {name}=0.5,-0.2")


def load_scatterers(inputs: Inputs, settings: SimulateSettings) -> tuple[Scatterer, ...]:
    """The particles of class 1 and, if there is one, 2. Raises InputError and SettingsError where inputs and settings contradict."""
    return tuple(_load(path, inputs.symmetry, settings) for path in particle_paths(inputs, settings))


def particle_paths(inputs: Inputs, settings: SimulateSettings) -> list[Path]:
    """The files of the particles of class 1 and, if there is one, 2. Raises InputError."""
    if inputs.model is not None and inputs.volume is not None:
        raise InputError("--model and --volume were both given", "one of them", "leave one out; second_model names a second particle")
    paths = [inputs.model or inputs.volume or DEFAULT_MODEL]
    if settings.second_model is not None:
        second = Path(settings.second_model)
        if not second.is_file() and not is_shipped(settings.second_model):
            raise InputError(f"second_model {second}: there is no such file", f"a model, a map, or one of {', '.join(shipped_names())}",
                             "check the path")
        paths.append(second if second.is_file() else shipped_model(settings.second_model))
    return paths


def _load(path: Path, symmetry: str, settings: SimulateSettings) -> Scatterer:
    moves = settings.motion_rotation > 0 or settings.motion_shift > 0
    settings = with_order(settings)
    group = operators_of(symmetry, "relion", settings)
    if not path.name.lower().endswith(MODEL_ENDINGS):
        if moves or settings.subunits is not None or len(group) > 1:
            raise SettingsError(f"subunit motion or the symmetry {group.name} for the map {path.name}",
                                "an atomic model, whose parts can be told apart",
                                "give --model, or leave motion, subunits and helix unset and --symmetry C1")
        return MapModel(read_any_volume(path), settings.bfactor or 0.0)
    copied = len(group) > 1
    if copied and settings.subunits is not None:
        raise SettingsError(f"subunits {settings.subunits!r} and the symmetry {group.name}",
                            "one of them: every symmetry copy moves as one body", "leave subunits unset")
    subunits = settings.subunits or ("each" if moves and not copied else None)
    bfactor_A2 = DEFAULT_BFACTOR_A2 if settings.bfactor is None else settings.bfactor
    model = read_atom_model(path, bfactor_A2, subunits, settings.model_axis == "file")
    if not copied:
        return model
    copies = with_symmetry(model, group.rotations, settings.symmetry_radius, group.translations_A)
    return copies if moves else replace(copies, body_starts=(0,))


def _stated_poses(truth: Truth, settings: SimulateSettings) -> tuple[np.ndarray, np.ndarray] | None:
    if settings.poses == "none":
        return None
    if settings.poses == "true":
        return truth.rotation, truth.shift_A
    return perturbed_poses(truth, settings.seed, float(np.deg2rad(settings.perturb_rotation)), settings.perturb_shift)


def _start_map(volume: Volume, settings: SimulateSettings) -> Volume:
    """The truth, blurred, and turned and moved where asked."""
    shells = volume.box * volume.voxel_size_A / settings.start_low_pass
    start = Volume(low_pass(volume.data, shells, START_EDGE_SHELLS), volume.voxel_size_A)
    if settings.start_turn == 0 and settings.start_shift == 0:
        return start
    axis, direction = generator(settings.seed, 0, "start map").normal(size=(2, 3))
    across = axis * (1.0, 1.0, 0.0)
    turn = Rotation.from_rotvec(np.deg2rad(settings.start_turn) * across / np.linalg.norm(across)).as_matrix()
    return move_volume(start, RigidMotion(turn, settings.start_shift * direction / np.linalg.norm(direction)))


def _write_maps(job: JobRun, simulator: Simulator, volume: Volume, start: Volume) -> None:
    """The truth of each class, and a blurred map to start from."""
    maps = {"map.mrc": volume, "start.mrc": start}
    for class_number in range(2, len(simulator.scatterers) + 1):
        maps[f"class_{class_number}/map.mrc"] = simulator.volume(class_number)
    for name, each in maps.items():
        with job.output.writing(name) as path:
            write_volume(path, each)
