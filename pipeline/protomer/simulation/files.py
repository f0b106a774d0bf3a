"""Files of a simulated data set: the stack, its STAR file as a microscope's software would leave it, and the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import h5py
import mrcfile
import numpy as np
import pandas
import starfile
from scipy.spatial.transform import Rotation

from protomer.formats.hdf5_files import new_hdf5_file
from protomer.randomness import combine, normal
from protomer.running.output import reserve_space
from protomer.simulation.draws import IMAGES_PER_MICROGRAPH, SimulationDesign, Truth
from protomer.simulation.filaments import filament_columns

TRUTH_COLUMNS = {  # dataset of truth.h5 -> (unit, description)
    "rotation": ("", "unit quaternion, scalar last: image axes to map axes"),
    "shift_A": ("angstrom", "x, y: added to the image to centre the particle"),
    "body_rotation": ("", "rotation of each subunit, as rotation"),
    "body_shift_A": ("angstrom", "shift of each subunit in the map's frame, as shift_A"),
    "defocus_u_A": ("angstrom", "true defocus along the first principal direction"),
    "defocus_v_A": ("angstrom", "true defocus along the second principal direction"),
    "defocus_angle_rad": ("radian", "angle of the first principal direction from image x"),
    "stated_defocus_u_A": ("angstrom", "defocus that particles.star states"),
    "stated_defocus_v_A": ("angstrom", "defocus that particles.star states"),
    "bfactor_A2": ("angstrom^2", "envelope exp(-B s^2 / 4) that particles.star does not state"),
    "contrast": ("", "factor of the signal"),
    "junk": ("", "0 particle, 1 nothing but noise, 2 debris"),
    "class_number": ("", "class, from 1"),
}


def write_blocks(path: Path, blocks: Iterable[tuple[int, np.ndarray]], shape: tuple[int, int, int], pixel_size_A: float,
                 advance: Callable[[int], None]) -> None:
    """Write a float32 stack of `shape` (n, box, box) block by block; `advance` is told the number of images after each."""
    with mrcfile.new_mmap(path, shape, mrc_mode=2, overwrite=True) as handle:
        reserve_space(path)
        handle.set_image_stack()
        handle.voxel_size = pixel_size_A
        handle.header.label[:] = b""  # the library's own label holds the time, which would change the bytes
        handle.header.label[0] = b"Protomer"
        handle.header.nlabl = 1
        low, high, total, squares = np.inf, -np.inf, 0.0, 0.0
        for first, images in blocks:
            handle.data[first : first + len(images)] = images
            low, high = min(low, float(images.min())), max(high, float(images.max()))
            total, squares = total + images.sum(dtype=np.float64), squares + np.square(images, dtype=np.float64).sum()
            advance(len(images))
        mean = total / np.prod(shape)
        handle.header.dmin, handle.header.dmax, handle.header.dmean = low, high, mean
        handle.header.rms = np.sqrt(max(squares / np.prod(shape) - mean**2, 0.0))


def star_tables(truth: Truth, design: SimulationDesign, poses: tuple[np.ndarray, np.ndarray] | None, is_truth: bool) -> dict[str, Any]:
    """Tables of a RELION 3.1 STAR file, optics and particles: the truth, or what is stated.

    poses: rotations (n, 4) and shifts (n, 2) in angstrom, or None for a file without poses.
    """
    optics = pandas.DataFrame({
        "rlnOpticsGroup": [1], "rlnOpticsGroupName": ["simulated"], "rlnVoltage": [design.voltage_V / 1e3],
        "rlnSphericalAberration": [design.spherical_aberration_A / 1e7], "rlnAmplitudeContrast": [design.amplitude_contrast],
        "rlnImagePixelSize": [design.pixel_size_A], "rlnImageSize": [design.box], "rlnImageDimensionality": [2], **_aberrations(design)})
    number = len(truth)
    columns: dict[str, Any] = {
        "rlnImageName": [f"{i + 1:06d}@particles.mrcs" for i in range(number)],
        "rlnMicrographName": [f"micrograph_{i // IMAGES_PER_MICROGRAPH + 1:05d}.mrc" for i in range(number)],
        "rlnOpticsGroup": np.ones(number, int),
        "rlnDefocusU": truth.defocus_u_A if is_truth else truth.stated_defocus_u_A,
        "rlnDefocusV": truth.defocus_v_A if is_truth else truth.stated_defocus_v_A,
        "rlnDefocusAngle": np.rad2deg(truth.defocus_angle_rad), "rlnPhaseShift": np.zeros(number)}
    if poses is not None:
        angles = Rotation.from_quat(poses[0]).as_euler("ZYZ", degrees=True)
        columns |= {"rlnAngleRot": angles[:, 0], "rlnAngleTilt": angles[:, 1], "rlnAnglePsi": angles[:, 2],
                    "rlnOriginXAngst": poses[1][:, 0], "rlnOriginYAngst": poses[1][:, 1]}
    if design.filament is not None:
        columns |= filament_columns(design.filament, truth.rotation, design.seed)
    if is_truth:
        columns |= {"rlnClassNumber": truth.class_number, "rlnCtfBfactor": truth.bfactor_A2, "rlnCtfScalefactor": truth.contrast,
                    "protomerJunk": truth.junk.astype(int)}
    return {"optics": optics, "particles": pandas.DataFrame(columns)}


def _aberrations(design: SimulationDesign) -> dict[str, list[Any]]:
    """The columns of the optics table that say what aberrations there are; none where there are none."""
    columns: dict[str, list[Any]] = {}
    if any(design.beam_tilt_rad):
        columns |= {f"rlnBeamTilt{axis}": [tilt * 1e3] for axis, tilt in zip("XY", design.beam_tilt_rad, strict=True)}
    for tag, values in (("rlnOddZernike", design.odd_zernike), ("rlnEvenZernike", design.even_zernike)):
        if any(values):
            columns[tag] = ["[" + ",".join(f"{value:.10g}" for value in values) + "]"]
    if design.magnification != (1.0, 0.0, 0.0, 1.0):
        columns |= {f"rlnMagMat{place}": [value] for place, value in zip(("00", "01", "10", "11"), design.magnification, strict=True)}
    return columns


def write_star(path: Path, tables: dict[str, Any]) -> None:
    """Write STAR tables, numbers to 10 digits; the same tables give the same bytes."""
    text = starfile.to_string(tables, float_format="%.10g")
    path.write_text("".join(line for line in text.splitlines(keepends=True) if not line.startswith("#")), encoding="utf-8")


def perturbed_poses(truth: Truth, seed: int, rotation_rad: float, shift_A: float) -> tuple[np.ndarray, np.ndarray]:
    """True poses disturbed by Gaussian errors, of these standard deviations about and along each axis: (n, 4) and (n, 2)."""
    keys = np.stack([combine(np.arange(len(truth), dtype=np.uint64), axis) for axis in range(5)], axis=1)
    error = normal(seed, keys, "simulate/perturbation")
    rotation = Rotation.from_rotvec(rotation_rad * error[:, :3]) * Rotation.from_quat(truth.rotation)
    return rotation.as_quat(), truth.shift_A + shift_A * error[:, 3:]


def write_truth(path: Path, truth: Truth, design: SimulationDesign) -> None:
    """Write truth.h5: one dataset per column with its unit and description, the design as attributes."""
    with new_hdf5_file(path) as handle:
        for name, (unit, description) in TRUTH_COLUMNS.items():
            dataset = handle.create_dataset(name, data=getattr(truth, name), track_times=False)
            dataset.attrs["units"], dataset.attrs["description"] = unit, description
        filament = {} if design.filament is None else {f"filament_{name}": value for name, value in vars(design.filament).items()}
        for name, value in (vars(design) | filament).items():
            if name != "filament":
                handle.attrs[name] = value


def read_truth(path: Path) -> Truth:
    """Read truth.h5 again."""
    with h5py.File(path, "r") as handle:
        return Truth(**{name: handle[name][()] for name in TRUTH_COLUMNS})
