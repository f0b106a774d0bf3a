"""Helical symmetry imposed on a map: against float64 sums over scattered points, and what it must leave as it is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from protomer_kernels.winding import EDGE_PX, wound
from test_helical_search import BOX, VOXEL_A, filament


def oracle(volume: np.ndarray, twist_rad: float, rise_px: float, central_px: float, points: np.ndarray) -> np.ndarray:
    """The mean of all copies at points (n, 3) [x, y, z] from the box centre, one by one."""
    centre, values = len(volume) // 2, []
    for x, y, z in points:
        total = weights = 0.0
        for n in range(-200, 201):
            there = z - n * rise_px
            beyond = max(abs(there) - central_px / 2, 0.0) / EDGE_PX
            weight = 0.5 * (1 + np.cos(np.pi * beyond)) if beyond < 1 else 0.0
            if weight:
                place = (x + 1j * y) * np.exp(-1j * n * twist_rad)
                at = np.array([[there], [place.imag], [place.real]]) + centre
                total += weight * float(ndimage.map_coordinates(volume.astype(np.float64), at, order=3, mode="mirror")[0])
                weights += weight
        values.append(total / weights)
    return np.array(values)


@pytest.mark.parametrize(("twist_deg", "rise_px"), [(65.0, 1.3), (-166.0, 4.1), (3.0, 7.7)])
def test_every_voxel_is_the_mean_of_the_copies_in_the_central_part(twist_deg: float, rise_px: float) -> None:
    random = np.random.default_rng(1)
    volume = random.standard_normal((24, 24, 24)).astype(np.float32)
    points = random.integers(-9, 10, (60, 3))
    points = points[np.hypot(points[:, 0], points[:, 1]) <= 9]
    found = wound(volume, np.deg2rad(twist_deg), rise_px, 10.0)
    expected = oracle(volume, np.deg2rad(twist_deg), rise_px, 10.0, points)
    assert np.abs(found[points[:, 2] + 12, points[:, 1] + 12, points[:, 0] + 12] - expected).max() < 1e-5


@pytest.mark.parametrize("twist_deg", [65.0, -65.0])
def test_a_filament_stays_as_it_is_under_its_own_helix_and_not_under_that_of_the_other_hand(twist_deg: float) -> None:
    volume = filament(twist_deg, 12.0)
    inside = np.s_[10:-10, 8:-8, 8:-8]

    def kept(twist: float) -> float:
        made = wound(volume.data, np.deg2rad(twist), 12.0 / VOXEL_A, 0.5 * BOX)
        return float(np.corrcoef(made[inside].ravel(), volume.data[inside].ravel())[0, 1])

    assert kept(twist_deg) > 0.999 and kept(-twist_deg) < 0.8


def test_noise_falls_by_the_root_of_the_number_of_subunits() -> None:
    noise = np.random.default_rng(2).standard_normal((32, 32, 32)).astype(np.float32)
    subunits = (16 + EDGE_PX) / 2.7
    made = wound(ndimage.gaussian_filter(noise, 1.0), np.deg2rad(77.0), 2.7, 16.0)
    ring = np.hypot(*np.mgrid[-16:16, -16:16]) < 12
    ring &= np.hypot(*np.mgrid[-16:16, -16:16]) > 5
    before, after = ndimage.gaussian_filter(noise, 1.0)[:, ring].std(), made[:, ring].std()
    assert before / after == pytest.approx(np.sqrt(subunits), rel=0.15)


def test_nothing_is_beyond_the_radius_and_a_rise_that_does_not_fit_is_refused() -> None:
    made = wound(np.ones((20, 20, 20), np.float32), 1.0, 2.0, 8.0, 5.0)
    far = np.hypot(*np.mgrid[-10:10, -10:10]) > 5
    assert not made[:, far].any() and made[:, ~far] == pytest.approx(1.0, abs=1e-6)
    for rise_px, central_px in ((0.0, 8.0), (9.0, 8.0), (2.0, 19.0)):
        with pytest.raises(ValueError, match="a rise of"):
            wound(np.ones((20, 20, 20), np.float32), 1.0, rise_px, central_px)


def test_the_two_folds_of_a_dihedral_helix_stay() -> None:
    volume = filament(33.0, 12.0, 2).data
    turned = volume.copy()
    turned[1:, 1:] = volume[:0:-1, :0:-1]  # about x: y and z change their signs about voxel D // 2
    made = wound(volume + turned, np.deg2rad(33.0), 12.0 / VOXEL_A, 0.5 * BOX)[1:, 1:]
    assert np.abs(made - made[::-1, ::-1]).max() < 1e-4 * np.abs(made).max()


def test_no_point_of_the_widest_and_longest_part_needs_samples_beyond_the_box() -> None:
    for box in (15, 16, 24):
        made = wound_with_bounds_checked(box)
        assert np.isfinite(made).all()


def wound_with_bounds_checked(box: int) -> np.ndarray:
    """The widest and longest part of a map, wound by the same code as Python, where an index beyond an array is an error."""
    from protomer_kernels import winding

    padded = np.pad(np.random.default_rng(5).standard_normal((box, box, box)), 4, constant_values=np.nan)
    coefficients, out = padded[4:-4, 4:-4, 4:-4], np.empty((box, box, box), np.float32)
    half_px = winding.longest_part_px(box) / 2
    window = half_px, winding.EDGE_PX, box // 2 - winding.MARGIN_PX
    for twist_rad in (0.0, np.pi / 2, 0.3):
        winding._wind.py_func(coefficients, (twist_rad, 1.0), window, out)
    return out
