"""Atoms from PDB and mmCIF files, and where they lie in the box of a map."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from protomer.errors import InputError, SettingsError
from protomer.formats.mrc import read_header

MODEL_ENDINGS = (".pdb", ".ent", ".cif", ".pdb.gz", ".ent.gz", ".cif.gz")
HDF5_ENDINGS = (".h5", ".hdf5")


@dataclass(frozen=True)
class Atoms:
    """a atoms in the order of their file: name of the chain (a,), positions_A (a, 3) float64 [x, y, z], weights (a,) float32."""

    chain: np.ndarray
    positions_A: np.ndarray
    weights: np.ndarray  # atomic numbers

    def of_chains(self, names: str | None) -> Atoms:
        """The atoms of some chains, joined by + or a comma (None: all). Raises SettingsError for one that is not there."""
        if names is None:
            return self
        wanted = names.replace(" ", "").replace(",", "+").split("+")
        unknown = sorted(set(wanted) - set(self.chain))
        if unknown:
            raise SettingsError(f"model_chains {names!r} names chains {', '.join(unknown)}",
                                f"some of the model's chains: {', '.join(dict.fromkeys(self.chain))}", "join chains by +")
        kept = np.isin(self.chain, wanted)
        return Atoms(self.chain[kept], self.positions_A[kept], self.weights[kept])


def read_atoms(path: str | Path) -> Atoms:
    """The first model of a PDB or mmCIF file, gzipped or not, without waters. Raises InputError for a file that holds no atoms."""
    import gemmi

    try:
        structure = gemmi.read_structure(str(path))
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{path} cannot be read as an atomic model: {error}", "a PDB or mmCIF file",
                         "check the path and the format") from error
    structure.setup_entities()
    structure.remove_waters()
    found = [(chain.name, atom) for chain in structure[0] for residue in chain for atom in residue] if len(structure) else []
    if not found:
        raise InputError(f"{path} holds no atoms", "a PDB or mmCIF file with coordinates", "check that the file is the model you mean")
    positions_A = np.array([atom.pos.tolist() for _, atom in found])
    weights = np.array([max(atom.element.atomic_number, 1) for _, atom in found], np.float32)
    return Atoms(np.array([name for name, _ in found]), positions_A, weights)


def placed(atoms: Atoms, origin: str, box: int, voxel_size_A: float, map_path: Path | None) -> Atoms:
    """The atoms with positions from the box centre (voxel box // 2).

    origin: "map", coordinates as they are, on the map as programs that show both lay them (the first voxel at the header's origin, at 0
    for a volume.h5 or where map_path is None); "box", the file's (0, 0, 0) in the box centre; "mass", the centre of mass there.
    """
    if origin == "mass":
        shift_A = -np.average(atoms.positions_A, axis=0, weights=atoms.weights)
    elif origin == "box":
        shift_A = np.zeros(3)
    else:
        first_A = np.zeros(3)
        if map_path is not None and map_path.suffix.lower() not in HDF5_ENDINGS:
            first_A = np.array(read_header(map_path).origin_A)
        shift_A = -first_A - (box // 2) * voxel_size_A
    return Atoms(atoms.chain, atoms.positions_A + shift_A, atoms.weights)


def require_inside(atoms: Atoms, origin: str, box: int, voxel_size_A: float, name: str) -> None:
    """Raise InputError where an atom lies outside the box."""
    index = atoms.positions_A / voxel_size_A + box // 2
    outside = int(((index < 0) | (index > box - 1)).any(axis=1).sum())
    if outside:
        raise InputError(
            f"{outside} of {len(index)} atoms of {name} lie outside the box of {box} voxels of {voxel_size_A:.4g} Å with "
            f"model_origin={origin}",
            "a model that lies in the box",
            "choose another model_origin: map (coordinates as fitted into the map), box (the file's origin in the box centre) or mass (the "
            "centre of mass in the box centre, as simulate places models); or take a larger box")
