"""Scoring against the truth: frames, groups, hands and outliers are taken out; the bound is what estimators reach."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from protomer.maps.volumes import Volume
from protomer.simulation.cramer_rao import ImageModel, pose_bound
from protomer.simulation.dataset import Simulator
from protomer.simulation.draws import SimulationDesign, Truth, draw_truth, true_ctf
from protomer.simulation.scatterers import AtomModel
from protomer.simulation.truth import MIRROR, PoseErrors, TruthFrame, in_frame, pose_errors, truth_fsc
from protomer.symmetry.point_groups import operators
from protomer_kernels.atoms import real_volume
from protomer_kernels.ctf import CtfParameters, ctf_values
from protomer_kernels.half_plane import HalfPlane, transform_images
from protomer_kernels.rotations import quaternions_from_matrices
from simulated import chain_dataset, chain_model

NUMBER = 400


def some_truth() -> Truth:
    return draw_truth(SimulationDesign(NUMBER, 32, 4.0, 0.1, seed=8), np.zeros((1, 3)))


def scored(group: str, lost: float, noise_deg: float, hand: bool = False,
           both_hands: bool = False) -> tuple[PoseErrors, np.ndarray, np.ndarray]:
    """Poses in another frame, under random operators, with noise and some lost; and the frame they were put in."""
    random, truth = np.random.default_rng(0), some_truth()
    frame, moved_A = Rotation.random(rng=random).as_matrix(), random.normal(0, 5, 3)
    if group != "C1":
        moved_A *= 0.0
    mates = operators(group)[random.integers(0, len(operators(group)), NUMBER)] @ truth.rotation_matrix
    mates = MIRROR @ mates @ MIRROR if hand else mates
    found = Rotation.from_rotvec(np.deg2rad(noise_deg) * random.standard_normal((NUMBER, 3))).as_matrix() @ frame @ mates
    gone = np.flatnonzero(random.random(NUMBER) < lost)
    found[gone] = Rotation.random(len(gone), rng=random).as_matrix()
    shift_A = truth.shift_A + np.einsum("nij,i->nj", found, moved_A)[:, :2]
    shift_A[gone] += random.normal(0, 20, (len(gone), 2))
    errors = pose_errors(quaternions_from_matrices(found), shift_A, truth.rotation, truth.shift_A, operators(group), both_hands)
    return errors, frame, moved_A


def test_a_frame_alone_leaves_no_error() -> None:
    errors, frame, moved_A = scored("C1", lost=0.0, noise_deg=0.0)
    assert errors.angle_deg.max() < 1e-5 and errors.shift_A.max() < 1e-6
    assert errors.frame.rotation == pytest.approx(frame, abs=1e-8)
    assert errors.frame.translation_A == pytest.approx(moved_A, abs=1e-6)


@pytest.mark.parametrize("group", ["C1", "C2", "D3", "T"])
def test_operators_and_lost_particles_do_not_disturb_the_score(group: str) -> None:
    errors, _, _ = scored(group, lost=0.4, noise_deg=1.0)
    kept = errors.angle_deg < 10
    assert 0.5 < kept.mean() < 0.75
    assert np.median(errors.angle_deg[kept]) == pytest.approx(1.54, rel=0.12)  # median of chi with 3 degrees of freedom
    assert np.median(errors.shift_A[kept]) < (0.15 if group == "C1" else 0.1)


def test_the_other_hand_is_found_only_when_asked_for() -> None:
    with_hand, _, _ = scored("C1", lost=0.1, noise_deg=0.5, hand=True, both_hands=True)
    without, _, _ = scored("C1", lost=0.1, noise_deg=0.5, hand=True)
    assert with_hand.frame.flipped and np.median(with_hand.angle_deg) < 1.0
    assert not without.frame.flipped and np.median(without.angle_deg) > 20


def test_the_right_hand_is_kept_when_both_are_tried() -> None:
    errors, _, _ = scored("C2", lost=0.1, noise_deg=0.5, both_hands=True)
    assert not errors.frame.flipped


def test_random_poses_score_as_lost() -> None:
    truth = some_truth()
    random = Rotation.random(NUMBER, rng=np.random.default_rng(3)).as_quat()
    assert pose_errors(random, truth.shift_A, truth.rotation, truth.shift_A).lost() > 0.9


def test_too_few_poses_are_refused() -> None:
    truth = some_truth().take(slice(0, 2))
    with pytest.raises(ValueError, match="at least 3"):
        pose_errors(truth.rotation, truth.shift_A, truth.rotation, truth.shift_A)


@pytest.mark.parametrize("flipped", [False, True])
def test_the_true_map_is_moved_with_the_poses(flipped: bool) -> None:
    """Slices of the moved map at the moved poses are slices of the map at the true poses."""
    box, pixel_size_A = 32, 4.0
    model = chain_model(bfactor_A2=900.0)
    truth = Volume(real_volume(model.volume_ft(box, pixel_size_A), box), pixel_size_A)
    random = np.random.default_rng(4)
    motion = TruthFrame(Rotation.random(rng=random).as_matrix(), np.array([5.0, -3.0, 6.0]), flipped)
    positions_A = model.positions_A * ([1, 1, -1] if flipped else [1, 1, 1])
    moved = AtomModel(positions_A @ motion.rotation.T + motion.translation_A, model.weights, model.bfactor_A2)
    exact = Volume(real_volume(moved.volume_ft(box, pixel_size_A), box), pixel_size_A)
    # a sampled map is band-limited and so never ends quite within its box: that is the 1% here
    assert np.abs(in_frame(truth, motion).data - exact.data).max() < 0.015 * exact.data.max()
    assert truth_fsc(exact, truth, motion)[: box // 2 - 2].min() > 0.999
    assert truth_fsc(exact, truth, TruthFrame(np.eye(3), np.zeros(3)))[4 : box // 2].mean() < 0.5


def test_truth_of_another_voxel_size_is_refused() -> None:
    volume = chain_dataset().volume
    with pytest.raises(ValueError, match="box"):
        truth_fsc(Volume(volume.data, 3.0), volume, TruthFrame(np.eye(3), np.zeros(3)))


def test_estimators_with_the_true_map_reach_the_bound_and_do_not_beat_it() -> None:
    """Least squares from the true pose, with images made and fitted in float64: errors, in units of the bound, have the covariance 1."""
    number = 50
    design = SimulationDesign(number, 32, 4.0, 4.0, seed=2)
    model = chain_model(30)
    simulator = Simulator((model,), design)
    truth, plane = simulator.truth, HalfPlane(32, 15)
    images_ft = transform_images(simulator.images(np.arange(number)), plane)
    noise = np.ones(17)
    bound = pose_bound(ImageModel(model, simulator.gain, 32, 4.0, noise), true_ctf(design, truth), truth.contrast, truth.rotation_matrix)
    ctf = np.empty((number, len(plane)), np.float32)
    ctf_values(true_ctf(design, truth), plane.kx, plane.ky, 1 / (32 * 4.0), ctf)
    squares = []
    for n in range(number):
        def residual(step: np.ndarray, n: int = n) -> np.ndarray:
            matrix = Rotation.from_rotvec(step[:3]).as_matrix() @ truth.rotation_matrix[n]
            points = model.positions_A @ matrix[:, :2] - (truth.shift_A[n] + 10.0 * step[3:])
            along_x, along_y = (np.exp(-2j * np.pi / (32 * 4.0) * points[:, i, None] * np.arange(-15, 16)) for i in (0, 1))
            structure = ((model.weights[:, None] * along_y).T @ along_x)[plane.ky.astype(int) + 15, plane.kx.astype(int) + 15]
            envelope = np.exp(-model.bfactor_A2 / 4 * (plane.kx**2 + plane.ky**2) / (32 * 4.0) ** 2)
            model_ft = simulator.gain * ctf[n] * envelope * structure / 32
            difference = (images_ft[n] - model_ft)[1:] * np.sqrt(2)
            return np.concatenate([difference.real, difference.imag])

        error = least_squares(residual, np.zeros(5), method="lm", x_scale=0.02, xtol=1e-5, ftol=1e-8, max_nfev=60).x * [1, 1, 1, 10, 10]
        squares.append(error @ np.linalg.solve(bound.covariance[n], error))
    assert np.mean(squares) == pytest.approx(5.0, abs=1.0)  # chi-squared with 5 degrees of freedom, mean of 50: 5.0 +- 0.45


def test_the_bound_falls_with_the_noise_and_with_resolution() -> None:
    data, model = chain_dataset(number=20), chain_model()
    ctf = true_ctf(data.design, data.truth)

    def angle_deg(noise: float, finest_A: float = 0.0) -> float:
        image_model = ImageModel(model, 0.01, 32, 4.0, np.full(17, noise))
        return pose_bound(image_model, ctf, data.truth.contrast, data.truth.rotation_matrix, (np.inf, finest_A)).medians()[0]

    assert angle_deg(4.0) == pytest.approx(2 * angle_deg(1.0), rel=1e-6)
    assert angle_deg(1.0, 20.0) > 1.5 * angle_deg(1.0)


def test_a_bound_on_two_points_is_the_one_worked_out_by_hand() -> None:
    """Without envelope or CTF, |dM/dshift_x|^2 = (2 pi kx / L)^2 |F|^2 / N^2: a sum over the plane that needs no derivative."""
    model = AtomModel(np.array([[20.0, 0.0, 0.0], [-20.0, 10.0, 5.0]]), np.array([3.0, 2.0], np.float32), 0.0)
    flat = CtfParameters(0.0, 0.0, 0.0, 300e3, 0.0, 1.0)  # amplitude contrast 1: CTF = 1
    bound = pose_bound(ImageModel(model, 1.0, 32, 4.0, np.ones(17)), flat, np.ones(1), np.eye(3)[None])
    kx, ky = np.meshgrid(np.arange(-16, 17), np.arange(-16, 17))
    inside = (kx**2 + ky**2 < 256) & ((kx > 0) | ((kx == 0) & (ky > 0)))
    power = np.abs(np.exp(-2j * np.pi * (np.stack([kx, ky], -1) @ (model.positions_A[:, :2] / 128).T)) @ model.weights.astype(float)) ** 2
    information = 2 * (power * (2 * np.pi * kx / 128) ** 2)[inside].sum() / 32**2
    assert np.linalg.inv(bound.covariance[0])[3, 3] == pytest.approx(information, rel=1e-3)
