"""What a refinement works with, and where it stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from protomer.computing.arithmetic import Arithmetic
from protomer.declarations.local_refine import LocalRefineSettings
from protomer.declarations.refine import RefineSettings
from protomer.engine.alignment import IDENTITY, Search
from protomer.engine.filaments import Filaments
from protomer.engine.local_alignment import Local
from protomer.engine.maximisation import THRESHOLD, first_shell_below, shell_after_last_above, solid_sphere
from protomer.engine.model import Model
from protomer.engine.pose_table import PoseTable, counted_by_presence
from protomer.engine.schedule import Band
from protomer.helical.lattice import Lattice, Winding
from protomer.imaging.images import ImageStore
from protomer.maps.non_uniform import NonUniform
from protomer.maps.volumes import Halves
from protomer.running.batches import Batch, Key
from protomer.running.ranks import Team
from protomer.tables.particles import Particles
from protomer_kernels.fourier import crop_volume, low_pass
from protomer_kernels.libraries import library_of
from protomer_kernels.masks import dynamic_mask

MASK_FRACTION = 0.42  # radius of the sphere in which references live, in boxes


@dataclass(frozen=True)
class Masking:
    """What the references are multiplied by, beside a sphere: the given mask, or one that follows the map (in the given one, if any)."""

    mode: str = "none"
    threshold: float = 0.2
    near_A: float = 6.0
    far_A: float = 14.0
    from_A: float = 12.0
    given: np.ndarray | None = None  # (D, D, D)

    @classmethod
    def of(cls, settings: RefineSettings | LocalRefineSettings, from_A: float, given: np.ndarray | None) -> Masking:
        """As the settings say; from_A: the resolution from which a mask follows the map."""
        near_A, far_A = settings.dynamic_mask_near, settings.dynamic_mask_far
        return cls(settings.mask_mode, settings.dynamic_mask_threshold, near_A, far_A, from_A, given)

    def on(self, half_maps: Halves[np.ndarray], voxel_size_A: float, resolution_A: float) -> np.ndarray:
        """The mask for maps of this voxel size that reach this resolution: the same for both halves, made from their mean."""
        box, library = len(half_maps.a), library_of(half_maps.a)
        given: np.ndarray = library.arrays.ones((1, 1, 1), np.float32)
        if self.given is not None:
            given = np.clip(crop_volume(library.arrays.asarray(self.given), box), 0.0, 1.0).astype(np.float32)
        if self.mode != "dynamic" or resolution_A > self.from_A:
            return given
        sphere = solid_sphere(box, MASK_FRACTION, library=library)
        mean = low_pass(half_maps.a + half_maps.b, box * voxel_size_A / self.from_A, 2.0) * sphere * given
        return given * dynamic_mask(mean, self.threshold, self.near_A / voxel_size_A, self.far_A / voxel_size_A)


@dataclass(frozen=True)
class Setup:
    """What does not change during a refinement."""

    particles: Particles
    store: ImageStore
    batches: list[Batch]
    numbers: range  # this rank's batches
    team: Team
    pixel_size_A: float
    seed: int
    arithmetic: Arithmetic
    progress: Callable[[str, int], Any]
    check_stop: Callable[[], None] = lambda: None
    largest: np.ndarray = field(default_factory=lambda: np.zeros((1, 1)))  # (groups, shells): the largest |X|, once images were surveyed
    operators: np.ndarray = field(default_factory=lambda: IDENTITY)  # (g, 3, 3), the group that is imposed
    join_shell: int = 0  # up to which half maps are joined
    shift_extent_px: float = 0.0
    marginalise: bool = True
    masking: Masking = field(default_factory=Masking)
    null_class: bool = False
    mates: np.ndarray = field(default_factory=lambda: IDENTITY)  # (m, 3, 3), the group that is relaxed
    local: Local | None = None
    alignment_fsc: float = 0.143  # of the half maps, down to which poses are aligned
    particle_scale: bool = False  # whether each particle's grey scale is refined
    non_uniform: NonUniform | None = None  # how references are filtered; None: by the FSC, everywhere alike
    winding: Winding | None = None  # how a helical lattice is imposed; None: none is
    filaments: Filaments | None = None  # what is known of the poses of filaments (N,)
    bridges_dips: bool = False  # whether a shell counts as resolved beyond dips of the FSC

    @property
    def threads(self) -> int:
        """How many threads this rank has."""
        return self.arithmetic.threads

    @property
    def is_relaxed(self) -> bool:
        """Whether a group is relaxed."""
        return len(self.mates) > 1

    @property
    def origin_px(self) -> np.ndarray:
        """(3,) where references have their origin, x, y, z from the box centre."""
        return np.zeros(3) if self.local is None else self.local.origin_px

    @property
    def width_A(self) -> float:
        """Of the box."""
        return float(self.store.plane.box * self.pixel_size_A)

    def solid(self, box: int) -> np.ndarray:
        """Where references live, soft, in maps (box, box, box) of the images' field of view; where maps are computed on."""
        if self.winding is None:
            return solid_sphere(box, MASK_FRACTION, library=self.arithmetic.library)
        return self.arithmetic.here(self.winding.solid(box, self.width_A))

    def wound(self, volume: np.ndarray, lattice: Lattice | None) -> np.ndarray:
        """A map with the lattice imposed, where the map lies; as it is where there is none."""
        if self.winding is None or lattice is None:
            return volume
        return self.winding.wound(volume, self.width_A, lattice)

    def resolved_shell(self, curve: np.ndarray, threshold: float = THRESHOLD) -> int:
        """The shell to which an FSC says that maps are resolved."""
        return shell_after_last_above(curve, threshold) if self.bridges_dips else first_shell_below(curve, threshold)

    def search(self, band: Band) -> Search:
        """How poses are looked for in an iteration."""
        search = band.search(self.shift_extent_px)
        return search if self.filaments is None else replace(search, tilt_extent_rad=self.filaments.tilt_extent_rad)

    def filaments_at(self, lattice: Lattice | None) -> Filaments | None:
        """What is known of filaments, where references have this lattice."""
        if self.filaments is None or lattice is None:
            return None
        return replace(self.filaments, twist_rad=float(np.deg2rad(lattice.twist_deg)), rise_px=lattice.rise_A / self.pixel_size_A)

    @property
    def keys(self) -> list[Key]:
        """Halves and folds in their fixed order."""
        return sorted({batch.key for batch in self.batches})

    @property
    def row_order(self) -> np.ndarray:
        """Rows of the particle table in the order of the batches."""
        return np.concatenate([batch.rows for batch in self.batches])


@dataclass(frozen=True)
class State:
    """Where a refinement stands: all that an iteration needs from the one before."""

    band: Band
    model: Model
    poses: PoseTable
    agreed: np.ndarray  # (N,) how many global searches in a row have found the same pose again
    scale: np.ndarray  # (N,) grey scale of each particle
    history: list[dict[str, Any]] = field(default_factory=list)
    lattice: Lattice | None = None  # of the references; None where none is imposed

    @property
    def counted_poses(self) -> PoseTable:
        """The poses, with weights as the last iteration inserted them."""
        if not (self.history and self.history[-1]["null_class"]):
            return self.poses
        return counted_by_presence(self.poses)


def at_scales(setup: Setup, state: State) -> Setup:
    """The setup with the particles at the grey scales found so far."""
    return replace(setup, particles=setup.particles.with_columns(scale=state.scale)) if setup.particle_scale else setup
