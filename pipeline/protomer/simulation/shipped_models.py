"""Atomic models that come with Protomer, by name: see models/README.md."""

from __future__ import annotations

from pathlib import Path

from protomer.errors import InputError

_FOLDER, _ENDING = Path(__file__).parent.parent / "models", ".cif.gz"


def shipped_names() -> tuple[str, ...]:
    """The names of the models, PDB codes in lower case."""
    return tuple(sorted(path.name.removesuffix(_ENDING) for path in _FOLDER.glob(f"*{_ENDING}")))


def is_shipped(name: str) -> bool:
    """Whether a model of that name comes along; case does not matter."""
    return name.lower() in shipped_names()


def shipped_model(name: str) -> Path:
    """The file of a model. Raises InputError where none of that name comes along."""
    if not is_shipped(name):
        raise InputError(f"no model {name!r} comes with Protomer", f"one of {', '.join(shipped_names())}", "name one of these, or a file")
    return _FOLDER / f"{name.lower()}{_ENDING}"
