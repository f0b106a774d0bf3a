"""How much memory a refinement or a reconstruction takes, from the sizes of its largest arrays, phase by phase.

The phases are those of refinement/loop.py: the E-step (images, accumulators, the reference, what one batch needs), the M-step (accumulators
of all halves and folds, one pair of sums, one map on its way out of Fourier space), and the last reconstruction with what measuring its
maps needs. BASE_BYTES and BASE_AT_THE_END_BYTES are the program itself, without and with its figures, measured; tests compare the
whole with runs. Compiling, once per version, takes 0.25 GB more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from protomer.running.batches import BATCH
from protomer_kernels.grid_scores import DEVICE_TILE_BYTES, TILE
from protomer_kernels.half_plane import HalfPlane, largest_radius
from protomer_kernels.insertion import accumulator_bytes
from protomer_kernels.padded import LAYERS, PADDING
from protomer_kernels.slices import volume_radius

BASE_BYTES, BASE_AT_THE_END_BYTES = 240_000_000, 330_000_000
DEVICE_MAPS = 24  # volumes that an M-step holds at once on a device: half maps, masks, their transforms and what these are made from
PARTS_ON_DEVICE = 2  # of the batches that are under way there, each on a thread of the host
VIEWED = 3  # times what a batch takes of a device in a refinement: with views of maps under CTF and shift, made in double precision
MAPS_AT_THE_END = 22  # volumes of 4 bytes per voxel that measuring, sharpening and drawing hold at once


class OnDevice(Protocol):
    """What decides whether a device has room for a run: bytes for all but images, and for each batch that is there at once."""

    @property
    def device_bytes(self) -> int:
        """For all but images."""

    @property
    def device_batch_bytes(self) -> int:
        """For each batch."""


@dataclass(frozen=True)
class DeviceNeeds:
    """The two numbers of OnDevice, given."""

    device_bytes: int
    device_batch_bytes: int


@dataclass(frozen=True)
class Work:
    """What decides the memory of one rank. images, own_keys: of this rank; keys: halves times folds, times classes; reach: largest radius
    that iterations insert, unset: the images' own; grid_*, shifts: of the densest global search; has_rest: both halves' transforms of what
    a local refinement leaves where it is stay too; scored: images whose scores a device holds."""

    images: int
    box: int
    keys: int
    own_keys: int
    half_precision: bool
    threads: int
    grid_rotations: int = 0
    grid_radius: int = 0
    shifts: int = 0
    reach: int | None = None
    classes: int = 1
    has_rest: bool = False
    scored: int = BATCH

    @property
    def image_bytes(self) -> int:
        """Prepared images."""
        return self.images * len(self._plane) * (4 if self.half_precision else 8)

    @property
    def refinement_bytes(self) -> int:
        """The largest phase of a refinement, without the images."""
        return self._rest + max(BASE_BYTES + self._expectation(), BASE_BYTES + self._maximisation(), self.reconstruction_bytes)

    @property
    def reconstruction_bytes(self) -> int:
        """The largest phase of a reconstruction from known poses, without the images."""
        full = _Transform(self.box, self._plane.radius)
        maps = 4 * self.box**3 * (MAPS_AT_THE_END + self.keys)
        reconstructing = 2 * full.accumulator + full.sums + full.to_map + 4 * self.box**3 * self.keys
        return max(BASE_BYTES + reconstructing, BASE_AT_THE_END_BYTES + maps)

    @property
    def device_bytes(self) -> int:
        """What all but images and batches takes on a device at most: in an E-step accumulators, references, the densest search and what an
        M-step leaves for the next; in an M-step and in the last reconstruction accumulators, what one of them is solved with, and maps."""
        band, low = self._band, self._plane.prefix(self.grid_radius)
        powers = 12 * low * self.grid_rotations  # of slices, while they are made
        searching = powers + 8 * low * BATCH * self.shifts * 4 + 6 * self.scored * self.grid_rotations + 2 * DEVICE_TILE_BYTES
        search = 8 * low * self.grid_rotations + PARTS_ON_DEVICE * searching
        references = self.classes * band.volume + max(search, band.from_map - band.volume)
        full = _Transform(self.box, self._plane.radius)
        solving = band.accumulator * (self.keys + self._added_up) + band.solving + 4 * self.box**3 * (DEVICE_MAPS + 6 * self.classes)
        most = max(band.accumulator * self.own_keys + references, solving, 2 * full.accumulator + full.solving)
        return most + self._rest + 2 * 4 * self.box**3  # phases for the mask's correction

    @property
    def device_batch_bytes(self) -> int:
        """What one batch takes on a device: its crops and those of the next one, CTFs, what is compared, the part of it that is searched,
        and views."""
        return BATCH * len(self._plane) * (2 * 8 + 4 + 2 * 12 + 8)

    @property
    def _rest(self) -> int:
        return 2 * _Transform(self.box, self._plane.radius).volume if self.has_rest else 0

    @property
    def _plane(self) -> HalfPlane:
        return HalfPlane(self.box, largest_radius(self.box))

    @property
    def _band(self) -> _Transform:
        return _Transform(self.box, min(self.reach or self._plane.radius, self._plane.radius))

    @property
    def _added_up(self) -> int:
        """How many accumulators an M-step makes of those of the E-step."""
        of_one = self.keys // self.classes
        if self.classes == 1:
            return 3 if of_one > 2 else 0
        return of_one + (2 * (self.classes + 1) if of_one > 2 else 0)  # of all classes together, and of each half of each of them

    def _expectation(self) -> int:
        band, low = self._band, self._plane.prefix(self.grid_radius)
        grid = 8 * low * (self.grid_rotations + BATCH * self.shifts * 3) + 6 * BATCH * self.grid_rotations
        grid += 4 * self.threads * TILE * BATCH * (self.shifts + 3)
        batch = BATCH * len(self._plane) * 4 * 12
        references = 4 * self.box**3 * self.keys
        return band.accumulator * self.own_keys + references + max(band.from_map, band.volume + grid + batch)

    def _maximisation(self) -> int:
        totals = self._band.accumulator * (self.keys + self._added_up)
        return totals + 8 * self.box**3 * self.keys + self._band.sums + self._band.to_map


@dataclass(frozen=True)
class _Transform:
    """Bytes of what belongs to a Fourier volume that serves slices up to `radius`."""

    box: int
    radius: int

    @property
    def _side(self) -> int:
        return 2 * volume_radius(self.radius) + 1

    @property
    def accumulator(self) -> int:
        return accumulator_bytes(self.radius)

    @property
    def sums(self) -> int:
        """Numerator and weight."""
        return self.accumulator // 2

    @property
    def volume(self) -> int:
        return self.accumulator // 3

    @property
    def _planes(self) -> int:
        """The volume while one axis is in real space, and the layers at work (padded.py)."""
        return 8 * (self.box * self._side + 2 * LAYERS * PADDING * self.box) * (self._side // 2 + 1)

    @property
    def solving(self) -> int:
        """At most, on a device, while an accumulator is made a map: its sums, and one array like the weights or the way to the map."""
        return self.sums + max(self.volume, self.to_map)

    @property
    def from_map(self) -> int:
        """At most, while a map is transformed."""
        return self.volume + self._planes

    @property
    def to_map(self) -> int:
        """At most, while sums are made a map."""
        return self._planes + 8 * self.box**3
