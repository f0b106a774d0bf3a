"""Poses of a batch against the maps of all classes: searched, climbed or, in a local refinement, looked for near given ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from protomer.computing.arithmetic import CPU, Arithmetic
from protomer.engine.alignment import LEAST_WEIGHT, Poses, Reference, Search, at_nearest_copies, refine_modes, search_globally
from protomer.engine.filaments import Filaments
from protomer.engine.frame import moved_poses
from protomer.engine.hypotheses import Hypotheses
from protomer.engine.local_alignment import Local, align_locally, back_from, without_rest
from protomer.engine.pose_table import PoseTable
from protomer.imaging.images import Whitened
from protomer.maps.rigid_motion import RigidMotion
from protomer_kernels.newton import UNBOUNDED


@dataclass(frozen=True)
class Context:
    """How an E-step is carried out: which particles are searched globally in each class (K, N) bool, fixed-point scale, a call per
    batch that tells progress and raises where the run is to stop, what an image may show, and whether it counts at all modes of its
    posterior or at the heaviest alone. draw (N,) in [0, 1): each image counts at one mode, drawn from its posterior. local: poses are
    looked for near given ones only; is_first: for the first time. arithmetic: what computes on arrays. filaments: what is known of the
    poses of all images (N,). put_back: in a local refinement, by what poses are moved once they are found (frame.py)."""

    search_again: np.ndarray
    scale: float
    pixel_size_A: float
    advance: Callable[[int], None]
    hypotheses: Hypotheses
    marginalise: bool = True
    draw: np.ndarray | None = None
    local: Local | None = None
    is_first: bool = False
    arithmetic: Arithmetic = CPU
    filaments: Filaments | None = None
    put_back: RigidMotion | None = None


Aligned = tuple[Poses, Whitened, Poses]


def align_to_all(
    batch: Whitened,
    references: list[Reference],
    search: Search,
    tables: Sequence[PoseTable],
    rows: np.ndarray,
    half: int,
    context: Context,
) -> list[Aligned]:
    """What `_align` gives for each class; classes that start alike share what the first of them finds."""
    aligned: list[Aligned] = []
    for k, (reference, table) in enumerate(zip(references, tables, strict=True)):
        alike = [j for j in range(k) if references[j] is reference and tables[j] is table]
        aligned.append(
            aligned[alike[0]] if alike else _align(batch, reference, search, table.take(rows), rows, half, context.search_again[k], context)
        )
    return aligned


def _align(
    batch: Whitened,
    reference: Reference,
    search: Search,
    known: Poses,
    rows: np.ndarray,
    half: int,
    search_again: np.ndarray,
    context: Context,
) -> Aligned:
    """Poses of a batch; what was compared with the reference, and the poses in its frame: both other than the first only in a local
    refinement."""
    local = context.local
    if local is None:
        poses = _search_or_climb(batch, reference, search, known, search_again[rows], context, rows)
        return poses, batch, poses
    compared = without_rest(batch, half, local, rows, reference.plane) if local.takes_rest else batch
    seen = align_locally(compared, reference, search, known, rows, local, context.is_first)
    poses = back_from(seen, local.origin_px)
    return poses if context.put_back is None else moved_poses(poses, context.put_back, context.pixel_size_A), compared, seen


def _search_or_climb(
    batch: Whitened,
    reference: Reference,
    search: Search,
    known: Poses,
    again: np.ndarray,
    context: Context,
    rows: np.ndarray,
) -> Poses:
    """Global search for some images, a climb from known modes for the others; in the batch's order."""
    filaments = None if context.filaments is None else context.filaments.take(rows)
    again = again | (known.weight.sum(axis=1) == 0)
    parts, order = [], []
    for chosen, is_global in ((np.flatnonzero(again), True), (np.flatnonzero(~again), False)):
        if len(chosen) == 0:
            continue
        part = batch if len(chosen) == len(rows) else batch.take(chosen)
        own = None if filaments is None else filaments.take(chosen)
        if is_global:
            parts.append(search_globally(part, reference, search, own))
        else:
            parts.append(refine_modes(part, reference, search, *_known_starts(known, chosen, reference), own or UNBOUNDED))
        order.append(chosen)
    back = np.argsort(np.concatenate(order), kind="stable")
    found = Poses(*(np.concatenate([getattr(p, name) for p in parts])[back] for name in Poses.__dataclass_fields__))
    return found if filaments is None else at_nearest_copies(found, filaments)


def _known_starts(known: Poses, chosen: np.ndarray, reference: Reference) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rotations, shifts and presence of the modes to climb from: those that weigh something, or the heaviest and all its mates."""
    if len(reference.mates) > 1:
        return reference.with_mates(known.rotation[chosen, :1], known.shift_px[chosen, :1], np.ones((len(chosen), 1), bool))
    return known.rotation[chosen], known.shift_px[chosen], known.weight[chosen] > LEAST_WEIGHT
