"""export: particles and maps in the formats of other programs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from protomer.config.job_command import Call
from protomer.config.job_inputs import Inputs
from protomer.declarations.export import ExportSettings
from protomer.errors import InputError
from protomer.formats import hdf5, mrc
from protomer.formats.cs import write_cs_particles
from protomer.formats.star import write_star_particles
from protomer.maps.volumes import MapRecord, Volume


def execute(inputs: Inputs, settings: ExportSettings, call: Call) -> int:
    """Write every file that was asked for, or none where something is wrong with one; 0. Raises InputError and StorageError."""
    wanted = {name: Path(getattr(inputs, name)) for name in ("star", "cs", "mrc") if getattr(inputs, name) is not None}
    _require_sensible(inputs, wanted, settings)
    writers = _writers(inputs, wanted, settings)
    for name, path in wanted.items():
        if call.dry_run:
            print(f"would write {path}")
            continue
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            writers[name](path)
        print("\n".join([f"wrote {path}", *(f"warning: {w.message}" for w in caught)]))
    return 0


def _writers(inputs: Inputs, wanted: Mapping[str, Path], settings: ExportSettings) -> dict[str, Callable[[Path], None]]:
    """What writes each file; everything that is read is read here, before anything is written."""
    writers: dict[str, Callable[[Path], None]] = {}
    folder = Path(settings.project_folder) if settings.project_folder else None
    if "star" in wanted or "cs" in wanted:
        particles = hdf5.read_particles(inputs.particles)
        writers["star"] = lambda path: write_star_particles(path, particles, folder)
        writers["cs"] = lambda path: write_cs_particles(path, particles, folder)
    if "mrc" in wanted:
        volume = choose_volume(hdf5.read_map_record(inputs.volume), settings.map)
        writers["mrc"] = lambda path: mrc.write_volume(path, volume)
    return writers


def choose_volume(record: MapRecord, name: str) -> Volume:
    """One volume of a record by name. Raises InputError where the record has none of that name."""
    volumes: dict[str, Any] = {"map": record.map, "sharpened": record.sharpened, "half_a": record.half_maps.a, "half_b": record.half_maps.b,
                               "refinement_mask": record.refinement_mask, "fsc_mask": record.fsc_mask}
    chosen = volumes[name]
    if chosen is None:
        raise InputError(f"the volume has no {name}", f"one of {', '.join(key for key, value in volumes.items() if value is not None)}",
                         "choose another with --set map=...")
    assert isinstance(chosen, Volume)
    return chosen


def _require_sensible(inputs: Inputs, wanted: Mapping[str, Path], settings: ExportSettings) -> None:
    if not wanted:
        raise InputError("export was told no file to write", "--star FILE, --cs FILE or --mrc FILE", "add one")
    needs_particles = "star" in wanted or "cs" in wanted
    if needs_particles != (inputs.particles is not None) or ("mrc" in wanted) != (inputs.volume is not None):
        names = ", ".join("--" + name for name in wanted)
        raise InputError(f"to write: {names}; from particles {inputs.particles}, volume {inputs.volume}",
                         "--particles with --star or --cs, --volume with --mrc", "add what is missing")
    for path in wanted.values():
        if not path.absolute().parent.is_dir():
            raise InputError(f"the folder {path.absolute().parent} does not exist", "an existing folder for the file", "make it first")
        if path.exists() and not settings.replace:
            raise InputError(f"{path} exists", "a new file", "name another, or allow it with --set replace=true")
