"""Travel times against distances, a layered medium by Snell's law, and SciPy's shortest paths."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra

from protomer_kernels.travel_times import travel_times


def test_in_an_even_medium_the_time_is_the_distance() -> None:
    source = (10.0, 7.0, 12.0)
    grid = np.stack(np.meshgrid(*map(np.arange, (24, 22, 26)), indexing="ij"), -1)
    distance = np.linalg.norm(grid - np.array(source), axis=-1)
    found = travel_times(np.full((24, 22, 26), 1.5), source) / 1.5
    error = found - distance  # of first order in the grid: it grows with the logarithm of the distance, and is never negative
    assert error.min() > -1e-9 and error.max() < 1.5 and (error / np.maximum(distance, 1)).max() < 0.2
    assert (error[distance > 10] / distance[distance > 10]).max() < 0.1


def test_a_ray_into_a_slower_layer_obeys_snells_law() -> None:
    slow = np.ones((40, 40, 9))
    slow[20:] = 3.0  # from plane 19.5 on
    found = travel_times(slow, (5, 5, 4))
    for z, y in ((30, 30), (36, 12), (25, 35)):
        exact = minimize_scalar(lambda across, z=z, y=y: np.hypot(14.5, across - 5) + 3 * np.hypot(z - 19.5, y - across), bounds=(5, y),
                                method="bounded").fun
        assert found[z, y, 4] == pytest.approx(exact, rel=0.05)


def shortest_paths(slow: np.ndarray, source: tuple[int, int, int]) -> np.ndarray:
    """Times along the 26 directions to neighbours, of which every straight or bent way can only be made longer."""
    number = np.arange(slow.size).reshape(slow.shape)
    rows, columns, times = [], [], []
    for step in np.ndindex(3, 3, 3):
        dz, dy, dx = (s - 1 for s in step)
        if (dz, dy, dx) <= (0, 0, 0):
            continue
        here = tuple(slice(max(-d, 0), n - max(d, 0)) for d, n in zip((dz, dy, dx), slow.shape, strict=True))
        there = tuple(slice(max(d, 0), n - max(-d, 0)) for d, n in zip((dz, dy, dx), slow.shape, strict=True))
        rows.append(number[here].ravel())
        columns.append(number[there].ravel())
        times.append((np.sqrt(dz * dz + dy * dy + dx * dx) * (slow[here] + slow[there]) / 2).ravel())
    graph = coo_array((np.concatenate(times), (np.concatenate(rows), np.concatenate(columns))), shape=(slow.size,) * 2)
    return dijkstra(graph.tocsr(), directed=False, indices=number[source]).reshape(slow.shape)


def test_through_a_maze_the_times_are_those_of_shortest_paths() -> None:
    slow = np.ones((22, 22, 22))
    slow[7, :17], slow[14, 5:] = 200.0, 200.0  # two walls with one gap each, on opposite sides
    found, path = travel_times(slow, (2, 3, 11)), shortest_paths(slow, (2, 3, 11))
    far = (slow < 2) & (path > 8)
    assert np.abs(found[far] / path[far] - 1).max() < 0.1
    assert found[20, 3, 11] > 35, "round both walls, not through them"


@pytest.mark.parametrize(("slowness", "source"), [(np.zeros((4, 4, 4)), (1, 1, 1)), (np.full((4, 4, 4), np.nan), (1, 1, 1)),
                                                  (np.ones((4, 4, 4)), (1, 1, 4)), (np.ones((4, 4, 4)), (-1, 1, 1))])
def test_an_impossible_medium_or_source_is_refused(slowness: np.ndarray, source: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"slowness|source"):
        travel_times(slowness, source)
