"""A map with all that belongs to it, put into another frame at once: mirrored where its hand is the other one, moved, resampled.

(1) x' = Q M x + d, M = diag(1, 1, -1) where mirrored, else none; each map is interpolated once
(2) a pose of a mirrored map: R' = M R M, shift unchanged; exact but for the curvature of the Ewald sphere
(3) its covariance: the error omega about the map's axes is an axial vector, omega' = -M omega
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from protomer.maps.resolution import measure_fsc
from protomer.maps.rigid_motion import (
    MIRROR,
    Frame,
    RigidMotion,
    mirror_particles,
    mirror_volume,
    move_mask,
    move_particles,
    move_volume,
)
from protomer.maps.volumes import MapRecord, Volume
from protomer.tables.particles import Particles


@dataclass(frozen=True)
class Placement:
    """Eq. (1): the motion, whether the map is mirrored before it, and the frame that it is brought to."""

    motion: RigidMotion
    is_mirrored: bool
    frame: Frame

    @property
    def matrix(self) -> np.ndarray:
        """Q M of eq. (1), (3, 3)."""
        return self.motion.rotation @ MIRROR if self.is_mirrored else self.motion.rotation

    def to_mapping(self) -> dict[str, Any]:
        """As plain numbers, for YAML and JSON."""
        return {"hand_flipped": self.is_mirrored, **self.motion.to_mapping(), "angle_deg": self.motion.angle_deg,
                "distance_A": self.motion.distance_A, "box": self.frame.box, "voxel_size_A": self.frame.voxel_size_A}


def place_volume(volume: Volume, placement: Placement) -> Volume:
    """Eq. (1) for a map."""
    return move_volume(mirror_volume(volume) if placement.is_mirrored else volume, placement.motion, placement.frame)


def place_mask(mask: Volume, placement: Placement) -> Volume:
    """Eq. (1) for a mask."""
    return move_mask(mirror_volume(mask) if placement.is_mirrored else mask, placement.motion, placement.frame)


def place_record(record: MapRecord, placement: Placement) -> MapRecord:
    """Eq. (1) for all maps and masks of a record. In another box or voxel size its FSC is measured again, in the same mask."""
    moved = replace(record, half_maps=record.half_maps.map(lambda half: place_volume(half, placement)),
                    map=place_volume(record.map, placement),
                    sharpened=None if record.sharpened is None else place_volume(record.sharpened, placement),
                    refinement_mask=None if record.refinement_mask is None else place_mask(record.refinement_mask, placement),
                    fsc_mask=None if record.fsc_mask is None else place_mask(record.fsc_mask, placement))
    if record.fsc is None or placement.frame.holds(record.map):
        return moved
    return replace(moved, fsc=measure_fsc(moved.half_maps, moved.fsc_mask, record.fsc.mask_name))


def place_particles(particles: Particles, placement: Placement) -> Particles:
    """Eqs (1) to (3) for the poses of particles. Raises ValueError without poses."""
    return move_particles(mirror_particles(particles) if placement.is_mirrored else particles, placement.motion)
