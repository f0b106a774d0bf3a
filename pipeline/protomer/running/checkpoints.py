"""checkpoint.h5: what a job needs to go on after a signal or a kill, bound to the settings and inputs it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from protomer.errors import InputError
from protomer.running.output import writing_atomically
from protomer.running.ranks import Team

CHECKPOINT_NAME, CHECKPOINTS = "checkpoint.h5", "checkpoint*.h5"  # of a run, and with those of its parts


class Checkpoint:
    """The checkpoint of one run. `identity` is the digest of the run's settings and inputs."""

    def __init__(self, path: Path, identity: str, team: Team) -> None:
        self.path, self._identity, self._team = path, identity, team

    def beside(self, name: str) -> Checkpoint:
        """A second checkpoint of the same run, in another file of its folder, `checkpoint*.h5`; whoever asks for it removes it."""
        return Checkpoint(self.path.with_name(name), self._identity, self._team)

    def save(self, state: Mapping[str, Any]) -> None:
        """Write a state of arrays, whole numbers, floats, switches and strings, replacing the last one at once.

        Rank 0 writes; on other ranks nothing happens. Raises StorageError where the disk refuses.
        """
        if self._team.is_first:
            with writing_atomically(self.path) as temporary:
                write_state(temporary, state, self._identity)

    def load(self) -> dict[str, Any] | None:
        """The last saved state, on every rank (all ranks must call this), or None. InputError where it belongs to another run."""
        state: dict[str, Any] | None = self._team.on_first(lambda: read_state(self.path, self._identity) if self.path.exists() else None)
        return state

    def remove(self) -> None:
        """Remove the checkpoint of a run that is done."""
        if self._team.is_first:
            self.path.unlink(missing_ok=True)

    @property
    def is_any_left(self) -> bool:
        """Whether there is something to go on from: this checkpoint, or one beside it."""
        return any(self.path.parent.glob(CHECKPOINTS))

    @property
    def identity(self) -> str:
        """The digest of the run's settings and inputs, for notes of pieces of work that are done."""
        return self._identity


def write_state(path: Path, state: Mapping[str, Any], identity: str) -> None:
    """Write a state to an HDF5 file: arrays as datasets, the rest as attributes."""
    import h5py
    import numpy as np

    from protomer.formats.hdf5_files import new_hdf5_file
    with new_hdf5_file(path) as file:
        file.attrs["identity"] = identity
        arrays, scalars = file.create_group("arrays"), file.create_group("scalars")
        for name, value in state.items():
            if isinstance(value, np.ndarray):
                kind = h5py.string_dtype() if value.dtype.hasobject or value.dtype.kind == "U" else value.dtype
                arrays.create_dataset(name, data=value.astype(object) if value.dtype.kind == "U" else value, dtype=kind)
            elif isinstance(value, (bool, int, float, str, np.generic)):
                scalars.attrs[name] = value
            else:
                raise TypeError(f"{name}: a checkpoint holds arrays, numbers, switches and strings; found {type(value).__name__}")


def read_state(path: Path, identity: str) -> dict[str, Any]:
    """The state in an HDF5 file; InputError where it cannot be read or belongs to other settings or inputs."""
    import h5py
    try:
        with h5py.File(path, "r") as file:
            if file.attrs["identity"] != identity:
                raise InputError(f"{path} was written by a run with other settings or inputs", "the checkpoint of this run",
                                 "give the settings of that run, or --overwrite to start again")
            state = {name: data.asstr()[()] if h5py.check_string_dtype(data.dtype) else data[()] for name, data in file["arrays"].items()}
            state.update({name: value.item() if hasattr(value, "item") else value for name, value in file["scalars"].attrs.items()})
            return state
    except (OSError, KeyError) as error:
        raise InputError(f"{path} cannot be read ({error})", "a checkpoint of this run", "give --overwrite to start again") from error
