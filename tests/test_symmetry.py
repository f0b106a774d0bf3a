"""Point groups against their axioms, SciPy's groups, RELION's printed operators and two real maps."""

from __future__ import annotations

import re
import shutil
import subprocess

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from protomer.errors import SettingsError
from protomer.symmetry.point_groups import canonical_name, operators, order_of

SETTINGS = [("C1", "relion"), ("C2", "relion"), ("C7", "relion"), ("D2", "relion"), ("D3", "relion"), ("D3", "cryosparc"), ("D7", "relion"),
            ("T", "relion"), ("T", "scipy"), ("O", "relion"), ("I", "relion"), ("I", "scipy"), ("I1", "relion"), ("I2", "relion"),
            ("I3", "relion"), ("I4", "relion")]


def same_set(a: np.ndarray, b: np.ndarray, tolerance: float = 1e-9) -> bool:
    distance = np.abs(a[:, None] - b[None]).max(axis=(2, 3))
    return len(a) == len(b) and bool((distance.min(axis=1) < tolerance).all()) and bool((distance.min(axis=0) < tolerance).all())


@pytest.mark.parametrize(("group", "axes"), SETTINGS)
def test_operators_form_a_group_of_rotations(group: str, axes: str) -> None:
    g = operators(group, axes)
    assert len(g) == order_of(group)
    np.testing.assert_array_equal(g[0], np.eye(3))
    np.testing.assert_allclose(g @ g.transpose(0, 2, 1), np.broadcast_to(np.eye(3), g.shape), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(g), 1, atol=1e-12)
    products = np.einsum("aij,bjk->abik", g, g).reshape(-1, 3, 3)
    assert np.abs(products[:, None] - g[None]).max(axis=(2, 3)).min(axis=1).max() < 1e-10
    assert same_set(g.transpose(0, 2, 1), g)
    apart = np.abs(g[:, None] - g[None]).max(axis=(2, 3)) + np.eye(len(g))
    assert apart.min() > 1e-3, "an operator occurs twice"


@pytest.mark.parametrize(("group", "axes", "name"), [("C7", "relion", "C7"), ("D4", "relion", "D4"), ("D5", "relion", "D5"),
                                                     ("T", "scipy", "T"), ("O", "relion", "O"), ("I", "scipy", "I"), ("I1", "relion", "I")])
def test_groups_that_scipy_has_in_the_same_setting_are_the_same(group: str, axes: str, name: str) -> None:
    assert same_set(operators(group, axes), Rotation.create_group(name).as_matrix())


@pytest.mark.parametrize("group", ["C4", "D2", "D5", "T", "O", "I", "I1", "I2", "I3", "I4"])
def test_the_default_setting_is_that_of_relion(group: str) -> None:
    if shutil.which("relion_refine") is None:
        pytest.skip("RELION is not installed")
    printed = subprocess.run(["relion_refine", "--sym", group, "--print_symmetry_ops"], capture_output=True, text=True, check=False).stdout
    rows = re.findall(r"R\(\d+\)=\s*\n((?:[ \t]*(?:[-\d.e+]+[ \t]*){3}\n){3})", printed)
    theirs = np.array([float(number) for block in rows for number in block.split()]).reshape(-1, 3, 3)
    assert len(theirs) == order_of(group)
    assert same_set(operators(group), theirs, 2e-5)


def test_cryosparc_dihedral_groups_differ_from_relion_only_for_odd_orders() -> None:
    assert same_set(operators("D4"), operators("D4", "cryosparc"))
    assert not same_set(operators("D5"), operators("D5", "cryosparc"), 1e-3)
    turn = Rotation.from_euler("z", 90, degrees=True).as_matrix()
    assert same_set(turn @ operators("D5") @ turn.T, operators("D5", "cryosparc"))


def axis_of(matrix: np.ndarray) -> np.ndarray:
    rotation = Rotation.from_matrix(matrix).as_rotvec()
    return rotation / np.linalg.norm(rotation)


@pytest.mark.parametrize(("group", "fold", "axis"), [("T", 2, (0, 0.8165, 0.5774)), ("T", 3, (0, 0, 1)), ("I2", 5, (0.5257, 0, 0.8507)),
                                                     ("I3", 5, (0, 0, 1)), ("I4", 5, (0, 0, 1)), ("O", 4, (0, 1, 0)), ("D3", 2, (1, 0, 0))])
def test_axes_stand_where_the_conventions_put_them(group: str, fold: int, axis: tuple[float, float, float]) -> None:
    turn = Rotation.from_rotvec(2 * np.pi / fold * np.array(axis) / np.linalg.norm(axis)).as_matrix()
    assert np.abs(operators(group) - turn).max(axis=(1, 2)).min() < 1e-3


def test_operators_of_simple_groups_are_exact() -> None:
    np.testing.assert_array_equal(np.unique(operators("D2")), [-1, 0, 1])
    np.testing.assert_array_equal(np.unique(operators("O")), [-1, 0, 1])


@pytest.mark.parametrize("name", ["c2", " C02 ", "C2"])
def test_names_are_read_in_any_case(name: str) -> None:
    assert canonical_name(name) == "C2"


@pytest.mark.parametrize(("name", "suggestion"), [("C0", "such as C2"), ("D", "such as D2"), ("I5", "I"), ("CC2", "C2"), ("C-3", "C3"),
                                                   ("C1000", "from 1 to 100"), ("", "C1")])
def test_a_bad_name_is_refused_with_a_suggestion(name: str, suggestion: str) -> None:
    with pytest.raises(SettingsError, match=r"did you mean|choose ") as caught:
        operators(name)
    assert suggestion in caught.value.remedy


def test_an_unknown_setting_of_axes_is_refused_with_a_suggestion() -> None:
    with pytest.raises(SettingsError, match="cryosparc"):
        operators("D2", "cryospark")


def rotated(data: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The map turned by a matrix of x, y, z about voxel N // 2: out(p) = in(matrix^T p)."""
    centre = data.shape[0] // 2
    grid = np.stack(np.meshgrid(*[np.arange(data.shape[0]) - centre] * 3, indexing="ij"), -1)[..., ::-1]
    source = (grid @ matrix)[..., ::-1] + centre
    return map_coordinates(data, np.moveaxis(source, -1, 0), order=1)


@pytest.mark.parametrize(("file", "group"), [("emd_3488.mrc", "C2"), ("betaGal.mrc", "D2")])
def test_a_symmetric_map_is_unchanged_by_its_group_and_changed_by_another(shared_data, file: str, group: str) -> None:
    mrcfile = pytest.importorskip("mrcfile")
    with mrcfile.open(shared_data / "real_maps" / file, permissive=True) as opened:
        data = np.array(opened.data, np.float64)
    inside = slice(10, -9)  # turning about N // 2 brings index 0 from outside the box
    for operator in operators(group)[1:]:
        assert np.corrcoef(rotated(data, operator)[inside, inside, inside].ravel(), data[inside, inside, inside].ravel())[0, 1] > 0.99
    wrong = rotated(data, operators("C3")[1])
    assert np.corrcoef(wrong[inside, inside, inside].ravel(), data[inside, inside, inside].ravel())[0, 1] < 0.8


def test_a_helix_is_sent_to_the_jobs_that_take_one() -> None:
    with pytest.raises(SettingsError, match="helical_rise"):
        operators("helical")
