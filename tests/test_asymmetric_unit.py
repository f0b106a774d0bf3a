"""One asymmetric unit: its copies cover the map and share nothing, and it follows a molecule where there is one to follow."""

from __future__ import annotations

import functools
from pathlib import Path

import gemmi
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from protomer.errors import SettingsError
from protomer.formats.mrc import read_volume
from protomer.maps.mask_rule import find_support
from protomer.maps.volumes import Volume
from protomer.simulation.atom_files import placed, read_atoms
from protomer.simulation.scatterers import AtomModel
from protomer.simulation.shipped_models import shipped_model
from protomer.symmetry.asymmetric_unit import Unit, find_unit, made_symmetric
from protomer.symmetry.point_groups import operators
from protomer_kernels.atoms import real_volume
from protomer_kernels.fourier import pad_volume
from protomer_kernels.masks import dilate
from symmetric_maps import map_of, with_noise


def copies_of(voxels: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The unit under each operator, (g, D, D, D) bool: an oracle that turns the picture itself, with SciPy."""
    centre = np.full(3, len(voxels) // 2, float)
    turned = []
    for operator in group:
        matrix = operator.T[::-1, ::-1]  # from the new picture to the old, of [z, y, x]
        turned.append(ndimage.affine_transform(voxels.astype(np.float32), matrix, centre - matrix @ centre, order=1) >= 0.5)
    return np.array(turned)


@functools.cache
def unit_of(group: str, method: str, noise: float = 0.0) -> tuple[Unit, np.ndarray]:
    volume = map_of(group)
    volume = with_noise(volume, noise, 1) if noise else volume
    support = find_support(volume)
    return find_unit(volume, support.voxels, operators(group), method, support.low_pass_A), support.voxels


@pytest.mark.parametrize("method", ["watershed", "wedge"])
@pytest.mark.parametrize(("group", "noise"), [("C2", 0.0), ("C2", 0.15), ("C3", 0.0), ("C5", 0.1), ("D2", 0.0), ("D3", 0.1), ("T", 0.0),
                                              ("O", 0.0)])
def test_every_voxel_of_the_map_is_in_one_copy_of_the_unit_and_no_other(group: str, noise: float, method: str) -> None:
    unit, support = unit_of(group, method, noise)
    group_operators, box = operators(group), len(support)
    points = np.argwhere(support)[:, ::-1] - float(box // 2)
    holding = np.sum([unit.contains(points @ operator) for operator in group_operators], axis=0)
    assert holding.min() == 1 and (holding > 1).mean() < 0.05, "each voxel in one copy; in two only where it is as near to both"
    whole = made_symmetric(support, group_operators)
    np.testing.assert_array_equal(unit.voxels[support], unit.contains(points))
    assert not (unit.voxels & ~whole).any() and (support <= whole).all()


@pytest.mark.parametrize("method", ["watershed", "wedge"])
@pytest.mark.parametrize(("group", "noise"), [("C2", 0.15), ("C3", 0.0), ("D2", 0.0), ("D3", 0.1)])
def test_as_voxels_the_copies_miss_and_share_no_more_than_their_borders(group: str, noise: float, method: str) -> None:
    unit, support = unit_of(group, method, noise)
    whole = made_symmetric(support, operators(group))
    around = np.ones((3, 3, 3), bool)
    border = ndimage.binary_dilation(unit.voxels, around) & ndimage.binary_dilation(whole & ~unit.voxels, around)
    assert copies_of(unit.voxels & ~border, operators(group)).sum(axis=0).max() <= 1
    grown = ndimage.binary_dilation(unit.voxels)
    assert copies_of(grown, operators(group)).any(axis=0)[support].all()
    share = unit.voxels.sum() / whole.sum() * len(operators(group))
    assert share == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize(("group", "within"), [("C5", 0.02), ("D3", 0.02), ("D7", 0.02), ("I", 0.07)])  # of I 1,100 voxels are one unit
def test_the_unit_has_its_share_of_the_map_whether_its_copies_fall_on_voxels_or_between(group: str, within: float) -> None:
    volume = map_of(group)
    fine = Volume(pad_volume(volume.data, 120), volume.voxel_size_A * 48 / 120)
    support = find_support(fine).voxels
    unit = find_unit(fine, support, operators(group), "watershed", 16.0)
    assert unit.voxels.sum() * len(operators(group)) == pytest.approx(made_symmetric(support, operators(group)).sum(), rel=within)


def test_the_watershed_cuts_less_density_than_the_wedge_and_both_say_so() -> None:
    for group in ("C2", "D2"):
        assert unit_of(group, "watershed")[0].cut <= unit_of(group, "wedge")[0].cut + 0.05
        assert unit_of(group, "watershed")[0].correlation > 0.95


def test_the_watershed_of_haemoglobin_is_one_of_its_two_alpha_beta_dimers() -> None:
    atoms = read_atoms(shipped_model("5ni1"))
    positions_A = atoms.positions_A - np.average(atoms.positions_A, axis=0, weights=atoms.weights)
    box, voxel_A = 48, 2.5
    volume = Volume(real_volume(AtomModel(positions_A, atoms.weights, 60.0).volume_ft(box, voxel_A), box).astype(np.float32), voxel_A)
    for low_pass_A, noise in ((8.0, 0.0), (15.0, 0.0), (15.0, 0.1)):
        noisy = with_noise(volume, noise, 2) if noise else volume
        unit = find_unit(noisy, find_support(noisy).voxels, operators("C2"), "watershed", low_pass_A)
        z, y, x = np.rint(positions_A[:, ::-1].T / voxel_A).astype(int) + box // 2
        inside, covered = unit.voxels[z, y, x], find_support(noisy).voxels[z, y, x]
        share = {chain: np.average(inside[(atoms.chain == chain) & covered]) for chain in "ABCD"}
        kept = {chain for chain, value in share.items() if value > 0.5}
        assert kept in ({"A", "B"}, {"C", "D"}), share
        assert all(max(value, 1 - value) > 0.95 for value in share.values()), share


def test_the_watershed_of_a_real_map_of_haemoglobin_keeps_two_chains(shared_data: Path) -> None:
    path = shared_data / "real_maps" / "emd_3488.mrc"
    volume = read_volume(path)
    support = find_support(volume)
    unit = find_unit(volume, dilate(support.voxels, 5.0), operators("C2"), "watershed", support.low_pass_A)
    atoms = placed(read_atoms(shipped_model("5ni1")), "map", volume.box, volume.voxel_size_A, path)
    inside = unit.contains(atoms.positions_A / volume.voxel_size_A)
    share = [float(inside[np.isin(atoms.chain, list(pair))].mean()) for pair in ("AB", "CD")]
    assert max(share) > 0.97 and min(share) < 0.03


def test_entwined_protomers_are_told_apart_but_for_what_they_exchange(shared_data: Path) -> None:
    structure = gemmi.read_structure(str(shared_data / "models" / "8tsq_MsbA_C2_inward_open.cif"))
    residues = [(c.name, r) for c in structure[0] for r in c if r.het_flag == "A"]
    atoms = [(name, r.seqid.num, atom.pos.tolist(), atom.element.atomic_number) for name, r in residues for atom in r]
    chain, residue = np.array([a[0] for a in atoms]), np.array([a[1] for a in atoms])
    positions_A, weights = np.array([a[2] for a in atoms]), np.array([a[3] for a in atoms], np.float32)
    positions_A -= positions_A.mean(axis=0)
    first, second = positions_A[chain == "A"], positions_A[chain == "B"]
    axis = Rotation.align_vectors(np.concatenate([second, first]), np.concatenate([first, second]))[0].as_rotvec()
    positions_A = Rotation.align_vectors([[0, 0, 1.0]], [axis])[0].apply(positions_A)
    volume = Volume(real_volume(AtomModel(positions_A, weights, 60.0).volume_ft(56, 3.0), 56).astype(np.float32), 3.0)
    unit = find_unit(volume, find_support(volume).voxels, operators("C2"), "watershed", 15.0)
    inside, own = unit.contains(positions_A / 3.0), chain == "A"
    wrong = own & (inside if inside[own].mean() < 0.5 else ~inside)
    assert 0.15 < wrong.sum() / own.sum() < 0.2
    assert np.mean((residue[wrong] > 150) & (residue[wrong] < 310)) > 0.9, "helices 4 and 5, which reach over to the other protomer"


def test_a_seed_of_ones_own_decides_which_copy_is_kept() -> None:
    unit, support = unit_of("C2", "watershed")
    there = tuple(2 * (len(support) // 2) - s for s in unit.seed_px[:2]) + unit.seed_px[2:]
    volume = map_of("C2")
    other = find_unit(volume, support, operators("C2"), "watershed", 24.0, there)
    assert (other.voxels & unit.voxels).sum() < 0.03 * unit.voxels.sum()
    x, y, z = (round(s) for s in other.seed_px)
    assert other.voxels[z, y, x] and other.seed_px == pytest.approx(there)


def test_a_solid_ball_is_cut_into_equal_parts() -> None:
    axis = np.arange(40) - 20
    ball = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 <= 15**2
    unit = find_unit(Volume(ball.astype(np.float32), 2.0), ball, operators("C4"), "wedge", 10.0, (30.0, 20.0, 20.0))
    angle = np.arctan2(axis[:, None], axis)[None] + 0 * axis[:, None, None]
    np.testing.assert_array_equal(unit.voxels, ball & (np.abs(angle) <= np.pi / 4 + 1e-9))


def test_a_seed_that_is_its_own_copy_or_outside_is_refused() -> None:
    volume, support = map_of("C2"), unit_of("C2", "watershed")[1]
    with pytest.raises(SettingsError, match="its own copy"):
        find_unit(volume, support, operators("C2"), "watershed", 24.0, (24.0, 24.0, 30.0))
    with pytest.raises(SettingsError, match="unit_seed"):
        find_unit(volume, support, operators("C2"), "watershed", 24.0, (24.0, 48.0, 30.0))
