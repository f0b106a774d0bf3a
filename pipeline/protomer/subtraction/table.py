"""The table of subtracted particles: what of it points to the new images, and what leads back to the old ones.

Copies of one image get an image each and keep its image_uid and half, so that they stay one image wherever that matters: in half-sets,
batches, expansion and export. Two foreign columns lead back: RELION's rlnImageOriginalName, the text `N@stack`, and BEFORE, numbers.
"""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np

from protomer.errors import InputError
from protomer.tables.particles import Particles, Stack
from protomer.tables.shared_columns import replaced

ORIGINAL = "rlnImageOriginalName"
BEFORE = "protomer_before_subtraction"  # (n, 5): grey offset and gain, x and y by which the image was moved (Å), box as it was refined


def is_subtracted(particles: Particles) -> bool:
    """Whether something was taken from these images before, by this program or by RELION."""
    return ORIGINAL in particles.extra and bool(np.any(particles.extra[ORIGINAL] != b""))


def subtracted(particles: Particles, stacks: tuple[Stack, ...], stack: np.ndarray, index: np.ndarray, moved_A: np.ndarray) -> Particles:
    """The particles (posed as in the new images) with images `index` (n,) of `stacks[stack]` (n,), moved by moved_A (n, 2), whose grey
    values need no offset and no gain."""
    names, before = _way_back(particles, moved_A)
    used = sorted({name.partition(b"@")[2] for name in np.unique(names).tolist()})
    kept = tuple(entry for entry in particles.stacks if os.fsencode(entry.path) in used)
    box, number = stacks[0].box, len(particles)
    groups = tuple(replace(group, box=box) for group in particles.optics_groups)
    columns = {"stack": stack + len(kept), "stack_index": index, "grey_offset": np.zeros(number), "grey_gain": np.ones(number)}
    extra = replaced(particles.extra, {ORIGINAL: names, BEFORE: before})
    return replace(particles.with_columns(**columns), stacks=(*kept, *stacks), optics_groups=groups, extra=extra)


def _way_back(particles: Particles, moved_A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ORIGINAL and BEFORE; the first ones where particles are subtracted again."""
    if BEFORE in particles.extra:
        before = np.array(particles.extra[BEFORE])
        before[:, 2:4] += moved_A
        return particles.extra[ORIGINAL], before
    paths = [os.fsencode(entry.path) for entry in particles.stacks]
    names = [b"%06d@%s" % (i + 1, paths[s]) for s, i in zip(particles.stack.tolist(), particles.stack_index.tolist(), strict=True)]
    boxes = np.array([group.box for group in particles.optics_groups], float)[particles.optics]
    return np.array(names, "S"), np.column_stack([particles.grey_offset, particles.grey_gain, moved_A, boxes])


def reverted(particles: Particles) -> Particles:
    """The particles with their images as they were before subtraction, at the present poses, in the map's present frame.

    Raises InputError where they were never subtracted, or the way back is lost.
    """
    if BEFORE not in particles.extra or not is_subtracted(particles):
        foreign = is_subtracted(particles)
        raise InputError("these particles were subtracted elsewhere, or exported and imported since" if foreign else
                         "nothing was ever taken from these images", "the particles.h5 of subtract, or of a job that came after it",
                         "import the table of the original images" if foreign else "use them as they are")
    before = np.asarray(particles.extra[BEFORE])
    parts = [name.partition(b"@") for name in particles.extra[ORIGINAL].tolist()]
    entries = {os.fsencode(entry.path): entry for entry in particles.stacks}
    paths = sorted({path for _, _, path in parts})
    lost = [os.fsdecode(path) for path in paths if path not in entries]
    if lost:
        raise InputError(f"the table no longer knows the stack {lost[0]}", "the stacks from before subtraction in its list",
                         "revert the particles.h5 of subtract itself, or import the table of the original images")
    position = {path: number for number, path in enumerate(paths)}
    columns = {"stack": np.array([position[path] for _, _, path in parts]), "stack_index": np.array([int(n) - 1 for n, _, _ in parts]),
               "grey_offset": before[:, 0], "grey_gain": before[:, 1], "shift_A": particles.shift_A + before[:, 2:4]}
    groups = list(particles.optics_groups)
    for number in np.unique(particles.optics):
        groups[number] = replace(groups[number], box=int(before[particles.optics == number, 4][0]))
    extra = {name: particles.extra[name] for name in particles.extra if name not in (ORIGINAL, BEFORE)}
    stacks = tuple(entries[path] for path in paths)
    return replace(particles.with_columns(**columns), stacks=stacks, optics_groups=tuple(groups), extra=extra)
