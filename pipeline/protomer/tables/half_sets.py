"""Half-sets: drawn once, from what an image is and a seed, and carried ever after."""

from __future__ import annotations

import hashlib

import numpy as np

from protomer.errors import InputError
from protomer.randomness import combine, uniform
from protomer.running.events import Events
from protomer.tables.particles import Particles

PURPOSE = "half-set"
FEW_PARTICLES = 1000
MOST_UNEQUAL = 1.5  # times as many images in one half as in the other


def have_halves(half: np.ndarray) -> bool:
    """Whether any row has a half-set."""
    return bool((half >= 0).any())


def require_two_halves(half: np.ndarray) -> None:
    """Raise InputError where rows lack a half-set while others have one, or all are in the same."""
    counts = [int((half == h).sum()) for h in (0, 1)]
    if sum(counts) < len(half):
        raise InputError(f"{len(half) - sum(counts)} of {len(half)} rows have no half-set (or one other than 1 and 2)",
                         "a half-set for every row, or for none", "draw them anew with --set redraw_halves=true")
    if min(counts) == 0 and len(half) > 1:
        raise InputError(f"all {len(half)} rows are in half-set {1 if counts[0] else 2}",
                         "two half-sets: without them no resolution can be measured",
                         "import the table that the refinement used, or draw them anew with --set redraw_halves=true")


def warn_of_small_halves(half: np.ndarray, events: Events) -> None:
    """Warn where images are few, or one half has many more than the other."""
    sizes = [int((half == h).sum()) for h in (0, 1)]
    if len(half) < FEW_PARTICLES:
        events.warn("few_particles", f"{len(half)} images are few: the halves hold {sizes[0]} and {sizes[1]}; trust the FSC less")
    if max(sizes) > MOST_UNEQUAL * min(sizes):
        events.warn("unequal_halves", f"the halves hold {sizes[0]} and {sizes[1]} images: the FSC is held down by the smaller one, "
                    "and the map, their plain mean, is worse than all images together could make it")


def draw_halves(particles: Particles, split_by: str, seed: int, purpose: str = PURPOSE) -> np.ndarray:
    """Half-set (n,) int8 from a hash of (seed, image | micrograph | filament); another purpose is another draw.

    Raises InputError where the column it needs is missing.
    """
    half = (uniform(seed, _keys(particles, split_by), purpose) >= 0.5).astype(np.int8)
    if len(half) > 1 and half.min() == half.max():
        raise InputError(f"with seed {seed} all {len(half)} rows fell into one half-set", f"more than a few different {split_by}s, or luck",
                         f"give another --seed, or another split_by than {split_by}")
    return half


def _keys(particles: Particles, split_by: str) -> np.ndarray:
    """What shares a half-set, as uint64 (n,)."""
    if split_by == "image":
        return particles.image_uid
    names = particles.micrograph
    if not all(names) or (split_by == "filament" and not particles.filament.all()):
        raise InputError(f"split_by={split_by}, but not every row says its micrograph{' and filament' * (split_by == 'filament')}",
                         "rlnMicrographName (and rlnHelicalTubeID) in the table", "split by image, or add the column")
    digests = {name: int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") for name in set(names.tolist())}
    keys = np.array([digests[name] for name in names.tolist()], np.uint64)
    return keys if split_by == "micrograph" else combine(keys, particles.filament)
