"""Decoys: volumes made from a word, for what is in the images beside the particle. A class that starts from one draws junk off."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from protomer.declarations.classify import DECOYS
from protomer.errors import InputError, SettingsError
from protomer.formats.hdf5 import read_any_volume
from protomer.maps.volume_creation import shape_map
from protomer.randomness import generator
from protomer.refinement.start import resampled
from protomer_kernels.fourier import phase_randomise
from protomer_kernels.masks import sphere_mask

FORMS = "sphere:DIAMETER, shell:OUTER,INNER, ellipsoid:X,Y,Z (in Å), noise, or phase-randomised:VOLUME"
FIRST_RANDOM_SHELL = 1  # beyond the mean
MOST_POWER, EDGE_PX = 0.95, 3.0


def decoy_map(word: str, box: int, voxel_size_A: float, seed: int) -> np.ndarray:
    """The map (D, D, D) float32 of a decoy, in a grey scale of its own. Raises InputError, SettingsError."""
    kind, _, rest = word.partition(":")
    if kind.strip().lower() == DECOYS[-1]:
        path = Path(rest.strip()).expanduser()
        path = path / "volume.h5" if path.is_dir() else path
        if not rest.strip() or not path.is_file():
            raise InputError(f"--volume {word}: there is no such file" if rest.strip() else f"--volume {word} without a volume",
                             "phase-randomised: and the path of a volume", f"write a path, or one of {FORMS}")
        data = resampled(read_any_volume(path), box, voxel_size_A)
        random = phase_randomise(data, FIRST_RANDOM_SHELL, generator(seed, 0, f"decoy {kind}"))
        return np.asarray(random * sphere_mask(box, extent_px(data), EDGE_PX), np.float32)
    try:
        return shape_map(word, box, voxel_size_A, seed).data
    except (InputError, SettingsError) as error:
        raise InputError(f"--volume {word}: this decoy cannot be made ({error.found})", error.expected.replace("model, ", ""),
                         f"write one of {FORMS}") from error


def extent_px(data: np.ndarray) -> float:
    """Radius of the ball about the box centre that holds most of a map's (D, D, D) power."""
    axis = np.arange(len(data)) - len(data) // 2
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).ravel()
    order = np.argsort(radius, kind="stable")
    held = np.cumsum((data.ravel()[order].astype(np.float64) - float(np.median(data))) ** 2)
    return float(radius[order][np.searchsorted(held, MOST_POWER * held[-1])])


def matched_grey(decoy: np.ndarray, volumes: list[np.ndarray]) -> np.ndarray:
    """The decoy with as much power (without its mean) as the volumes have in the mean, all (D, D, D)."""
    wanted = float(np.mean([volume.std(dtype=np.float64) for volume in volumes]))
    return np.asarray(decoy * np.float32(wanted / max(float(decoy.std(dtype=np.float64)), 1e-30)), np.float32)


