"""Maps made from atomic models, shapes or noise: grey 1 inside a shape, electrons per voxel for a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from protomer.config.setting_values import read_numbers
from protomer.errors import InputError, SettingsError
from protomer.maps.volumes import Volume
from protomer.randomness import generator
from protomer.simulation.atom_files import placed, read_atoms, require_inside
from protomer.simulation.scatterers import AtomModel
from protomer_kernels.atoms import real_volume
from protomer_kernels.masks import raised_cosine

BFACTOR_A2 = 60.0  # of all atoms, as simulate has it
EDGE_PX = 2.0
FORMS = "model, sphere:DIAMETER, shell:OUTER,INNER, ellipsoid:X,Y,Z or noise"


def model_map(path: Path, origin: str, box: int, voxel_size_A: float, map_path: Path | None) -> Volume:
    """The map of an atomic model, placed as atom_files.placed says. Raises InputError where atoms lie outside the box."""
    atoms = placed(read_atoms(path), origin, box, voxel_size_A, map_path)
    require_inside(atoms, origin, box, voxel_size_A, path.name)
    model = AtomModel(atoms.positions_A, atoms.weights, BFACTOR_A2)
    return Volume(real_volume(model.volume_ft(box, voxel_size_A), box).astype(np.float32), voxel_size_A)


def shape_map(text: str, box: int, voxel_size_A: float, seed: int) -> Volume:
    """A sphere, shell or ellipsoid with a soft edge, or white noise of standard deviation 1. Raises SettingsError, InputError."""
    kind, _, numbers = text.partition(":")
    kind = kind.strip().lower()
    if kind == "noise" and not numbers:
        noise = generator(seed, 0, "volume/create noise").standard_normal((box,) * 3, dtype=np.float32)
        return Volume(noise, voxel_size_A)
    counts = {"sphere": 1, "shell": 2, "ellipsoid": 3}
    if kind not in counts:
        raise SettingsError(f"create {text!r}", f"one of {FORMS}", "write for example create=sphere:120")
    diameters_A = read_numbers("create", numbers, (counts[kind],), "A")
    widest_A = max(diameters_A)
    if min(diameters_A) <= 0 or (kind == "shell" and diameters_A[1] >= diameters_A[0]):
        raise SettingsError(f"create {text!r}", "diameters above 0, the outer one of a shell first", f"write one of {FORMS}")
    if widest_A > box * voxel_size_A:
        raise InputError(f"a {kind} of {widest_A:g} Å in a box of {box * voxel_size_A:.4g} Å", "a shape that the box holds",
                         "choose a larger box or voxel_size")
    axis = (np.arange(box) - box // 2) * voxel_size_A
    z, y, x = axis[:, None, None], axis[:, None], axis
    if kind == "ellipsoid":
        a, b, c = (d / 2 for d in diameters_A)
        level = np.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2)
        slope = np.sqrt((x / a**2) ** 2 + (y / b**2) ** 2 + (z / c**2) ** 2)
        outside_A = np.where(level > 1, level * (level - 1) / np.maximum(slope, 1e-12), 0.0)  # to first order the distance to its surface
        return Volume(raised_cosine((outside_A / voxel_size_A).astype(np.float32), EDGE_PX), voxel_size_A)
    radius_A = np.sqrt(x * x + y * y + z * z)
    outside_A = radius_A - diameters_A[0] / 2
    if kind == "shell":
        outside_A = np.maximum(outside_A, diameters_A[1] / 2 - radius_A)
    return Volume(raised_cosine((outside_A / voxel_size_A).astype(np.float32), EDGE_PX), voxel_size_A)
