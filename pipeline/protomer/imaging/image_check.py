"""Every image of every stack looked at once: is it whole and finite, what is its background, and is its middle lighter than that?"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from protomer.formats.mrc import StackReader
from protomer.tables.particles import Particles

BACKGROUND_RADIUS = 0.4  # of the box: the background lies outside this circle
MIDDLE_RADIUS = 0.2  # of the box: what is compared with the background
DARK_DEVIATION, FEWEST_TO_TELL = -6.0, 6
BLOCK_BYTES = 32 << 20
GOOD, TRUNCATED, NOT_FINITE, CONSTANT, FLAT_BACKGROUND = range(5)
REASONS = {TRUNCATED: "the stack ends before or inside the image (truncated file)", NOT_FINITE: "the image has NaN or infinite values",
           CONSTANT: "the image is constant", FLAT_BACKGROUND: "the background of the image is constant, so it cannot be normalised"}


@dataclass(frozen=True)
class ImageCheck:
    """Per row of the table: `state` (n,) one of GOOD ... FLAT_BACKGROUND; background `mean` and `sd` (n,) of the raw grey values;
    `middle` (n,): how far the mean of the middle lies above that of the background, in sd."""

    state: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    middle: np.ndarray
    header_pixel_sizes_A: np.ndarray  # (stacks,), 0 where the header is silent


def check_images(particles: Particles, threads: int, advance: Callable[[int], None] = lambda count: None) -> ImageCheck:
    """Read every image that the table names once, in blocks, and measure it; `advance` is told how many images are done.

    The result does not depend on the number of threads.
    """
    n = len(particles)
    check = ImageCheck(np.zeros(n, np.int8), np.zeros(n), np.ones(n), np.zeros(n), np.zeros(len(particles.stacks)))
    order = np.lexsort((particles.stack_index, particles.stack))
    bounds = np.searchsorted(particles.stack[order], np.arange(len(particles.stacks) + 1))
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for number, stack in enumerate(particles.stacks):
            rows = order[bounds[number]:bounds[number + 1]]
            if len(rows) == 0:
                continue
            with StackReader(stack.path) as reader:
                check.header_pixel_sizes_A[number] = reader.pixel_size_A
                images, inverse = np.unique(particles.stack_index[rows], return_inverse=True)
                measured = _measure_stack(reader, images, pool, advance)
            for column, values in zip((check.state, check.mean, check.sd, check.middle), measured, strict=True):
                column[rows] = values[inverse]
    return check


def are_dark(check: ImageCheck, gain: np.ndarray) -> bool:
    """Whether the middles of the images, times their gain (n,), are darker on average than the backgrounds, beyond chance (Student's t).

    A particle that is white has a white middle whatever its CTF, since phase and amplitude contrast add up at low frequency.
    """
    middle = (check.middle * np.sign(gain))[check.state == GOOD]
    if len(middle) < FEWEST_TO_TELL:
        return False
    return bool(middle.mean() < DARK_DEVIATION * middle.std(ddof=1) / np.sqrt(len(middle)))


def _measure_stack(reader: StackReader, images: np.ndarray, pool: ThreadPoolExecutor,
                   advance: Callable[[int], None]) -> tuple[np.ndarray, ...]:
    """State, background mean and sd, and middle, of the given images (sorted) of one stack."""
    n = len(images)
    columns: tuple[np.ndarray, ...] = np.full(n, TRUNCATED, np.int8), np.zeros(n), np.ones(n), np.zeros(n)
    whole = images[images < reader.number_whole]
    size = max(1, BLOCK_BYTES // (4 * reader.box**2))
    background = ~inside_circle(reader.box, BACKGROUND_RADIUS * reader.box)
    inside = inside_circle(reader.box, MIDDLE_RADIUS * reader.box)
    starts = range(0, len(whole), size)
    for start, result in zip(starts, pool.map(lambda s: _measure(reader.read(whole[s:s + size]), background, inside), starts), strict=True):
        for column, values in zip(columns, result, strict=True):
            column[start:start + len(values)] = values
        advance(len(result[0]))
    return columns


def _measure(images: np.ndarray, background: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, ...]:
    """State, background mean and sd (float64 sums), and middle, of images (n, box, box)."""
    flat = images.reshape(len(images), -1)
    lowest, highest = flat.min(axis=1), flat.max(axis=1)  # NaN where there is one
    outside = flat[:, background.reshape(-1)].astype(np.float64)
    with np.errstate(invalid="ignore"):
        mean, sd = outside.mean(axis=1), outside.std(axis=1)
    state = np.full(len(images), GOOD, np.int8)
    state[sd <= 1e-7 * np.maximum(np.abs(mean), np.finfo(np.float32).tiny)] = FLAT_BACKGROUND
    state[lowest == highest] = CONSTANT
    state[~(np.isfinite(lowest) & np.isfinite(highest))] = NOT_FINITE
    mean, sd = np.where(state == GOOD, mean, 0.0), np.where(state == GOOD, sd, 1.0)
    with np.errstate(invalid="ignore"):
        middle = (flat[:, inside.reshape(-1)].mean(axis=1, dtype=np.float64) - mean) / sd
    return state, mean, sd, np.where(state == GOOD, middle, 0.0)


def inside_circle(box: int, radius_px: float) -> np.ndarray:
    """bool (box, box): pixels nearer to the centre (index box//2) than `radius_px`."""
    x = np.arange(box) - box // 2
    return np.asarray(x[:, None] ** 2 + x[None, :] ** 2 < radius_px**2)
