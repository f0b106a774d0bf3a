"""The lattice of a refinement: found in maps, held where they do not tell it, and the same from both halves."""

from __future__ import annotations

import numpy as np
import pytest

from protomer.helical.lattice import Lattice, Winding, copies_in, score_grid
from protomer.maps.volumes import Halves, Volume
from protomer.symmetry.helical_search import helix_scores
from symmetric_maps import with_noise
from test_helical_search import BOX, VOXEL_A, filament

WIDTH_A = BOX * VOXEL_A


def around(twist_deg: float, rise_A: float) -> Winding:
    return Winding((twist_deg - 6, twist_deg + 6), (0.9 * rise_A, 1.1 * rise_A), 0.5, 42.0)


@pytest.mark.parametrize(("twist_deg", "rise_A"), [(65.9, 3.05), (-162.3, 9.15), (27.3, 5.1), (-166.7, 22.0)])
def test_twist_and_rise_of_a_map_without_noise_are_found_from_4_degrees_and_a_fifteenth_off(twist_deg: float, rise_A: float) -> None:
    volume, start = filament(twist_deg, rise_A), Lattice(twist_deg + 4, rise_A * 1.065)
    found = around(start.twist_deg, start.rise_A).refitted(Halves(volume, volume), 8.0, start)
    assert found.is_told and found.twist_deg == pytest.approx(twist_deg, abs=0.02) and found.rise_A == pytest.approx(rise_A, abs=0.02)
    assert found.score > 0.95 and found.other_hand < 0.6 * found.score and found.twist_sd_deg == 0.0


def test_two_noisy_halves_tell_it_and_how_far_they_differ() -> None:
    halves = Halves(*(with_noise(filament(-57.0, 12.0), 0.25, seed) for seed in (1, 2)))
    found = around(-54.0, 12.4).refitted(halves, 9.0, Lattice(-54.0, 12.4))
    assert found.is_told and abs(found.twist_deg + 57) < 0.1 and abs(found.rise_A - 12) < 0.05
    assert 0 < found.twist_sd_deg < 0.2 and 0 < found.rise_sd_A < 0.1


def test_noise_alone_and_a_lattice_beyond_the_range_leave_it_as_it_was() -> None:
    empty, start = Volume(np.zeros((BOX, BOX, BOX), np.float32), VOXEL_A), Lattice(-54.0, 12.4, score=0.3)
    noise = [Volume(np.random.default_rng(seed).standard_normal(empty.data.shape, dtype=np.float32), VOXEL_A) for seed in (3, 4)]
    winding = around(-54.0, 12.4)
    for halves in (Halves(*noise), Halves(filament(-40.0, 12.4), filament(-40.0, 12.4))):
        kept = winding.refitted(halves, 9.0, start)
        assert (kept.twist_deg, kept.rise_A, kept.is_told) == (-54.0, 12.4, False)


def test_the_score_grid_holds_the_mean_over_copies() -> None:
    scores = helix_scores(filament(40.0, 10.0), 9.0)
    grid = score_grid(scores, np.array([38.0, 40.0]), np.array([9.0, 10.0, 11.0]), 3)
    expected = np.mean([scores.at(np.array([n * 38.0]), np.array([n * 11.0]))[0] for n in (1, 2, 3)])
    assert grid.shape == (2, 3) and grid[0, 2] == pytest.approx(expected) and grid.argmax() == 4
    assert copies_in(scores, 10.0) == int(scores.reach_A / 10.0)


def test_references_live_in_a_cylinder_in_a_sphere_hollow_where_asked() -> None:
    winding = Winding((1.0, 2.0), (3.0, 4.0), 0.5, 40.0, 15.0)
    solid, c = winding.solid(BOX, WIDTH_A), BOX // 2
    assert solid[c, c, c] == 0 and solid[c, c, c + 9] == pytest.approx(1.0) and solid[c, c, c + 20] == 0 and solid[1, c, c + 9] == 0
    made = winding.wound(filament(65.0, 12.0).data, WIDTH_A, Lattice(65.0, 12.0))
    assert np.corrcoef(made[16:48, 20:44, 20:44].ravel(), filament(65.0, 12.0).data[16:48, 20:44, 20:44].ravel())[0, 1] > 0.999


def test_how_far_a_lattice_moved_is_measured_at_the_ends_of_the_central_part() -> None:
    moved = Lattice(61.0, 10.0).moved_from(Lattice(60.0, 10.0), 30.0, 80.0)
    assert moved == pytest.approx(np.deg2rad(1.0) * 30.0 * 4)
