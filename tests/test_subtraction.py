"""Subtraction against truth: what remains of what was taken, whose half map it is, and what it does where there is nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protomer.declarations.subtract import SubtractSettings
from protomer.errors import InputError
from protomer.formats.mrc import write_stack
from protomer.maps.volumes import Halves, MapRecord, Volume
from protomer.running.events import Events
from protomer.subtraction.fit import Fit, fit_sample, require_fit, warn_of_contrast
from protomer.subtraction.frame import frame_of
from protomer.subtraction.images import Subtraction
from protomer.subtraction.maps import split_density
from protomer.tables.particles import Particles
from protomer_kernels.fourier import pad_images
from protomer_kernels.shells import fourier_shell_correlation
from reconstructions import as_particles, rebuilt
from two_parts import BOX, PIXEL_A, Images, images, mask_around, parts, record_of

ABERRATED: dict[str, Any] = {"beam_tilt_rad": (1e-3, -5e-4), "magnification": (1.03, 0.01, 0.01, 0.98),
                             "even_zernike": (0.0,) * 8 + (60.0,), "odd_zernike": (0.0, 0.0, 4.0, -3.0, 0.0, 2.0)}
EVERYWHERE = Volume(np.ones((BOX,) * 3, np.float32), PIXEL_A), "everywhere"


def working(particles: Particles, record: MapRecord, support: tuple[Volume, str] | None = None, **settings: Any) -> Subtraction:
    """The job's work on all that is not the first part."""
    events, mask = Events(None), mask_around(parts()[0])
    density = split_density(record, mask, support, BOX, events)
    return Subtraction(particles, density, frame_of(particles, SubtractSettings(**settings), mask, density.resolution_A, events)[0], 1)


def left(work: Subtraction) -> np.ndarray:
    """All images less what is taken from them, in the order of the table."""
    out = np.empty((len(work.particles), work.frame.new_box, work.frame.new_box), np.float32)
    for half in (0, 1):
        rows = np.flatnonzero(work.particles.half == half)
        out[rows] = work.subtract(work.read(rows), rows, half)[0]
    return out


def remaining_percent(shown: Images, found: np.ndarray) -> float:
    """The power of what should not be there, in percent of that of the second part."""
    return 100.0 * float(np.square(found - shown.first, dtype=np.float64).sum() / np.square(shown.second, dtype=np.float64).sum())


@pytest.mark.parametrize("design", [{}, ABERRATED], ids=["plain", "aberrated"])
def test_without_noise_at_most_two_percent_of_what_is_taken_remains(tmp_path: Path, design: dict[str, Any]) -> None:
    shown = images(150, 0.25, False, **design)
    particles, truth = shown.particles(tmp_path), shown.data.volume.data
    true_map = remaining_percent(shown, left(working(particles, record_of(Halves.of(truth)))))
    rebuilt_maps = remaining_percent(shown, left(working(particles, record_of(rebuilt(particles)[0]))))
    print(f"remaining: {true_map:.2f} % with the true map, {rebuilt_maps:.2f} % with half maps from these images")
    assert true_map < 1.0 and rebuilt_maps < 2.0


def test_images_of_any_grey_scale_contrast_and_sign_lose_the_same_part(tmp_path: Path) -> None:
    """Raw images that are dark, offset and of another contrast each, in finer pixels, say the same once they are prepared."""
    shown, random = images(60, 0.25, False), np.random.default_rng(2)
    scale, gain, offset = random.uniform(0.5, 2, 60), -random.uniform(0.1, 0.3, 60), random.uniform(-20, 20, 60)
    particles = as_particles(shown.data, tmp_path)
    raw = (shown.data.images * scale[:, None, None] / gain[:, None, None] + offset[:, None, None]).astype(np.float32)
    path = tmp_path / "raw.mrcs"
    write_stack(path, pad_images(raw, 2 * BOX), PIXEL_A / 2)
    stack = replace(particles.stacks[0], path=str(path), box=2 * BOX, size_bytes=path.stat().st_size)
    particles = replace(particles.with_columns(scale=scale, grey_gain=gain, grey_offset=offset), stacks=(stack,))
    found = left(working(particles, record_of(Halves.of(shown.data.volume.data)))) / scale[:, None, None].astype(np.float32)
    assert remaining_percent(shown, found) < 1.0


def test_each_half_set_is_taken_from_its_own_half_map_alone(tmp_path: Path) -> None:
    shown, nothing = images(60, 0.25, False), np.zeros((BOX,) * 3, np.float32)
    particles = shown.particles(tmp_path)
    found = left(working(particles, record_of(Halves(nothing, shown.data.volume.data)), EVERYWHERE))
    first = particles.half == 0
    np.testing.assert_array_equal(found[first], shown.data.images[first])
    assert np.abs(found[~first] - shown.data.images[~first]).max() > 0.1
    assert np.abs(found[~first] - shown.first[~first]).max() < 0.2 * np.abs(shown.second[~first]).max()


def with_images(particles: Particles, pictures: np.ndarray, path: Path) -> Particles:
    """The same table with other images."""
    write_stack(path, pictures, PIXEL_A)
    return replace(particles, stacks=(replace(particles.stacks[0], path=str(path)),))


def chance(mask: np.ndarray, shells: np.ndarray) -> np.ndarray:
    """Standard deviation of the FSC of noise in a mask."""
    axis = np.fft.fftfreq(BOX, 1 / BOX)
    shell = np.rint(np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)).astype(int)
    return 1.0 / np.sqrt(np.bincount(shell.ravel())[shells] * (mask**2).sum() ** 2 / (mask**4).sum() / mask.size)


def test_a_kept_region_that_holds_nothing_has_the_fsc_of_the_noise_alone_and_a_support_is_what_keeps_it_so(tmp_path: Path) -> None:
    """Half maps from the images themselves, so that their noise is in what is taken; without a support more of it is."""
    mask, shells = mask_around(parts()[0]).data, np.arange(1, 18)
    in_units, by_rule, everywhere = [], [], []
    for seed in range(2):
        shown = images(300, 0.1, True, seed=seed)
        particles = shown.particles(tmp_path)

        def curve(pictures: np.ndarray, particles: Particles = particles) -> np.ndarray:
            half_maps = rebuilt(with_images(particles, pictures, tmp_path / "curve.mrcs"))[0]
            return fourier_shell_correlation(half_maps.a * mask, half_maps.b * mask)[shells]

        noise = curve(shown.data.images - shown.first - shown.second)
        second = with_images(particles, shown.data.images - shown.first, tmp_path / "second.mrcs")
        record = record_of(rebuilt(second)[0])
        after = curve(left(working(second, record)))
        in_units.append(after / chance(mask, shells))
        by_rule.append(after - noise)
        everywhere.append(curve(left(working(second, record, EVERYWHERE))) - noise)
    sizes = {name: float(np.sqrt(np.mean(np.square(values)))) for name, values in
             (("FSC in units of chance", in_units), ("off the noise's, by rule", by_rule), ("everywhere", everywhere))}
    print(sizes)
    assert sizes["FSC in units of chance"] < 1.1 and sizes["off the noise's, by rule"] < 0.02
    assert sizes["everywhere"] > 4 * sizes["off the noise's, by rule"]


def test_the_sample_sees_what_the_images_hold_and_what_remains(tmp_path: Path) -> None:
    shown = images(300, 0.1, True)
    particles, rows = shown.particles(tmp_path), np.arange(300)
    maps = rebuilt(particles)[0]
    work = working(particles, record_of(maps), (mask_around(parts()[2]), "known"))
    own = [rows[particles.half == half] for half in (0, 1)]
    right = fit_sample(particles, own[0], work.density, 0, 1)
    assert right.sigmas > 30 and 0.85 < right.rest < 1.1 and abs(right.remaining) < 0.15 and right.contrast < 0.1
    assert right.own_noise > 0.6 and right.own_noise_error < 0.03
    others = fit_sample(particles, own[1], work.density, 0, 1)
    assert others.own_noise < -0.6
    turned = particles.with_columns(rotation=np.roll(particles.rotation, 7, axis=0))
    assert fit_sample(turned, own[0], work.density, 0, 1).sigmas < 5
    lower = np.random.default_rng(1).lognormal(0.0, 0.4, 300)
    uneven = with_images(particles, shown.data.images * lower[:, None, None].astype(np.float32), tmp_path / "uneven.mrcs")
    assert 0.3 < fit_sample(uneven, own[0], work.density, 0, 1).contrast < 0.55


def a_fit(**changes: float) -> Fit:
    """What maps and images that belong together give, with some changes."""
    usual = Fit(256, 1.0, 1.0, 0.01, 0.02, 80.0, 0.95, 0.02, 0.05, np.ones(5), np.zeros(5))
    return replace(usual, **changes)


@pytest.mark.parametrize(("changes", "words"), [
    ({"sigmas": 2.0}, "better than at one another's"), ({"rest": 0.3}, "would leave more than there was"), ({"rest": 3.0}, "grey scale"),
    ({"own_noise": -0.9}, "half-sets are exchanged"),
])
def test_a_fit_that_cannot_be_is_refused(changes: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        require_fit((a_fit(), a_fit(**changes)), False, Events(None))


@pytest.mark.parametrize(("changes", "code"), [
    ({"rest": 0.7}, "grey_scale"), ({"own_noise": 0.02}, "other_images"), ({"contrast": 0.4}, "no_scale"), ({}, None),
    ({"own_noise": -0.9, "own_noise_error": 0.5}, None), ({"rest": 0.3, "rest_error": 0.4}, None),
])
def test_an_odd_fit_is_said_and_an_uncertain_one_is_not(changes: dict[str, float], code: str | None) -> None:
    events, fits = Events(None), (a_fit(**changes), a_fit(**changes))
    require_fit(fits, False, events)
    warn_of_contrast(fits, np.ones(3), events)
    assert [warning["code"] for warning in events.warnings] == ([] if code is None else [code])
    warn_of_contrast(fits, np.linspace(0.9, 1.1, 3), events)
    assert len(events.warnings) == (code is not None)
