"""The mask in which resolution is measured, made from the mean of the half maps by a fixed rule before any FSC is read.

The rule has no setting, so that it cannot be tuned on the number it serves; the name of each mask says the values the rule came to:
1. low-pass at LOW_PASS_A, or at 3 times the Nyquist limit where that is coarser, or at a quarter of the box where that is finer;
2. solvent level and noise from the voxels outside a sphere of 0.45 box: median, and 1.4826 x median absolute deviation;
3. threshold: NOISE_SIGMAS above the solvent, or FRACTION of the way from the solvent to the 99.9th percentile inside the sphere,
   whichever is higher (the first rules noisy maps, the second clean ones);
4. the largest component inside the sphere, its holes filled;
5. grown by a third of the low-pass resolution, at least 2 voxels; soft edge as wide as the low-pass resolution, at least 5 voxels.
Where nothing passes the threshold the mask is a soft sphere, and its name says that no density was found.

A support is the mask of all density, wherever it lies: in step 4 every component counts that is no mere speck.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from protomer.maps.volumes import Halves, Volume
from protomer_kernels import masks
from protomer_kernels.fourier import low_pass

LOW_PASS_A = 15.0
NOISE_SIGMAS = 6.0
FRACTION = 0.15
SPHERE_RADIUS = 0.45  # of the box
SMALLEST_FRACTION = 1e-4  # of the box's voxels: less than this is no particle
SMALLEST_PART = 0.02  # of the largest component's voxels: less than this is a speck


@dataclass(frozen=True)
class Support:
    """Where a map has density: `voxels` (D, D, D) bool, and how that was decided. level is in the grey of the low-passed map."""

    voxels: np.ndarray
    low_pass_A: float
    level: float
    decided_by: str


@dataclass(frozen=True)
class RuleMask:
    """A mask by rule: `mask`, the name that stands for it in every output, and whether density was found at all."""

    mask: Volume
    name: str
    found_density: bool


def mask_by_rule(half_maps: Halves[Volume]) -> RuleMask:
    """The mask of the module's rule for two half maps of one box and voxel size."""
    return _soft_mask(find_support(_mean(half_maps)), half_maps.a, "largest component")


def support_by_rule(half_maps: Halves[Volume]) -> RuleMask:
    """The mask of all density: the rule with every component of at least SMALLEST_PART of the largest."""
    support = _dense(_mean(half_maps))
    voxels = masks.fill_holes(masks.large_components(support.voxels, SMALLEST_PART))
    return _soft_mask(replace(support, voxels=voxels), half_maps.a, "every component but specks")


def _mean(half_maps: Halves[Volume]) -> Volume:
    return Volume((half_maps.a.data + half_maps.b.data) * np.float32(0.5), half_maps.a.voxel_size_A)


def _soft_mask(support: Support, like: Volume, components: str) -> RuleMask:
    """Step 5."""
    box, voxel_size_A = like.box, like.voxel_size_A
    if support.voxels.mean() < SMALLEST_FRACTION:
        edge_px = max(5.0, 0.05 * box)
        sphere = masks.sphere_mask(box, 0.5 * box - edge_px, edge_px)
        name = f"soft sphere of {(box - 2 * edge_px) * voxel_size_A:.0f} Å: the rule found no density"
        return RuleMask(Volume(sphere, voxel_size_A), name, False)
    grown_px = max(2.0, support.low_pass_A / 3 / voxel_size_A)
    edge_px = max(5.0, support.low_pass_A / voxel_size_A)
    mask = masks.raised_cosine(masks.distance_to(support.voxels, int(np.ceil(grown_px + edge_px))) - np.float32(grown_px), edge_px)
    name = (f"by rule: low-pass {support.low_pass_A:.1f} Å, threshold {support.level:.3g} ({support.decided_by}), "
            f"{components}, holes filled, grown {grown_px * voxel_size_A:.1f} Å, soft edge {edge_px * voxel_size_A:.1f} Å; "
            f"{100 * float(mask.mean()):.1f}% of the box")
    return RuleMask(Volume(mask, voxel_size_A), name, True)


def find_support(volume: Volume) -> Support:
    """Steps 1 to 4 of the rule for one map."""
    support = _dense(volume)
    return replace(support, voxels=masks.fill_holes(masks.largest_component(support.voxels)))


def _dense(volume: Volume) -> Support:
    """Steps 1 to 3: all voxels inside the sphere that pass the threshold."""
    box = volume.box
    resolution_A = rule_low_pass_A(box, volume.voxel_size_A)
    smooth = low_pass(volume.data, box * volume.voxel_size_A / resolution_A, 2)
    inside = masks.sphere_mask(box, SPHERE_RADIUS * box, 0) > 0
    outside = smooth[~inside]
    solvent = float(np.median(outside))
    noise = 1.4826 * float(np.median(np.abs(outside - solvent)))
    by_noise = solvent + NOISE_SIGMAS * noise
    by_fraction = solvent + FRACTION * (float(np.percentile(smooth[inside], 99.9)) - solvent)
    level = max(by_noise, by_fraction)
    decided_by = f"{NOISE_SIGMAS:g} sd of the solvent" if by_noise >= by_fraction else f"{FRACTION:g} of the density"
    return Support((smooth > level) & inside, resolution_A, level, decided_by)


def rule_low_pass_A(box: int, voxel_size_A: float) -> float:
    """The low-pass of step 1, angstrom."""
    return min(max(LOW_PASS_A, 6 * voxel_size_A), box * voxel_size_A / 4)
