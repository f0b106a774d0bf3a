"""Images less what is taken from them, stack by stack: each image is read once and written once.

A stack holds what it holds whoever makes it: BATCHES_PER_STACK batches of one half-set, in the order of the table. Beside each stack a note
says that it is whole (a stack appears by renaming, and its note after it), with its digest and the sums that the report wants; a
run that goes on after a stop makes the stacks that have no note.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from protomer.formats.mrc import StackReader
from protomer.formats.mrc_stack import writing_stack
from protomer.imaging.ahead import read_ahead
from protomer.running.batches import make_batches
from protomer.running.checkpoints import read_state, write_state
from protomer.running.output import writing_atomically
from protomer.subtraction.frame import Frame
from protomer.subtraction.maps import Density
from protomer.subtraction.views import Views, refined_images, usable_length
from protomer.tables.particles import Particles
from protomer_kernels.half_plane import HalfPlane, largest_radius
from protomer_kernels.seen_views import images_of
from protomer_kernels.slices import transform_volume

BATCHES_PER_STACK = 16
FOLDER = "images"
SUMS = ("before", "after", "taken")  # mean square of the image, of what is left, of what was taken


@dataclass(frozen=True)
class StackPlan:
    """One stack to be written: its name in the run's folder, its half-set, and its batches of table rows, one after the other."""

    name: str
    half: int
    batches: tuple[np.ndarray, ...]

    @property
    def rows(self) -> np.ndarray:
        """Table rows of its images."""
        return np.concatenate(self.batches)

    @property
    def note(self) -> str:
        """The name of the note that says that it is whole."""
        return f"{Path(self.name).with_suffix('')}_done.h5"


def plan_stacks(particles: Particles) -> list[StackPlan]:
    """All stacks, those of half-set 0 first."""
    batches = make_batches(particles, 1, 0)
    plans: list[tuple[int, tuple[np.ndarray, ...]]] = []
    for half in (0, 1):
        rows = [batch.rows for batch in batches if batch.key[0] == half]
        plans += [(half, tuple(rows[n : n + BATCHES_PER_STACK])) for n in range(0, len(rows), BATCHES_PER_STACK)]
    width = max(4, len(str(len(plans))))
    return [StackPlan(f"{FOLDER}/images_{n + 1:0{width}}.mrcs", *plan) for n, plan in enumerate(plans)]


@dataclass
class Subtraction:
    """What turns images into what is written. It holds the Fourier volume of one half-set at a time."""

    particles: Particles
    density: Density
    frame: Frame
    threads: int
    _readers: dict[int, StackReader] = field(default_factory=dict)
    _current: tuple[int, np.ndarray] | None = None

    @cached_property
    def plane(self) -> HalfPlane:
        """Of the images as they are refined."""
        return HalfPlane(self.density.box, largest_radius(self.density.box))

    @cached_property
    def _length(self) -> int:
        return usable_length(self.particles, self.plane, self._radius)

    @property
    def _radius(self) -> int:
        """How far out anything is taken."""
        taken = np.flatnonzero(self.density.weight > 0)
        return min(int(taken[-1]) + 1 if len(taken) else 1, self.plane.radius)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """The images of some rows, as they are refined."""
        return refined_images(self.particles, rows, self.density.box, self._readers)

    def taken(self, rows: np.ndarray, half: int) -> np.ndarray:
        """What is taken from the images of some rows, all of one half-set: images (n, D, D) float32."""
        if self._current is None or self._current[0] != half:
            self._current = None  # two at once would take twice the memory
            self._current = (half, transform_volume(self.density.removed[half], self._radius, workers=self.threads))
        views = Views(self.particles, rows, self.plane, self._length)
        return images_of(views.of(self._current[1]), self.plane, self.threads)

    def subtract(self, images: np.ndarray, rows: np.ndarray, half: int) -> tuple[np.ndarray, np.ndarray]:
        """What is written of some images, and their SUMS (n, 3)."""
        taken = self.taken(rows, half)
        left = images - taken
        sums = [np.einsum("nyx,nyx->n", part, part, dtype=np.float64) / images[0].size for part in (images, left, taken)]
        return self.frame.cut(left, rows), np.stack(sums, axis=1)


def make_stack(
    plan: StackPlan, work: Subtraction, folder: Path, half_precision: bool, identity: str, advance: Callable[[int], None]
) -> tuple[str, np.ndarray]:
    """Write a stack and its note, or read the note of one that is there; its digest and SUMS (n, 3). advance may raise to stop."""
    path, note = folder / plan.name, folder / plan.note
    if note.exists() and path.exists():
        state = read_state(note, identity)
        advance(len(plan.rows))
        return str(state["digest"]), state["sums"]
    sums = []
    with (
        writing_stack(path, len(plan.rows), work.frame.new_box, work.density.pixel_A, half_precision) as stack,
        ThreadPoolExecutor(1, "writer") as pool,
    ):
        written: Future[None] | None = None
        for rows, images in read_ahead(plan.batches, work.read):
            left, batch_sums = work.subtract(images, rows, plan.half)
            if written is not None:
                written.result()
            written = pool.submit(stack.append, left)
            sums.append(batch_sums)
            advance(len(rows))
        if written is not None:
            written.result()
        digest = stack.finish()
    with writing_atomically(note) as temporary:
        write_state(temporary, {"digest": digest, "sums": np.concatenate(sums)}, identity)
    return digest, np.concatenate(sums)


def sample_rows(plans: Iterable[StackPlan], half: int, batches: int) -> np.ndarray:
    """Rows of so many batches of a half-set, evenly spaced."""
    rows = [batch for plan in plans if plan.half == half for batch in plan.batches]
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(batches, len(rows))).astype(int))
    return np.concatenate([rows[n] for n in chosen])
