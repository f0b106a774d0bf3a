"""The parts of ab-initio: its schedule, first noise spectrum, centring, batches and grey scale."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from protomer.abinitio.noise import background_noise
from protomer.abinitio.outcome import Outcome, in_image_box, unlike_radial_mean, warn
from protomer.abinitio.schedule import COARSE_RADIUS, coarse_radius, steps_of
from protomer.abinitio.setting_up import unit_batches
from protomer.abinitio.steps import random_quaternions
from protomer.abinitio.structures import Structures, offset_px
from protomer.engine.maximisation import Sums
from protomer.engine.pose_table import PoseTable
from protomer.imaging.images import ImageStore
from protomer.running.events import Events
from protomer.running.ranks import Team
from protomer.simulation.dataset import simulate_dataset
from protomer.simulation.draws import SimulationDesign
from protomer.symmetry.point_groups import operators
from protomer_kernels.fourier import crop_images, low_pass
from protomer_kernels.half_plane import HalfPlane, largest_radius
from protomer_kernels.masks import sphere_mask
from protomer_kernels.noise import power_by_shell
from protomer_kernels.rotations import matrices_from_quaternions
from reconstructions import as_particles
from simulated import chain_model

BOX, PIXEL_A = 32, 4.5


def test_the_radius_grows_to_the_last_and_sharing_ends_before_the_fine_steps() -> None:
    steps = steps_of(6, 15, 2, (90, 300), 0.4)
    assert [step.number for step in steps] == list(range(len(steps)))
    assert [step.start for step in steps if step.is_first] == [0, 1] == [step.start for step in steps if step.is_last_of_start]
    later = [step for step in steps if step.start == 2]
    radii = [step.radius for step in later]
    assert radii == sorted(radii) and radii[0] == COARSE_RADIUS and radii[-1] == 15
    first = [step.radius for step in steps if step.start == 0]
    assert first == sorted(first) and first[0] == 6 and first[-1] == COARSE_RADIUS
    assert max(step.radius for step in later if not step.is_fine) == COARSE_RADIUS
    assert steps[0].shared == 0.4 and all(step.shared == 0.0 for step in later)


def test_no_coarse_step_looks_beyond_what_the_sums_hold_in_a_wide_box() -> None:
    for first, last in ((6, 8), (6, 19), (13, 37), (18, 19)):
        steps = steps_of(first, last, 2, (90, 300), 0.0)
        coarse = [step.radius for step in steps if not step.is_fine]
        assert min(coarse) == first and max(coarse) == coarse_radius(first, last) <= last == steps[-1].radius
        assert [step.radius for step in steps if step.is_fine] == sorted(step.radius for step in steps if step.is_fine)


def test_the_first_noise_spectrum_holds_no_signal(tmp_path: Path) -> None:
    data = simulate_dataset(chain_model(size=0.6), SimulationDesign(256, BOX, PIXEL_A, 0.5, seed=3))  # small: noise all around it
    particles, plane = as_particles(data, tmp_path), HalfPlane(BOX, largest_radius(BOX))
    batches = unit_batches(particles, 0)
    store = ImageStore(particles, plane, [batch.rows for batch in batches])
    setup = SimpleNamespace(store=store, particles=particles, batches=batches, numbers=range(len(batches)), team=Team())
    noise = background_noise(setup)[0]  # type: ignore[arg-type]
    counts = np.bincount(plane.shell)
    power = np.concatenate([power_by_shell(store.load(n), plane.shell, len(counts)) for n in range(len(batches))]).mean(axis=0) / counts
    assert power[3:7].mean() > 1.5  # signal and noise, where the noise alone has 1
    np.testing.assert_allclose(noise[3:], 1.0, atol=0.25)


def test_batches_hold_every_image_once_and_do_not_follow_the_order_of_the_table(tmp_path: Path) -> None:
    particles = as_particles(simulate_dataset(chain_model(), SimulationDesign(70, 16, 9.0, 0.5, seed=3)), tmp_path)
    rows = [batch.rows for batch in unit_batches(particles, 5)]
    assert sorted(np.concatenate(rows).tolist()) == list(range(70)) and [len(part) for part in rows] == [32, 32, 6]
    turned = np.arange(70)[::-1]
    again = [set(particles.take(turned).image_uid[batch.rows]) for batch in unit_batches(particles.take(turned), 5)]
    assert again == [set(particles.image_uid[part]) for part in rows]


def test_random_rotations_are_even_over_all() -> None:
    matrices = matrices_from_quaternions(random_quaternions(3, np.arange(20000, dtype=np.uint64)))
    np.testing.assert_allclose(matrices.mean(axis=0), 0.0, atol=0.02)
    np.testing.assert_allclose(np.trace(matrices, axis1=1, axis2=2).mean(), 0.0, atol=0.03)  # 1 + 2 cos: the mean over all rotations is 0


@pytest.mark.parametrize(("group", "free"), [("C1", (1.0, 1.0, 1.0)), ("C3", (0.0, 0.0, 1.0)), ("D2", (0.0, 0.0, 0.0)), ("I", (0.0,) * 3)])
def test_a_map_is_centred_as_far_as_its_group_leaves_it_free(group: str, free: tuple[float, float, float]) -> None:
    ball = sphere_mask(40, 6.0, 2.0, centre_px=(20.8, 19.4, 21.0))  # z, y, x
    np.testing.assert_allclose(offset_px(ball, operators(group)), np.array([1.0, -0.6, 0.8]) * free, atol=0.02)


def test_running_sums_forget_at_the_rate_of_their_gain() -> None:
    now = Structures.nothing(1, 8, 2)
    batch = [Sums(np.ones_like(now.numerator[0]), np.full_like(now.weight[0], 2.0))]
    once = now.added(batch, 0.25)
    np.testing.assert_allclose(once.weight, 2.0)
    after = once
    for _ in range(200):
        after = after.added(batch, 0.25)
    np.testing.assert_allclose(after.weight, 2.0 / 0.25, rtol=1e-5)
    assert once.steps == 1


def test_a_map_keeps_the_grey_scale_of_its_projections_in_the_images_own_box() -> None:
    small = low_pass(np.random.default_rng(2).standard_normal((20, 20, 20)).astype(np.float32), 7.0, 2.0)
    work = SimpleNamespace(frame=SimpleNamespace(image_box=48, box=20, pixel_A=6.0))
    large = in_image_box(work, small)  # type: ignore[arg-type]
    assert large.box == 48 and large.voxel_size_A == pytest.approx(2.5)
    np.testing.assert_allclose(crop_images(large.data.sum(axis=0), 20), small.sum(axis=0), atol=1e-4)


def test_a_ball_has_no_structure_and_a_particle_has() -> None:
    ball = low_pass(sphere_mask(BOX, 7.0, 3.0), 6.0, 2.0)
    particle = low_pass(simulate_dataset(chain_model(), SimulationDesign(1, BOX, PIXEL_A, 0.5)).volume.data, 6.0, 2.0)
    assert unlike_radial_mean(ball) < 0.02 and unlike_radial_mean(particle) > 0.3
    assert unlike_radial_mean(np.zeros((8, 8, 8), np.float32)) == 0.0


def test_a_run_that_has_not_found_the_particle_says_so_and_a_class_without_images_too() -> None:
    events, posterior = Events(None), np.tile([0.999, 0.001], (200, 1))
    outcome = Outcome([], posterior, PoseTable.empty(200), np.ones(200), np.array([0.6, 0.6]))
    warn(outcome, 0.98, [(0, 1, 0.4)], events)
    assert [warning["code"] for warning in events.warnings] == ["empty_class"]
    poor = Outcome([], posterior[:, ::-1], PoseTable.empty(200), np.zeros(200), np.array([0.6, 0.05]))
    warn(poor, 0.76, [(1, 0, 0.97)], events)
    assert {warning["code"] for warning in events.warnings} == {"empty_class", "no_structure", "no_particle", "unsure_poses", "same_class"}
