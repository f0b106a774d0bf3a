"""The noise spectrum before any map is known, from what lies around the particles.

(1) sigma^2(s) = min over the images' power P(s) and that of their surroundings, |F(m x)|^2 / mean(m^2) in shell s, m = 1 outside a circle

The power of whole images holds the signal too, which at low frequency is as strong as the noise or stronger: posteriors would come out too
wide to begin with, and EM would take several times as many steps (benchmarks/ab_initio.py). A circle mixes neighbouring shells, and noise
spectra are smooth.
"""

from __future__ import annotations

import numpy as np

from protomer.refinement.setup import Setup
from protomer_kernels.half_plane import transform_images
from protomer_kernels.masks import disc_mask
from protomer_kernels.noise import power_by_shell
from protomer_kernels.seen_views import images_of

SAMPLED = 32  # batches
CIRCLE, EDGE = 0.42, 0.05  # radius and edge of the circle, in boxes
RIM = 4  # last shells, into which the circle mixes what is not there; signal is weak in them
LEAST_SHARE = 1e-3  # of the mean power: no shell has less noise


def background_noise(setup: Setup) -> np.ndarray:
    """Eq. (1): (groups, shells) float64, the same on every rank. An optics group that the sample lacks has the mean of all."""
    plane, groups = setup.store.plane, len(setup.particles.optics_groups)
    shells, outside = plane.radius + 1, 1.0 - disc_mask(plane.box, CIRCLE * plane.box, EDGE * plane.box)
    share, counts = float((outside**2).mean()), np.bincount(plane.shell, minlength=plane.radius + 1)
    rows, both = [np.zeros(0, np.int64)], [np.zeros((0, 2, shells))]
    for number in [n for n in setup.numbers if n < SAMPLED]:
        crops = setup.store.load(number)
        around = transform_images(images_of(crops, plane) * outside, plane)
        rows.append(setup.batches[number].rows)
        both.append(np.stack([power_by_shell(crops, plane.shell, shells), power_by_shell(around, plane.shell, shells) / share], axis=1))
    gathered, power = setup.team.gather_rows(np.concatenate(rows)), setup.team.gather_rows(np.concatenate(both))
    order = np.argsort(gathered)
    group, power = setup.particles.optics[gathered[order]], power[order] / counts
    means = power.mean(axis=0)
    each = np.stack([power[group == g].mean(axis=0) if np.any(group == g) else means for g in range(groups)])
    each[:, :, 0] = each[:, :, :1].max(axis=1)  # the mean of an image is set by its normalisation
    each[:, 1, -RIM:] = each[:, 0, -RIM:]
    noise: np.ndarray = each.min(axis=1)
    return np.maximum(noise, LEAST_SHARE * noise.mean(axis=1, keepdims=True))
