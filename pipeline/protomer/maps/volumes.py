"""Volumes, pairs of half-sets, and the record that a refinement leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import numpy as np

from protomer.maps.fsc_curves import FscSet

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Volume:
    """A map or mask: `data` (box, box, box) float32 [z, y, x], centre at index box//2; `voxel_size_A` in angstrom."""

    data: np.ndarray
    voxel_size_A: float

    def __post_init__(self) -> None:
        if self.data.ndim != 3 or len(set(self.data.shape)) != 1 or self.data.dtype != np.float32:
            raise ValueError(f"a volume is a float32 cube, found {self.data.dtype} of shape {self.data.shape}")
        if not (np.isfinite(self.voxel_size_A) and self.voxel_size_A > 0):
            raise ValueError(f"a voxel size is positive, found {self.voxel_size_A}")

    @property
    def box(self) -> int:
        """Number of voxels along each edge."""
        return int(self.data.shape[0])


@dataclass(frozen=True)
class Halves(Generic[T]):
    """One thing per half-set. The two meet only where a function says so in its name."""

    a: T
    b: T

    @classmethod
    def of(cls, both: T) -> Halves[T]:
        """The same thing for both half-sets."""
        return cls(both, both)

    def map(self, function: Callable[[T], U]) -> Halves[U]:
        """The function applied to each half by itself."""
        return Halves(function(self.a), function(self.b))

    def zip(self, other: Halves[U]) -> Halves[tuple[T, U]]:
        """Pairs of what belongs to the same half."""
        return Halves((self.a, other.a), (self.b, other.b))

    def __iter__(self) -> Iterator[T]:
        yield self.a
        yield self.b

    def __getitem__(self, half: int) -> T:
        if half not in (0, 1):
            raise IndexError(f"a half-set is 0 or 1, found {half}")
        return self.b if half else self.a


@dataclass(frozen=True)
class MapRecord:
    """What volume.h5 holds: half maps, their filtered sum, and how good it is. All volumes share box and voxel size."""

    half_maps: Halves[Volume]
    map: Volume
    sharpened: Volume | None = None
    refinement_mask: Volume | None = None
    fsc_mask: Volume | None = None
    fsc: FscSet | None = None
    symmetry: str = "C1"
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        present = [v for v in (*self.half_maps, self.map, self.sharpened, self.refinement_mask, self.fsc_mask) if v is not None]
        if len({v.box for v in present}) != 1 or not np.allclose([v.voxel_size_A for v in present], self.map.voxel_size_A):
            raise ValueError(f"the volumes of a record differ: {[(v.box, v.voxel_size_A) for v in present]}")

    def changed(self, on_map: Callable[[Volume, str], Volume], on_mask: Callable[[Volume], Volume]) -> MapRecord:
        """The same operation on every volume, each by itself. on_map is told which: half_a, half_b, map or sharpened."""
        return replace(
            self,
            half_maps=Halves(on_map(self.half_maps.a, "half_a"), on_map(self.half_maps.b, "half_b")),
            map=on_map(self.map, "map"),
            sharpened=None if self.sharpened is None else on_map(self.sharpened, "sharpened"),
            refinement_mask=None if self.refinement_mask is None else on_mask(self.refinement_mask),
            fsc_mask=None if self.fsc_mask is None else on_mask(self.fsc_mask),
        )
