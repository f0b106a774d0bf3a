"""Maps as surfaces for a page: marching cubes (Lewiner 2003, by scikit-image) at a level found by rule, few enough triangles to embed.

The level, from the map alone: noise is what lies outside a sphere of 0.45 box; the level is NOISE_SIGMAS of it above the solvent, or
FRACTION of the way from the solvent to the 99.9th percentile inside the sphere, whichever is higher. Half maps are drawn at the level of
their map, so that the two can be compared, and masks at 0.5. Pieces smaller than SMALLEST_PIECE of the largest are left out. Where a
surface has too many triangles its map is cut down in Fourier space until they are few enough; what that made of its voxels is said.
"""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass

import numpy as np

from protomer.maps.volumes import Volume
from protomer_kernels import masks
from protomer_kernels.fourier import crop_volume

NOISE_SIGMAS, FRACTION, SPHERE_RADIUS = 4.0, 0.3, 0.45
SMALLEST_PIECE = 0.02
LARGEST_BOX, SMALLEST_BOX = 160, 16  # of the map that is drawn
STEPS = 65535  # of a coordinate that is stored in 16 bits


@dataclass(frozen=True)
class Surface:
    """Triangles: vertices (n, 3) float32 [x, y, z] in Å from the box centre, faces (m, 3) int32, anticlockwise seen from outside.

    level: the grey value of the surface; voxel_size_A: of the map that it was drawn from.
    """

    vertices: np.ndarray
    faces: np.ndarray
    level: float
    voxel_size_A: float

    @property
    def reach_A(self) -> float:
        """The largest coordinate, which sets the scale of what is stored."""
        return float(np.abs(self.vertices).max(initial=1e-3))


def level_by_rule(volume: Volume) -> float:
    """The grey value of the rule above."""
    inside = masks.sphere_mask(volume.box, SPHERE_RADIUS * volume.box, 0.0) > 0
    outside = volume.data[~inside]
    solvent = float(np.median(outside))
    noise = 1.4826 * float(np.median(np.abs(outside - solvent)))
    high = float(np.percentile(volume.data[inside], 99.9))
    return max(solvent + NOISE_SIGMAS * noise, solvent + FRACTION * (high - solvent))


def surface_of(volume: Volume, level: float, most_triangles: int) -> Surface:
    """The surface of a map at a grey value; it has no triangles where no voxel lies above, or none below."""
    drawn, box = volume, min(volume.box, LARGEST_BOX)
    while True:
        if box < volume.box:
            drawn = Volume(crop_volume(volume.data, box).astype(np.float32), volume.voxel_size_A * volume.box / box)
        surface = _marched(drawn, level)
        if len(surface.faces) <= most_triangles or box <= SMALLEST_BOX:
            return surface
        box = max(SMALLEST_BOX, 2 * int(0.475 * box * np.sqrt(most_triangles / len(surface.faces))))


def _marched(volume: Volume, level: float) -> Surface:
    """Marching cubes over the part of the box that holds density, closed where the box cuts it off."""
    above = volume.data > level
    above &= masks.large_components(above, SMALLEST_PIECE)
    if not above.any():
        return Surface(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32), level, volume.voxel_size_A)
    where = np.nonzero(above)
    low = [max(0, int(at.min()) - 1) for at in where]
    region = tuple(slice(first, int(at.max()) + 2) for first, at in zip(low, where, strict=True))
    left_out = (volume.data > level) & ~above
    below = np.float32(min(float(volume.data.min()), level - 1e-6 - abs(1e-3 * level)))
    padded = np.pad(np.where(left_out, below, volume.data)[region], 1, constant_values=below)
    from skimage.measure import marching_cubes
    corners, faces, _, _ = marching_cubes(padded, level)
    voxel = corners + (np.array(low, np.float32) - 1.0 - volume.box // 2)  # [z, y, x]
    corners_A = np.ascontiguousarray(voxel[:, ::-1] * np.float32(volume.voxel_size_A))
    return Surface(corners_A, faces.astype(np.int32), level, volume.voxel_size_A)


def packed(surface: Surface) -> str:
    """A surface as text: base64 of zlib of faces (3m int32, each the difference to the one before), then x, y and z of the vertices
    (uint16 of (coordinate / reach + 1) / 2, differences too, modulo 2^16). Little-endian."""
    steps = np.rint((surface.vertices / surface.reach_A + 1.0) * (0.5 * STEPS)).astype(np.int64)
    faces = np.diff(surface.faces.ravel().astype(np.int64), prepend=0).astype("<i4")
    corners = np.diff(steps, axis=0, prepend=np.zeros((1, 3), np.int64)).astype("<u2")
    return base64.b64encode(zlib.compress(faces.tobytes() + np.ascontiguousarray(corners.T).tobytes(), 9)).decode("ascii")


def unpacked(text: str, number_of_faces: int, reach_A: float) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (n, 3) float32 and faces (m, 3) of a packed surface, as the page's script restores them."""
    raw = zlib.decompress(base64.b64decode(text))
    faces = np.cumsum(np.frombuffer(raw, "<i4", 3 * number_of_faces).astype(np.int64)).reshape(-1, 3)
    steps = np.cumsum(np.frombuffer(raw, "<u2", offset=12 * number_of_faces).reshape(3, -1), axis=1, dtype=np.uint64) % (STEPS + 1)
    return ((steps.T / (0.5 * STEPS) - 1.0) * reach_A).astype(np.float32), faces
