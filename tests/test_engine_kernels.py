"""The refinement kernels against slow float64 NumPy sums that share no code with them, and their adjoints and symmetries."""

from __future__ import annotations

import itertools

import numba
import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from protomer_kernels import gather, grid_scores, insertion, newton, noise, posterior, rotations, slices, wiener
from protomer_kernels.half_plane import HalfPlane, largest_radius, transform_images
from protomer_kernels.prefetch import prefetch
from protomer_kernels.trigonometry import sine_cosine_of_cycles

BOX = 20
RADIUS = 8
PLANE = HalfPlane(BOX, RADIUS)
NORMAL_ROW = [(p, q) for p in range(5) for q in range(p + 1)]
BLOBS = ((2.0, -1.0, 1.5, 1.6, 1.0), (-3.0, 1.5, 0.5, 1.4, 0.8), (0.5, 3.0, -2.5, 1.8, 1.2), (1.0, -2.5, -3.0, 1.5, 0.6))


def blob_map(box: int = BOX, blobs: tuple = BLOBS) -> np.ndarray:
    """A handed density of Gaussians (x, y, z from the centre, sigma, height), [z, y, x]."""
    z, y, x = np.meshgrid(*[np.arange(box) - box // 2] * 3, indexing="ij")
    return sum(h * np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / (2 * s * s)) for a, b, c, s, h in blobs).astype(np.float32)


def blob_transform(points: np.ndarray, box: int, blobs: tuple) -> np.ndarray:
    """Unitary transform of the projection of blob_map, from the closed form, at points (..., 3) x, y, z in cycles per box."""
    total = np.zeros(points.shape[:-1], complex)
    for a, b, c, s, h in blobs:
        envelope = np.exp(-2 * np.pi**2 * s * s * (points**2).sum(-1) / box**2)
        total += h * (2 * np.pi) ** 1.5 * s**3 * envelope * np.exp(-2j * np.pi * points @ np.array([a, b, c]) / box)
    return total / box


def random_rotations(number: int, seed: int) -> np.ndarray:
    return Rotation.random(number, random_state=seed).as_matrix()


def oracle_corners(points: np.ndarray, centre: int) -> tuple[np.ndarray, list[tuple[tuple[np.ndarray, ...], np.ndarray]]]:
    """Signs (n,) of the mates taken, and the eight ([z, y, x], weight) of trilinear reading at points (n, 3) in padded voxels."""
    sign = np.where(points[:, 0] < 0, -1.0, 1.0)
    at = points * sign[:, None] + [0, centre, centre]
    low = np.floor(at).astype(int)
    corners = []
    for offset in itertools.product((0, 1), repeat=3):
        weight = np.prod(np.where(offset, at - low, 1 - (at - low)), axis=1)
        corners.append((tuple((low + offset).T[::-1]), weight))
    return sign, corners


def oracle_slice(volume: np.ndarray, rotation: np.ndarray, plane: HalfPlane = PLANE) -> np.ndarray:
    """Complex slice (K,) of a Fourier volume in float64."""
    sign, corners = oracle_corners(2.0 * plane.coordinates @ rotation[:, :2].T, (volume.shape[0] - 1) // 2)
    v = volume[..., 0].astype(float) + 1j * volume[..., 1]
    total = sum(weight * v[index] for index, weight in corners)
    return total.real + 1j * sign * total.imag


def as_pairs(values: np.ndarray) -> np.ndarray:
    """Complex (n, K) to float32 (n, 2, K)."""
    return np.ascontiguousarray(np.stack([values.real, values.imag], axis=1), np.float32)


def extract(volume: np.ndarray, turns: np.ndarray, plane: HalfPlane = PLANE) -> np.ndarray:
    out = np.empty((len(turns), 2, len(plane)), np.float32)
    slices.extract_slices(volume, turns.astype(np.float32), plane.kx, plane.ky, out)
    return out[:, 0] + 1j * out[:, 1].astype(np.float64)


def insert(turns, shifts, weights, data, amplitude, scale, slabs=1, image=None) -> np.ndarray:  # type: ignore[no-untyped-def]
    out = insertion.empty_accumulator(RADIUS)
    image = np.arange(len(turns)) if image is None else image
    insertion.insert_slices((image, turns, shifts, weights), (data, amplitude), PLANE.arrays(len(PLANE)), scale, slabs, out)
    return out


@pytest.fixture(scope="module")
def model() -> np.ndarray:
    return slices.transform_volume(blob_map(), RADIUS)


# --- half_plane


@pytest.mark.parametrize("box", [16, 17])
def test_the_half_plane_and_its_mates_cover_the_disc_once(box: int) -> None:
    plane = HalfPlane(box, largest_radius(box))
    own = [tuple(k) for k in plane.coordinates.tolist()]
    mates = [(-x, -y) for x, y in own[1:]]
    r = plane.radius
    disc = {(x, y) for x in range(-r, r + 1) for y in range(-r, r + 1) if x * x + y * y <= r * r}
    assert own[0] == (0, 0) and set(own) | set(mates) == disc and len(own) + len(mates) == len(disc) == plane.multiplicity.sum()
    np.testing.assert_array_equal(plane.shell, np.floor(np.hypot(plane.kx.astype(float), plane.ky) + 0.5))


@pytest.mark.parametrize("box", [16, 17])
def test_a_lower_resolution_is_a_prefix(box: int) -> None:
    plane = HalfPlane(box, largest_radius(box))
    length = np.hypot(*plane.coordinates.T.astype(float))
    for radius in range(1, plane.radius + 1):
        count = plane.prefix(radius)
        assert length[:count].max() <= radius < length[count:].min(initial=np.inf)
        np.testing.assert_array_equal(HalfPlane(box, radius).coordinates, plane.coordinates[:count])


@pytest.mark.parametrize("radius", [0, 8])
def test_a_radius_past_nyquist_or_of_nothing_is_refused(radius: int) -> None:
    with pytest.raises(ValueError, match=r"outside 1\.\.7"):
        HalfPlane(16, radius)


@pytest.mark.parametrize(("size", "box"), [(16, 16), (17, 17), (24, 16), (21, 16), (22, 17), (23, 17)])
def test_image_transforms_equal_a_direct_sum_about_the_centre_pixel(size: int, box: int) -> None:
    images = np.random.default_rng(1).standard_normal((3, size, size)).astype(np.float32)
    plane = HalfPlane(box, largest_radius(box))
    r = np.arange(size) - size // 2
    along_x = np.exp(-2j * np.pi * np.outer(plane.coordinates[:, 0], r) / size)
    along_y = np.exp(-2j * np.pi * np.outer(plane.coordinates[:, 1], r) / size)
    expected = np.einsum("nyx,kx,ky->nk", images.astype(float), along_x, along_y, optimize=True) * box / size**2
    np.testing.assert_allclose(transform_images(images, plane), expected, atol=3e-6)


# --- gather, trigonometry, prefetch


@numba.njit
def compiled_cells(volume, corners, fractions, out):  # type: ignore[no-untyped-def]
    """The vector loads (columns 0 to 9: load_cell, load_cell_value) and the scalar source (10 to 17) at each point."""
    plane, row, flat = np.uint64(volume.shape[1] * volume.shape[2] * 2), np.uint64(volume.shape[2] * 2), volume.ravel()
    for n in range(len(corners)):
        k, j, i = np.uint64(corners[n, 0]), np.uint64(corners[n, 1]), np.uint64(corners[n, 2])
        dx, dy, dz = fractions[n, 0], fractions[n, 1], fractions[n, 2]
        base = k * plane + j * row + i * np.uint64(2)
        out[n, 0], out[n, 1], out[n, 2], out[n, 3], out[n, 4], out[n, 5], out[n, 6], out[n, 7] = gather.load_cell(
            flat, base, row, plane, dx, dy, dz
        )
        out[n, 8], out[n, 9] = gather.load_cell_value(flat, base, row, plane, dx, dy, dz)
        out[n, 10:18] = np.array(gather.interpolate_with_gradient(volume, k, j, i, dx, dy, dz))


def test_vector_loads_and_scalar_source_equal_plain_trilinear_reading() -> None:
    rng = np.random.default_rng(2)
    volume = rng.standard_normal((7, 7, 4, 2)).astype(np.float32)
    corners, fractions = rng.integers(0, [6, 6, 3], (200, 3)), rng.random((200, 3)).astype(np.float32)
    out = np.empty((200, 18), np.float32)
    compiled_cells(volume, corners, fractions, out)

    def value(n: int, at: list[float]) -> np.ndarray:
        k, j, i = corners[n]
        cell = volume[k : k + 2, j : j + 2, i : i + 2].astype(float)
        dx, dy, dz = at
        return np.einsum("zyxp,z,y,x->p", cell, [1 - dz, dz], [1 - dy, dy], [1 - dx, dx])

    for n in range(200):
        at = [float(f) for f in fractions[n]]
        ends = [[[*at[:axis], end, *at[axis + 1 :]] for end in (0.0, 1.0)] for axis in range(3)]
        gradient = [value(n, high) - value(n, low) for low, high in ends]  # exact: the reading is linear along each axis
        expected = np.concatenate([value(n, at), *gradient])
        np.testing.assert_allclose(out[n, :8], expected, atol=4e-6)
        np.testing.assert_allclose(out[n, 8:10], expected[:2], atol=4e-6)
        np.testing.assert_allclose(out[n, 10:], expected, atol=4e-6)
        plain = gather.interpolate_with_gradient(volume, *corners[n].astype(np.uint64), *fractions[n])
        np.testing.assert_allclose(plain, expected, atol=4e-6)
        assert gather.interpolate(volume, *corners[n].astype(np.uint64), *fractions[n]) == plain[:2]


@numba.njit(fastmath=True)
def compiled_sines(phases, out):  # type: ignore[no-untyped-def]
    for n in range(len(phases)):
        out[0, n], out[1, n] = sine_cosine_of_cycles(phases[n])


def test_sine_and_cosine_of_cycles_are_right_to_four_in_ten_million() -> None:
    special = np.arange(-800, 801) / 8
    phases = np.concatenate([np.random.default_rng(3).uniform(-100, 100, 200_000), special]).astype(np.float32)
    turn = 2 * np.pi * (phases.astype(float) - np.rint(phases.astype(float)))
    expected = np.stack([np.sin(turn), np.cos(turn)])
    out = np.empty((2, len(phases)), np.float32)
    compiled_sines(phases, out)
    assert np.abs(out - expected).max() < 4e-7
    assert np.abs(np.stack(sine_cosine_of_cycles(phases)) - expected).max() < 4e-7


@numba.njit
def sum_with_prefetch(flat, ahead):  # type: ignore[no-untyped-def]
    total = 0.0
    for n in range(len(flat)):
        prefetch(flat, np.uint64(n + ahead))
        total += flat[n]
    return total


def test_prefetching_changes_nothing_even_past_the_end() -> None:
    values = np.arange(100, dtype=np.float64)
    assert sum_with_prefetch(values, 1_000_000) == 4950.0
    np.testing.assert_array_equal(values, np.arange(100))


# --- slices


def test_slices_equal_trilinear_reading_in_double_precision(model: np.ndarray) -> None:
    turns = random_rotations(6, 4)
    expected = np.array([oracle_slice(model, turn) for turn in turns])
    np.testing.assert_allclose(extract(model, turns), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("box", [16, 17])
def test_a_delta_at_the_centre_stays_there_under_100_rotations(box: int) -> None:
    volume = np.zeros((box,) * 3, np.float32)
    volume[(box // 2,) * 3] = 3.0
    plane = HalfPlane(box, largest_radius(box))
    views = extract(slices.transform_volume(volume, plane.radius, 2.0), random_rotations(100, 5), plane)
    np.testing.assert_allclose(views, 6.0 / box, atol=1e-6)


def test_slices_have_friedel_symmetry(model: np.ndarray) -> None:
    turns = np.concatenate([random_rotations(20, 6), np.eye(3)[None]]).astype(np.float32)
    out = np.empty((2, len(turns), 2, len(PLANE)), np.float32)
    slices.extract_slices(model, turns, PLANE.kx, PLANE.ky, out[0])
    slices.extract_slices(model, turns, -PLANE.kx, -PLANE.ky, out[1])
    np.testing.assert_allclose(out[1, :, 0], out[0, :, 0], atol=1e-5)
    np.testing.assert_allclose(out[1, :, 1], -out[0, :, 1], atol=1e-5)


def test_slices_of_a_gaussian_equal_the_closed_form_of_its_projections() -> None:
    box, blob = 24, ((1.2, -0.8, 0.5, 1.3, 2.0),)
    plane = HalfPlane(box, largest_radius(box))
    turns = random_rotations(50, 7)
    expected = blob_transform(np.einsum("nij,kj->nki", turns[:, :, :2], plane.coordinates.astype(float)), box, blob)
    found = extract(slices.transform_volume(blob_map(box, blob), plane.radius), turns, plane)
    # Linear reading of a wave from r px away, at padding 2, is wrong by at most (pi r / 2 box)^2 / 3; here <r^2> = 7.4 px^2.
    assert np.abs(found - expected).max() < 0.015 * np.abs(expected).max()
    assert np.linalg.norm(found - expected) < 0.006 * np.linalg.norm(expected)


def test_a_slice_at_identity_is_the_transform_of_the_sum_along_z(model: np.ndarray) -> None:
    image = blob_map().sum(0, dtype=np.float64)
    r = np.arange(BOX) - BOX // 2
    k = PLANE.coordinates
    waves = [np.exp(-2j * np.pi * np.outer(k[:, axis], r) / BOX) for axis in (0, 1)]
    expected = np.einsum("yx,kx,ky->k", image, waves[0], waves[1]) / BOX
    # Points on the lattice are read exactly, so what is left is the division by sinc^2, which is undone only off the lattice.
    assert np.linalg.norm(extract(model, np.eye(3)[None])[0] - expected) < 0.06 * np.linalg.norm(expected)


# --- insertion


def test_insertion_is_the_adjoint_of_reading() -> None:
    rng = np.random.default_rng(8)
    shape = insertion.empty_accumulator(RADIUS).shape[:3]
    volume = rng.standard_normal((*shape, 2)).astype(np.float32)
    turns = random_rotations(12, 8)
    data = as_pairs(rng.standard_normal((12, len(PLANE))) + 1j * rng.standard_normal((12, len(PLANE))))
    ones, no_shift = np.ones((12, len(PLANE)), np.float32), np.zeros((12, 2))
    scale = insertion.fixed_point_scale(8.0, 12)
    sums = insert(turns, no_shift, np.ones(12), data, ones, scale) / scale
    read = as_pairs(extract(volume, turns)).astype(float)
    norm = np.linalg.norm(read) * np.linalg.norm(data)
    assert abs((read * data).sum() - (volume * sums[..., :2]).sum()) < 1e-7 * norm
    amplitude = rng.uniform(0.5, 2.0, ones.shape).astype(np.float32)
    weights = rng.random(12)
    sums = insert(turns, no_shift, weights, data, amplitude, scale) / scale
    weighted = weights[:, None] * amplitude.astype(float)
    assert abs((read * data * weighted[:, None]).sum() - (volume * sums[..., :2]).sum()) < 1e-7 * norm
    only_re = np.stack([volume[..., 0], np.zeros(shape)], axis=-1).astype(np.float32)
    expected = (extract(only_re, turns).real * weighted * amplitude).sum()
    assert abs(expected - (volume[..., 0] * sums[..., 2]).sum()) < 1e-7 * norm


def test_inserted_sums_equal_a_double_precision_loop_with_shifts() -> None:
    rng = np.random.default_rng(9)
    turns, shifts, weights = random_rotations(5, 9), rng.uniform(-3, 3, (5, 2)), rng.random(5)
    image = np.array([0, 2, 1, 1, 0])
    y = rng.standard_normal((3, len(PLANE))) + 1j * rng.standard_normal((3, len(PLANE)))
    amplitude = rng.uniform(-1, 1, (3, len(PLANE))).astype(np.float32)
    scale = insertion.fixed_point_scale(6.0, 5)
    sums = insert(turns, shifts, weights, as_pairs(y), amplitude, scale, 2, image) / scale
    expected = np.zeros(sums.shape)
    centre = (len(sums) - 1) // 2
    for turn, shift, weight, n in zip(turns, shifts, weights, image, strict=True):
        sign, corners = oracle_corners(2.0 * PLANE.coordinates @ turn[:, :2].T, centre)
        moved = weight * amplitude[n] * y[n] * np.exp(-2j * np.pi * PLANE.coordinates @ shift / BOX)
        for index, t in corners:
            for part, term in enumerate((moved.real, sign * moved.imag, weight * amplitude[n].astype(float) ** 2)):
                np.add.at(expected[..., part], index, t * term)
    np.testing.assert_allclose(sums, expected, atol=2e-5)


def test_insertion_has_the_same_bits_for_any_slabs_and_any_order() -> None:
    rng = np.random.default_rng(10)
    turns, shifts, weights = random_rotations(15, 10), rng.uniform(-3, 3, (15, 2)), rng.random(15)
    data = rng.standard_normal((15, 2, len(PLANE))).astype(np.float32)
    amplitude = rng.uniform(-1, 1, (15, len(PLANE))).astype(np.float32)
    scale = insertion.fixed_point_scale(6.0, 15)
    once = insert(turns, shifts, weights, data, amplitude, scale)
    assert np.any(once)
    for slabs in (2, 3, 7, len(once), len(once) + 5):
        np.testing.assert_array_equal(insert(turns, shifts, weights, data, amplitude, scale, slabs), once)
    order = rng.permutation(15)
    np.testing.assert_array_equal(insert(turns[order], shifts[order], weights[order], data, amplitude, scale, 2, order), once)
    halves = [insert(turns[part], shifts[part], weights[part], data[part], amplitude[part], scale) for part in np.split(np.arange(15), [6])]
    np.testing.assert_array_equal(halves[0] + halves[1], once)


@pytest.mark.parametrize("largest", [1e-6, 1.0, 3.7e9])
def test_the_scale_leaves_room_for_every_slice_in_one_voxel(largest: float) -> None:
    number = 40
    scale = insertion.fixed_point_scale(largest, number)
    assert np.log2(scale) == np.rint(np.log2(scale)) and 2.0**59 < 2 * largest * number * scale <= 2.0**61
    data = np.zeros((1, 2, len(PLANE)), np.float32)
    data[:, 0] = np.sqrt(largest)
    amplitude = np.full((1, len(PLANE)), np.sqrt(largest), np.float32)
    turns = np.broadcast_to(np.eye(3), (number, 3, 3)).copy()
    sums = insert(turns, np.zeros((number, 2)), np.ones(number), data, amplitude, scale, 2, np.zeros(number, np.int64))
    assert sums.min() >= 0  # an overflow would have changed a sign
    np.testing.assert_allclose(sums[..., 2].max() / scale, number * largest, rtol=1e-6)


def test_one_slice_never_gives_a_voxel_more_than_twice_its_largest_term() -> None:
    data, ones = np.ones((1, 2, len(PLANE)), np.float32), np.ones((1, len(PLANE)), np.float32)
    angles = np.random.default_rng(11).normal(0, 1e-2, (100, 3))
    angles[:, 1] += np.pi / 2  # slices that nearly hold the axis across which mates change sides
    near_axis = Rotation.from_euler("ZYZ", angles).as_matrix()
    for turn in np.concatenate([random_rotations(100, 11), near_axis]):
        sums = insert(turn[None], np.zeros((1, 2)), np.ones(1), data, ones, 2.0**40)
        assert sums[..., 2].max() <= 2.0 * 2.0**40 * (1 + 1e-6)


# --- wiener


def test_shell_weights_are_means_over_shells() -> None:
    weight = np.random.default_rng(12).random((13, 13, 7)).astype(np.float32)
    z, y, x = np.meshgrid(np.arange(-6, 7), np.arange(-6, 7), np.arange(7), indexing="ij")
    shell = np.rint(np.sqrt(x * x + y * y + z * z) / 2)
    expected = [weight[shell == s].mean(dtype=float) if np.any(shell == s) else 0.0 for s in range(9)]
    np.testing.assert_allclose(wiener.shell_weights(weight, 9), expected, rtol=1e-6)


def test_slices_of_a_known_map_solve_back_to_that_map(model: np.ndarray) -> None:
    turns = rotations.matrices_from_quaternions(rotations.super_fibonacci_grid(600))
    shifts = np.random.default_rng(13).uniform(-2, 2, (600, 2))
    moved = extract(model, turns) * np.exp(2j * np.pi * shifts @ PLANE.coordinates.T / BOX)
    amplitude = np.cos(np.random.default_rng(14).uniform(0, np.pi, (600, 1)) + PLANE.shell * 0.2).astype(np.float32)
    scale = insertion.fixed_point_scale(float(np.abs(moved).max()) + 1.0, 600)
    sums = insert(turns, shifts, np.ones(600), as_pairs(amplitude * moved), amplitude, scale, 2)
    numerator, weight = insertion.accumulator_values(sums, scale)
    np.testing.assert_allclose(numerator[:, :, 0], numerator[::-1, ::-1, 0].conj(), atol=1e-4)
    assert weight.min() >= 0.0
    found, truth = wiener.solve_volume(numerator.copy(), weight, np.full(RADIUS + 1, 1e-3), BOX).astype(float), blob_map().astype(float)
    assert found.shape == truth.shape
    assert np.corrcoef(found.ravel(), truth.ravel())[0, 1] > 0.99
    assert abs((found * truth).sum() / (truth * truth).sum() - 1) < 0.02
    halved = wiener.solve_volume(numerator, weight, wiener.shell_weights(weight, RADIUS + 1), BOX)
    assert 0.35 < (halved * truth).sum() / (truth * truth).sum() < 0.65  # a prior as heavy as the data halves the map


# --- newton


def prediction(model: np.ndarray, amplitude: np.ndarray, turn: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """What the image should be: A V(R k) exp(+2 pi i k.shift / box), in float64."""
    return amplitude.astype(float) * oracle_slice(model, turn) * np.exp(2j * np.pi * PLANE.coordinates @ shift / BOX)


def turned(step: np.ndarray, turn: np.ndarray) -> np.ndarray:
    return Rotation.from_rotvec(step).as_matrix() @ turn


def climb(model, image, turns, shifts, data, amplitude, steps, priors=newton.NO_PRIOR, extent=newton.NO_EXTENT):  # type: ignore[no-untyped-def]
    turns, shifts, sums = turns.copy(), shifts.copy(), np.empty((len(turns), 21))
    newton.climb_poses(model, (image, turns, shifts), (data, amplitude), PLANE.arrays(len(PLANE)), steps, (priors, extent), sums)
    return turns, shifts, sums


def degrees_between(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.degrees(Rotation.from_matrix(second @ np.swapaxes(first, -1, -2)).magnitude())


def starts(number: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """True rotations and shifts, and starts that are 5 degrees and 1 pixel away from them."""
    rng = np.random.default_rng(seed)
    true_turns, true_shifts = random_rotations(number, seed), rng.uniform(-2, 2, (number, 2))
    axes = rng.standard_normal((number, 3))
    axes *= np.radians(5) / np.linalg.norm(axes, axis=1, keepdims=True)
    angle = rng.uniform(0, 2 * np.pi, number)
    near = np.array([turned(a, t) for a, t in zip(axes, true_turns, strict=True)])
    return true_turns, true_shifts, near, true_shifts + np.stack([np.cos(angle), np.sin(angle)], axis=1)


def whitened(model: np.ndarray, turns: np.ndarray, shifts: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noiseless data (n, 2, K) and amplitudes (n, K) that change sign, as a CTF does."""
    phase = np.random.default_rng(seed).uniform(0, np.pi, (len(turns), 1))
    amplitude = (3.0 * np.sqrt(PLANE.multiplicity) * np.cos(phase + 0.3 * PLANE.shell)).astype(np.float32)
    images = [prediction(model, a, t, s) for a, t, s in zip(amplitude, turns, shifts, strict=True)]
    return as_pairs(np.array(images)), amplitude


def test_likelihood_gradient_and_matrix_equal_numerical_derivatives(model: np.ndarray) -> None:
    true_turns, true_shifts, turns, shifts = starts(4, 15)
    data, amplitude = whitened(model, true_turns, true_shifts, 15)
    _, _, sums = climb(model, np.arange(4), turns, shifts, data, amplitude, 0)
    step = 1e-6
    for n in range(4):
        y = data[n, 0].astype(float) + 1j * data[n, 1]

        def at(p: np.ndarray, n: int = n) -> np.ndarray:
            return prediction(model, amplitude[n], turned(p[:3], turns[n]), shifts[n] + p[3:])

        def log_likelihood(p: np.ndarray, at=at, y=y) -> float:  # type: ignore[no-untyped-def]
            return float((y.conj() * at(p)).real.sum() - 0.5 * (np.abs(at(p)) ** 2).sum())

        moves = step * np.eye(5)
        jacobian = np.array([(at(p) - at(-p)) / (2 * step) for p in moves])
        gradient = np.array([(log_likelihood(p) - log_likelihood(-p)) / (2 * step) for p in moves])
        matrix = (jacobian @ jacobian.conj().T).real
        np.testing.assert_allclose(sums[n, 0], log_likelihood(np.zeros(5)), rtol=1e-5)
        np.testing.assert_allclose(sums[n, 1:6], gradient, atol=3e-4 * np.abs(gradient).max())
        scale = np.sqrt(np.diag(matrix))
        found = np.array([sums[n, 6 + m] / (scale[p] * scale[q]) for m, (p, q) in enumerate(NORMAL_ROW)])
        np.testing.assert_allclose(found, [matrix[p, q] / (scale[p] * scale[q]) for p, q in NORMAL_ROW], atol=3e-4)


def test_climbing_from_five_degrees_and_one_pixel_reaches_the_truth(model: np.ndarray) -> None:
    true_turns, true_shifts, turns, shifts = starts(30, 16)
    data, amplitude = whitened(model, true_turns, true_shifts, 16)
    found, found_shifts, sums = climb(model, np.arange(30), turns, shifts, data, amplitude, 20)
    assert degrees_between(true_turns, found).max() < 0.1
    assert np.abs(found_shifts - true_shifts).max() < 0.02
    np.testing.assert_allclose(found @ np.swapaxes(found, 1, 2), np.broadcast_to(np.eye(3), found.shape), atol=1e-12)
    np.testing.assert_allclose(sums[:, 0], 0.5 * (data.astype(float) ** 2).sum((1, 2)), rtol=1e-4)


def test_starts_read_the_image_they_belong_to(model: np.ndarray) -> None:
    true_turns, true_shifts, turns, shifts = starts(3, 17)
    data, amplitude = whitened(model, true_turns, true_shifts, 17)
    image = np.array([2, 0, 2, 1])
    found, found_shifts, _ = climb(model, image, turns[image], shifts[image], data, amplitude, 20)
    assert degrees_between(true_turns[image], found).max() < 0.1 and np.abs(found_shifts - true_shifts[image]).max() < 0.02
    np.testing.assert_array_equal(found[0], found[2])


def test_priors_add_a_gaussian_and_pull_towards_their_centre(model: np.ndarray) -> None:
    true_turns, true_shifts, turns, shifts = starts(6, 18)
    data, amplitude = whitened(model, true_turns, true_shifts, 18)
    image = np.arange(6)
    precision = np.array([50.0, 50.0, 50.0, 3.0, 4.0])
    priors = np.concatenate([turns.reshape(6, 9), shifts, np.broadcast_to(precision, (6, 5))], axis=1)
    _, _, bare = climb(model, image, true_turns, true_shifts, data, amplitude, 0)
    _, _, sums = climb(model, image, true_turns, true_shifts, data, amplitude, 0, priors)
    away = np.concatenate(
        [Rotation.from_matrix(true_turns @ np.swapaxes(turns, 1, 2)).as_rotvec(), true_shifts - shifts], axis=1
    )
    np.testing.assert_allclose(sums[:, 0] - bare[:, 0], -0.5 * (precision * away**2).sum(1), rtol=1e-6)
    np.testing.assert_allclose(sums[:, 1:6] - bare[:, 1:6], -precision * away, atol=1e-6)
    added = [precision[p] if p == q else 0.0 for p, q in NORMAL_ROW]
    np.testing.assert_allclose(sums[:, 6:] - bare[:, 6:], np.broadcast_to(added, (6, 15)), atol=1e-6)
    distances = []
    for factor in (1e-3, 1e3, 1e8):
        priors[:, 11:] = precision * factor
        found, found_shifts, _ = climb(model, image, true_turns, true_shifts, data, amplitude, 40, priors)
        distances.append(degrees_between(true_turns, found))
    assert distances[0].max() < 0.1 and np.all(distances[1] > distances[0])
    np.testing.assert_allclose(distances[2], 5.0, atol=0.01)  # a prior of no width leaves nothing but its centre
    assert np.abs(found_shifts - shifts).max() < 0.01


def test_no_pose_leaves_its_extent(model: np.ndarray) -> None:
    true_turns, true_shifts, turns, shifts = starts(30, 19)
    data, amplitude = whitened(model, true_turns, true_shifts, 19)
    priors = np.concatenate([turns.reshape(30, 9), shifts, np.zeros((30, 5))], axis=1)
    extent = np.array([np.radians(2.0), 0.4])
    found, found_shifts, sums = climb(model, np.arange(30), turns, shifts, data, amplitude, 20, priors, extent)
    _, _, before = climb(model, np.arange(30), turns, shifts, data, amplitude, 0)
    moved = degrees_between(turns, found)
    assert moved.max() <= 2.0 + 1e-9 and np.linalg.norm(found_shifts - shifts, axis=1).max() <= 0.4 + 1e-12
    assert moved.max() > 0.1 and np.all(sums[:, 0] >= before[:, 0])


def test_covariance_is_the_inverse_and_a_singular_matrix_says_so() -> None:
    rng = np.random.default_rng(20)
    sums = rng.standard_normal((4, 21))
    jacobians = rng.standard_normal((4, 5, 9))
    matrices = jacobians @ np.swapaxes(jacobians, 1, 2)
    matrices[3] = -np.eye(5)
    sums[:, 6:] = [[matrix[p, q] for p, q in NORMAL_ROW] for matrix in matrices]
    out = np.empty((4, 15))
    log_determinant = newton.covariance_and_log_determinant(sums, out)
    for n in range(3):
        inverse = np.linalg.inv(matrices[n])
        np.testing.assert_allclose(out[n], [inverse[p, q] for p, q in NORMAL_ROW], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(log_determinant[n], np.log(np.linalg.eigvalsh(matrices[n])).sum(), rtol=1e-6)
    assert log_determinant[3] == np.inf and np.all(np.isinf(out[3]))


# --- grid_scores


def test_grid_scores_equal_direct_sums_for_any_number_of_threads() -> None:
    rng = np.random.default_rng(21)
    plane = HalfPlane(BOX, 3)
    shifts = rotations.shift_grid(2.0, 1.0)
    y = rng.standard_normal((5, len(plane))) + 1j * rng.standard_normal((5, len(plane)))
    views = rng.standard_normal((900, len(plane))) + 1j * rng.standard_normal((900, len(plane)))
    amplitude = rng.uniform(-1, 1, (5, len(plane))).astype(np.float32)
    ramps = grid_scores.shift_ramps(shifts, plane.kx, plane.ky, BOX)
    waves = np.exp(-2j * np.pi * shifts.astype(float) @ plane.coordinates.T / BOX)
    np.testing.assert_allclose(ramps, waves, atol=1e-6)
    scores, best = grid_scores.grid_scores(as_pairs(y), amplitude, as_pairs(views), ramps, 1)
    moved = amplitude[:, None].astype(float) * y[:, None] * waves
    direct = np.einsum("nsk,gk->nsg", moved.conj(), views).real
    direct -= 0.5 * np.einsum("nk,gk->ng", amplitude.astype(float) ** 2, np.abs(views) ** 2)[:, None]
    np.testing.assert_allclose(scores, direct.max(1), atol=2e-4)
    taken = np.take_along_axis(direct, best[:, None].astype(int), axis=1)[:, 0]
    np.testing.assert_allclose(taken, direct.max(1), atol=2e-4)
    for threads in (2, 3):
        again, best_again = grid_scores.grid_scores(as_pairs(y), amplitude, as_pairs(views), ramps, threads)
        np.testing.assert_array_equal(again, scores)
        np.testing.assert_array_equal(best_again, best)


@pytest.mark.parametrize("keep", [1, 5, 40, 60])
def test_the_best_rotations_come_in_order_and_ties_go_to_the_lower_column(keep: int) -> None:
    scores = np.random.default_rng(22).integers(0, 12, (50, 60)).astype(np.float32)
    expected = [sorted(range(60), key=lambda g: (-row[g], g))[:keep] for row in scores.tolist()]
    np.testing.assert_array_equal(grid_scores.best_rotations(scores, keep), expected)


# --- posterior


def degrees_up_to_symmetry(first: np.ndarray, second: np.ndarray, operators: np.ndarray) -> float:
    return min(float(degrees_between(g @ first, second)) for g in operators)


@pytest.mark.parametrize("group", ["C1", "C3", "D2"])
def test_distinct_modes_equal_a_greedy_loop_over_the_group(group: str) -> None:
    operators = Rotation.create_group(group).as_matrix()
    rng = np.random.default_rng(23)
    turns = random_rotations(5 * 24, 23).reshape(5, 24, 3, 3)
    for n, m in itertools.product(range(5), range(0, 24, 3)):  # a near copy, and a near copy of a group mate
        turns[n, m + 1] = turned(rng.normal(0, 0.05, 3), turns[n, m])
        turns[n, m + 2] = turned(rng.normal(0, 0.05, 3), operators[rng.integers(len(operators))] @ turns[n, m])
    scores = rng.standard_normal((5, 24))
    out = np.empty((5, 6), np.int64)
    posterior.distinct_modes(turns, scores, operators, np.radians(15.0), out)
    for n in range(5):
        kept: list[int] = []
        for m in sorted(range(24), key=lambda m: -scores[n, m]):
            if len(kept) < 6 and all(degrees_up_to_symmetry(turns[n, f], turns[n, m], operators) >= 15.0 for f in kept):
                kept.append(m)
        assert out[n].tolist() == kept + [-1] * (6 - len(kept))


def test_places_without_a_mode_hold_minus_one() -> None:
    turns = np.broadcast_to(np.eye(3), (1, 4, 3, 3)).copy()
    out = np.empty((1, 3), np.int64)
    posterior.distinct_modes(turns, np.array([[0.0, 2.0, 2.0, 1.0]]), np.eye(3)[None], 0.1, out)
    assert out.tolist() == [[1, -1, -1]]


def test_mode_weights_equal_laplace_masses() -> None:
    rng = np.random.default_rng(24)
    scores, log_determinant = rng.normal(0, 2, (6, 4)), rng.normal(0, 3, (6, 4))
    present = rng.random((6, 4)) < 0.7
    present[:, 0] = True
    log_determinant[2, 1] = np.inf
    log_determinant[2, 0] = 1.0
    weights = posterior.mode_weights(scores, log_determinant, present)
    for n in range(6):
        masses = [np.exp(scores[n, m]) / np.sqrt(np.exp(log_determinant[n, m])) if present[n, m] else 0.0 for m in range(4)]
        np.testing.assert_allclose(weights[n], np.array(masses) / sum(masses), rtol=1e-10)
    np.testing.assert_allclose(posterior.mode_weights(scores + 1e5, log_determinant, present), weights, atol=1e-8)


# --- noise


def test_residual_power_equals_direct_sums_over_shells() -> None:
    rng = np.random.default_rng(25)
    y, v = (rng.standard_normal((2, 4, len(PLANE))) + 1j * rng.standard_normal((2, 4, len(PLANE)))).astype(np.complex64)
    amplitude = rng.uniform(-1, 1, (4, len(PLANE))).astype(np.float32)
    shifts = rng.uniform(-4, 4, (4, 2))
    out = np.full((4, 3, RADIUS + 1), np.nan)
    noise.residual_power(as_pairs(v), shifts, (as_pairs(y), amplitude), PLANE.arrays(len(PLANE)), PLANE.shell, out)
    centred = y * np.exp(-2j * np.pi * shifts @ PLANE.coordinates.T / BOX)
    model_ft = amplitude.astype(float) * v
    for s in range(RADIUS + 1):
        at = PLANE.shell == s
        np.testing.assert_allclose(out[:, 0, s], (np.abs(centred - model_ft)[:, at] ** 2).sum(1), rtol=1e-5)
        np.testing.assert_allclose(out[:, 1, s], (centred.conj() * model_ft).real[:, at].sum(1), atol=1e-4)
        np.testing.assert_allclose(out[:, 2, s], (np.abs(model_ft)[:, at] ** 2).sum(1), rtol=1e-5)
    power = noise.power_by_shell(y, PLANE.shell, 5)
    np.testing.assert_allclose(power, [[(np.abs(row[PLANE.shell == s]) ** 2).sum(dtype=float) for s in range(5)] for row in y], rtol=1e-5)


# --- rotations


def test_the_grid_of_rotations_is_nearly_uniform() -> None:
    number = 3000
    grid = rotations.super_fibonacci_grid(number)
    np.testing.assert_allclose(np.linalg.norm(grid, axis=1), 1.0, atol=1e-12)
    chord = cKDTree(np.concatenate([grid, -grid])).query(grid, k=2)[0][:, 1]
    nearest = 4 * np.arcsin(chord / 2)  # the rotation's angle is twice that between quaternions
    # Rotations by less than a fill a^3 / (6 pi) of the group; in the densest packing of space (0.74) balls of half the spacing touch.
    densest = 2 * (6 * np.pi * 0.7405 / number) ** (1 / 3)
    assert nearest.max() < densest and nearest.min() > 0.5 * densest
    assert nearest.std() < 0.12 * nearest.mean()  # random rotations: 0.36
    assert np.abs(rotations.matrices_from_quaternions(grid).mean(0)).max() < 0.01


def test_quaternions_and_matrices_agree_with_scipy_both_ways() -> None:
    halves = np.concatenate([np.eye(4), [[0.6, 0.8, 0, 0], [0, 0.6, -0.8, 0], [1, 1e-9, 0, 1e-9]]])  # half turns, and the identity
    quaternions = np.concatenate([Rotation.random(200, random_state=26).as_quat(), halves])
    matrices = rotations.matrices_from_quaternions(quaternions)
    np.testing.assert_allclose(matrices, Rotation.from_quat(quaternions).as_matrix(), atol=1e-14)
    back = rotations.quaternions_from_matrices(matrices)
    assert back[:, 3].min() >= 0
    np.testing.assert_allclose(np.abs((back * quaternions).sum(1)), 1.0, atol=1e-12)
    np.testing.assert_allclose(rotations.matrices_from_quaternions(back), matrices, atol=1e-12)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, 0.5, 3.0, 3.141])
def test_the_exponential_map_agrees_with_scipy_both_ways(angle: float) -> None:
    omega = np.random.default_rng(27).standard_normal(3)
    omega *= angle / np.linalg.norm(omega)
    turn, out, vector = random_rotations(1, 27)[0], np.empty((3, 3)), np.empty(3)
    rotations.rotate_by(omega, turn, out)
    np.testing.assert_allclose(out, turned(omega, turn), atol=1e-14)
    rotations.rotation_vector_between(turn, out, vector)
    np.testing.assert_allclose(vector, omega, atol=1e-11)


@pytest.mark.parametrize("group", ["C1", "C4", "D2", "D7", "T", "O", "I"])
def test_the_asymmetric_unit_keeps_one_gth_of_the_grid_and_a_mate_of_everything(group: str) -> None:
    operators = Rotation.create_group(group).as_matrix()
    grid = rotations.super_fibonacci_grid(6000)
    kept = rotations.asymmetric_unit_rows(grid, operators)
    assert abs(len(kept) * len(operators) / 6000 - 1) < 0.1 and len(set(kept.tolist())) == len(kept)
    for turn in random_rotations(20, 28):
        mates = operators @ turn
        inside = rotations.asymmetric_unit_rows(Rotation.from_matrix(mates).as_quat(), operators)
        assert len(inside) == 1


def test_the_grid_of_shifts_fills_a_disc_from_its_middle() -> None:
    grid = rotations.shift_grid(3.0, 1.5)
    expected = {(x * 1.5, y * 1.5) for x in range(-3, 4) for y in range(-3, 4) if np.hypot(x, y) <= 2}
    assert {tuple(s) for s in grid.tolist()} == expected and len(grid) == len(expected) and not grid[0].any()
    assert np.all(np.diff(np.hypot(*grid.T)) >= -1e-6)
