"""The Ewald sphere: images of thick particles against direct sums over atoms, curved slices, and maps with the right sign and the wrong."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kernel_oracles import BOX, PLANE, as_pairs, insert, oracle_corners, random_rotations
from protomer.engine.maximisation import half_map_curve, solid_sphere
from protomer.imaging.ewald import Ewald, curved_radius
from protomer.maps.volumes import Halves
from protomer.refinement.curvature import chosen_sign, information
from protomer.refinement.setup import MASK_FRACTION
from protomer.running.events import Events
from protomer.simulation.dataset import SimulatedData, Simulator, simulate_dataset
from protomer.simulation.draws import SimulationDesign
from protomer.simulation.scatterers import AtomModel, MapModel
from protomer_kernels.atom_layers import chebyshev_nodes, layer_weights
from protomer_kernels.ctf import electron_wavelength_A
from protomer_kernels.ewald import half_curves, height_form, heights, overlap
from protomer_kernels.insertion import fixed_point_scale
from protomer_kernels.rotations import matrices_from_quaternions
from protomer_kernels.shells import fourier_shell_correlation
from reconstructions import as_particles, rebuilt

THICK = {"number": 600, "box": 48, "pixel_size_A": 2.0, "snr": 0.2, "voltage_V": 1e3, "spherical_aberration_A": 0.0,
         "defocus_min_A": 1000.0, "defocus_max_A": 3000.0, "astigmatism_A": 30.0, "max_shift_A": 4.0}
OUTER = slice(16, 23)
RADIUS_A = 38.0  # the atoms farthest from the centre are out of phase by 2.6 radians at 4.2 Å


def ball_of_atoms(radius_A: float = RADIUS_A, number: int = 1500, seed: int = 3) -> AtomModel:
    """Atoms without any order in a ball."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(number, 3))
    radii = radius_A * rng.random(number) ** (1 / 3)
    positions = directions / np.linalg.norm(directions, axis=1, keepdims=True) * radii[:, None]
    return AtomModel(positions - positions.mean(axis=0), np.full(number, 6.0, np.float32), 12.0)


def images_by_defocus_of_each_atom(model: AtomModel, simulator: Simulator, rows: np.ndarray) -> np.ndarray:
    """Slow oracle: transforms (n, box, box // 2 + 1) in which every atom has the defocus of its own height. Float64, no kernel used."""
    design, truth = simulator.design, simulator.truth.take(rows)
    box, pixel_A = design.box, design.pixel_size_A
    ky, kx = np.fft.fftfreq(box, 1 / box)[:, None], np.arange(box // 2 + 1)[None]
    x, y = (np.broadcast_to(k, (box, box // 2 + 1)) / (box * pixel_A) for k in (kx, ky))
    s2 = x * x + y * y
    energy, rest, h, m, e = design.voltage_V * 1.602176634e-19, 8.1871057769e-14, 6.62607015e-34, 9.1093837015e-31, 1.602176634e-19
    wavelength = 1e10 * h / np.sqrt(2 * m * e * design.voltage_V * (1 + energy / (2 * rest)))
    out = np.zeros((len(rows), box, box // 2 + 1), complex)
    for n in range(len(rows)):
        turn = matrices_from_quaternions(truth.rotation[n : n + 1])[0]
        seen = model.positions_A @ turn - np.append(truth.shift_A[n], 0.0)
        angle = np.arctan2(y, x) - truth.defocus_angle_rad[n]
        u, v = truth.defocus_u_A[n], truth.defocus_v_A[n]
        for (px, py, pz), weight in zip(seen, model.weights.astype(float), strict=True):
            own = u * np.cos(angle) ** 2 + v * np.sin(angle) ** 2 + design.ewald_sign * pz
            gamma = -np.pi * wavelength * own * s2 + 0.5 * np.pi * design.spherical_aberration_A * wavelength**3 * s2**2
            gamma -= np.arcsin(design.amplitude_contrast)
            out[n] += weight * np.exp(-2j * np.pi * (x * px + y * py)) * -np.sin(gamma)
    out *= np.exp(-0.25 * model.bfactor_A2 * s2)
    out[:, s2 * (box * pixel_A) ** 2 >= box**2 / 4] = 0
    return out


@pytest.mark.parametrize("sign", [1, -1])
def test_simulated_images_have_each_atom_at_the_defocus_of_its_own_height(sign: int) -> None:
    model = ball_of_atoms(30.0, 60)
    simulator = Simulator((model,), SimulationDesign(**{**THICK, "number": 4, "spherical_aberration_A": 1e5}, ewald_sign=sign))
    rows = np.arange(3)
    found = np.fft.rfft2(np.fft.ifftshift(simulator.signal(simulator.truth.take(rows), rows), axes=(1, 2)))
    expected = images_by_defocus_of_each_atom(model, simulator, rows)
    ky = np.fft.fftfreq(THICK["box"], 1 / THICK["box"])[:, None]
    wavelength = float(electron_wavelength_A(THICK["voltage_V"]))
    e = wavelength * (ky**2 + np.arange(25) ** 2) / (THICK["box"] * THICK["pixel_size_A"]) ** 2 / 2  # the blob's own extent along the beam
    expected *= np.exp(-0.25 * model.bfactor_A2 * e**2)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).std()
    flat = images_by_defocus_of_each_atom(model, Simulator((model,), replace(simulator.design, ewald_sign=0)), rows)
    assert np.abs(flat - expected).max() > np.abs(expected).std()  # the curvature is no trifle here


def test_thick_images_of_a_map_equal_those_of_the_atoms_that_made_it() -> None:
    model = AtomModel(0.8 * ball_of_atoms(24.0, 300).positions_A, np.full(300, 6.0, np.float32), 300.0)
    design = SimulationDesign(**{**THICK, "number": 3}, ewald_sign=1)
    atoms = Simulator((model,), design)
    volume = replace(atoms.volume(), data=atoms.volume().data / np.float32(atoms.gain))
    rows = np.arange(3)
    theirs, ours = (s.signal(s.truth.take(rows), rows) for s in (atoms, Simulator((MapModel(volume),), design)))
    assert np.abs(ours - theirs).max() < 5e-3 * theirs.std()  # the map ends at Nyquist, off the plane too


def test_layer_weights_interpolate_polynomials() -> None:
    nodes, found = chebyshev_nodes(7, 5.0), np.empty(7)
    for z in (-4.9, 0.3, 2.0, float(nodes[2])):
        layer_weights(z, nodes, found)
        for power in range(7):
            assert abs(found @ nodes**power - z**power) < 1e-9 * 5.0**power


def test_half_curves_become_the_flat_slice_where_they_meet_and_a_quarter_each_where_they_are_apart() -> None:
    gamma = np.linspace(-3, 3, 50)[None]
    c, s = -np.sin(gamma), np.cos(gamma)
    factor, amplitude = half_curves(c, s, np.ones_like(c))
    np.testing.assert_allclose(amplitude * factor + amplitude * np.conj(factor), c, atol=1e-5)
    np.testing.assert_allclose(2 * amplitude**2, c * c, atol=1e-5)
    factor, amplitude = half_curves(c, s, np.zeros_like(c))
    np.testing.assert_allclose(amplitude**2, 0.25, atol=1e-6)
    np.testing.assert_allclose(amplitude * factor, 0.5 * np.conj(1j * np.exp(1j * gamma)), atol=1e-6)


def test_the_overlap_is_the_transform_of_a_ball() -> None:
    axis = np.linspace(-0.5, 0.5, 4001)
    profile = np.maximum(0.25 - axis**2, 0.0)  # area of a ball's cross-sections
    for height in (0.0, 1e-3, 0.2, 0.9):
        direct = (profile * np.cos(2 * np.pi * axis * 0.4 * 2 * height)).sum() / profile.sum()
        assert abs(overlap(np.array(height), 0.4) - direct) < 1e-6


def test_curved_sums_equal_a_double_precision_loop() -> None:
    rng = np.random.default_rng(9)
    turns, shifts = random_rotations(3, 9), rng.uniform(-3, 3, (3, 2))
    y = rng.standard_normal((3, len(PLANE))) + 1j * rng.standard_normal((3, len(PLANE)))
    amplitude = rng.uniform(-1, 1, (3, len(PLANE))).astype(np.float32)
    forms = rng.uniform(-0.01, 0.01, (3, 3)).astype(np.float32)
    scale = fixed_point_scale(6.0, 5)
    sums = insert(turns, shifts, np.ones(3), as_pairs(y), amplitude, scale, 2, curvature=forms) / scale
    expected = np.zeros(sums.shape)
    kx, ky = PLANE.coordinates.T
    for n in range(3):
        raised = np.column_stack([kx, ky, forms[n].astype(float) @ [kx * kx, kx * ky, ky * ky]])
        sign, corners = oracle_corners(2.0 * raised @ turns[n].T, (len(sums) - 1) // 2)
        moved = amplitude[n] * y[n] * np.exp(-2j * np.pi * PLANE.coordinates @ shifts[n] / BOX)
        for index, t in corners:
            for part, term in enumerate((moved.real, sign * moved.imag, amplitude[n].astype(float) ** 2)):
                np.add.at(expected[..., part], index, t * term)
    np.testing.assert_allclose(sums, expected, atol=2e-5)


def test_heights_follow_the_magnification() -> None:
    magnification = np.array([[[1.1, 0.05], [-0.02, 0.9]]])
    form = height_form(-1, np.array([1e5]), 200.0, magnification)
    kx, ky = np.array([3.0, -7.0]), np.array([5.0, 11.0])
    moved = magnification[0] @ [kx, ky]
    np.testing.assert_allclose(heights(form, kx, ky)[0], -0.5 * 0.0370144 / 200.0 * (moved**2).sum(0), rtol=1e-4)


@functools.cache
def thick() -> SimulatedData:
    return simulate_dataset(ball_of_atoms(), SimulationDesign(**THICK, ewald_sign=1))


@functools.cache
def without_depth() -> SimulatedData:
    return simulate_dataset(ball_of_atoms(), SimulationDesign(**THICK))


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> dict[str | int, tuple[Halves[np.ndarray], np.ndarray]]:
    """Maps of images made with the sign +1, by the sign that was assumed; "depthless": of images without curvature."""
    particles = as_particles(thick(), tmp_path_factory.mktemp("thick"))
    found: dict[str | int, tuple[Halves[np.ndarray], np.ndarray]] = {
        sign: rebuilt(particles, ewald=Ewald(sign) if sign else None) for sign in (0, 1, -1)}
    return found | {"depthless": rebuilt(as_particles(without_depth(), tmp_path_factory.mktemp("flat")))}


@pytest.fixture(scope="module")
def curves(maps: dict[str | int, tuple[Halves[np.ndarray], np.ndarray]]) -> dict[str | int, np.ndarray]:
    """FSC of each map with the truth."""
    return {name: fourier_shell_correlation(both, thick().volume.data) for name, (_, both) in maps.items()}


def test_the_right_sign_brings_back_what_is_lost_without_it_and_the_wrong_one_loses_more(curves: dict[str | int, np.ndarray]) -> None:
    outer = {name: float(curve[OUTER].mean()) for name, curve in curves.items()}
    assert abs(outer[1] - outer["depthless"]) < 0.02, outer
    assert outer[1] > outer[0] + 0.05 and outer[0] > outer[-1] + 0.3, outer


def test_low_frequencies_are_those_of_the_flat_reconstruction(curves: dict[str | int, np.ndarray]) -> None:
    assert np.abs(curves[1][1:5] - curves[0][1:5]).max() < 5e-3


def test_grey_values_are_those_of_a_reconstruction_without_curvature(maps: dict[str | int, tuple[Halves[np.ndarray], np.ndarray]]) -> None:
    truth = np.fft.fftn(thick().volume.data)
    shell = np.rint(np.sqrt(sum(k**2 for k in np.meshgrid(*3 * [np.fft.fftfreq(48, 1 / 48)], indexing="ij")))).astype(int)
    gains = {}
    for name in (1, "depthless"):
        cross = (np.fft.fftn(maps[name][1]) * truth.conj()).real
        gains[name] = np.bincount(shell.ravel(), cross.ravel())[2:22] / np.bincount(shell.ravel(), np.abs(truth.ravel()) ** 2)[2:22]
    assert np.abs(gains[1] / gains["depthless"] - 1).max() < 0.1, gains


def test_half_maps_know_most_of_one_another_under_the_right_sign_by_a_clear_margin(
    maps: dict[str | int, tuple[Halves[np.ndarray], np.ndarray]]
) -> None:
    mask, events = solid_sphere(48, MASK_FRACTION), Events(None)
    found = {sign: information(half_map_curve(maps[sign][0], mask)) for sign in (0, 1, -1)}
    bits, error = ({sign: pair[at] for sign, pair in found.items()} for at in (0, 1))
    assert bits[1] > bits[0] > bits[-1]
    assert chosen_sign(bits, error, events) == 1 and not events.warnings
    even = {sign: bits[1] + sign * error[1] for sign in bits}
    assert chosen_sign(even, error, events) == 0
    assert [w["code"] for w in events.warnings] == ["ewald_undecided"]


def test_points_above_the_plane_lie_within_the_volume(tmp_path: Path) -> None:
    particles = as_particles(simulate_dataset(ball_of_atoms(), SimulationDesign(**{**THICK, "number": 4, "voltage_V": 1e3})), tmp_path)
    reach = curved_radius(particles, 23, 96.0)
    e = 0.5 * float(electron_wavelength_A(1e3)) / 96.0
    assert np.hypot(reach, e * reach**2) <= 23.49 < np.hypot(reach + 1, e * (reach + 1) ** 2)
