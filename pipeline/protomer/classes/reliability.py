"""How far the posteriors of classes may be believed: images whose class is known are classified as the real ones were.

An image is made from the map that the *other* half-set has of a class, at the pose and with the CTF and noise of a real image, its class
drawn from that image's posterior; it is then compared with the maps of its own half. These differ from the other half's as they may differ
from the truth: by the noise of both. Of images that are said to show a class with probability p, a share p should be right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from protomer.classes.classification import Classes, Mixture, hypotheses_of
from protomer.computing.arithmetic import Arithmetic
from protomer.engine.alignment import search_globally
from protomer.engine.model import Model
from protomer.engine.rehearsal import blank, sampled_batches
from protomer.engine.unknown import projected_power, unknown_log_odds
from protomer.imaging.aberrations import usable_radius
from protomer.imaging.images import Whitened
from protomer.randomness import generator, uniform
from protomer.running.batches import Key
from protomer_kernels.half_plane import HalfPlane
from protomer_kernels.slices import transform_volume

BINS = 10


@dataclass(frozen=True)
class Reliability:
    """Of images whose class is known: the stated posterior (n,) of the class that each is put in, and whether that is right (n,)."""

    stated: np.ndarray
    is_right: np.ndarray

    @property
    def mean_stated(self) -> float:
        """The share that should be right."""
        return float(self.stated.mean())

    @property
    def share_right(self) -> float:
        """The share that is."""
        return float(self.is_right.mean())

    def curve(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean stated posterior, share that is right, and number of images, in each bin of stated posteriors that holds any."""
        which = np.minimum((self.stated * BINS).astype(np.int64), BINS - 1)
        count = np.bincount(which, minlength=BINS)
        held = count > 0
        stated, right = (np.bincount(which, values, BINS)[held] / count[held] for values in (self.stated, self.is_right.astype(float)))
        return stated, right, count[held]


def rehearse_classes(classes: Classes, mixture: Mixture) -> Reliability:
    """Classify images made from the maps. The same on every rank and for any number of ranks."""
    setup, models = classes.setup, [state.model for state in mixture.states]
    chosen, plane = sampled_batches(setup), setup.store.plane
    search = mixture.band.search(setup.shift_extent_px)
    hypotheses = replace(hypotheses_of(classes, mixture), allowed=None)
    length = plane.prefix(usable_radius(setup.particles, models[0].insertion_radius))
    weights, found, current = models[0].root_weight(plane, length), [np.zeros((0, 2))], None
    own = [n for n in setup.numbers if n in chosen]
    with setup.progress("rehearsing with known classes", sum(len(setup.batches[n].rows) for n in own)) as line:
        for number in own:
            key, rows = setup.batches[number].key, setup.batches[number].rows
            if key != current:
                current, known_ft = key, _other_half(models, key, setup.arithmetic)
                references = [model.reference(key, plane, search, setup.arithmetic) for model in models]
                power = None if hypotheses.structures is None else projected_power(references, hypotheses.structures, search.final_radius)
            nothing = blank(setup, rows, weights)
            true = drawn_classes(mixture.posterior[rows], uniform(setup.seed, setup.particles.image_uid[rows], "rehearsed class"))
            batch = _images_of(nothing, known_ft, true, mixture, rows, plane, generator(setup.seed, number, "rehearsed images"),
                               setup.arithmetic)
            poses = [search_globally(batch, reference, search) for reference in references]
            unknown = None if power is None else unknown_log_odds(batch, power, plane, setup.arithmetic)
            posterior = hypotheses.posterior(poses, rows, unknown)
            best = posterior.argmax(axis=1)
            found.append(np.stack([posterior.max(axis=1), best == true], axis=1))
            line.advance(len(rows))
            setup.check_stop()
    stated, right = setup.team.gather_rows(np.concatenate(found)).T
    return Reliability(stated, right > 0.5)


def drawn_classes(posterior: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """A class (n,) for each image by its posterior (n, K), what is left to one set aside; chance (n,) in [0, 1)."""
    cumulative = np.cumsum(posterior + 1e-12, axis=1)
    return np.asarray((cumulative < chance[:, None] * cumulative[:, -1:]).sum(axis=1))


def _other_half(models: Sequence[Model], key: Key, arithmetic: Arithmetic) -> list[Any]:
    """Transforms of the maps that the other half has of each class, to make images of a half and fold from."""
    others = [(arithmetic.here(model.maps[1 - key[0], key[1]]), model.insertion_radius) for model in models]
    return [transform_volume(volume, radius, workers=arithmetic.threads) for volume, radius in others]


def _images_of(
    nothing: Whitened, known_ft: list[Any], true: np.ndarray, mixture: Mixture, rows: np.ndarray, plane: HalfPlane,
    random: np.random.Generator, arithmetic: Arithmetic
) -> Whitened:
    """A batch in which each image shows its class (n,) at the pose that was found of it there."""
    data = np.empty_like(nothing.data)
    for k in np.unique(true):
        here = np.flatnonzero(true == k)
        poses = mixture.states[k].poses.take(rows[here])
        data[here] = nothing.take(here).of_map(known_ft[k], poses.rotation[:, 0], poses.shift_px[:, 0], plane, arithmetic)
    return replace(nothing, data=data + arithmetic.here(random.standard_normal(data.shape, np.float32)))
