"""Masks of volumes: soft spheres and cylinders, soft edges, dilation, components, and the dynamic mask. float32, 0 to 1.

An edge falls as half a raised cosine of the exact Euclidean distance d (voxels) to the set: (1 + cos(pi d / width)) / 2 for d < width,
0 from there.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from protomer_kernels.libraries import HOST, Library, library_of


def sphere_mask(box: int, radius_px: float, edge_px: float, centre_px: tuple[float, float, float] | None = None,
                library: Library = HOST) -> np.ndarray:
    """1 within `radius_px` of the centre ((z, y, x) voxel index; unset: box // 2), falling to 0 at radius_px + edge_px: (box, box, box)."""
    z, y, x = (library.arrays.asarray(offset) for offset in _offsets(box, centre_px))
    return raised_cosine(np.sqrt(z * z + y * y + x * x) - radius_px, edge_px)


def cylinder_mask(box: int, radius_px: float, height_px: float, edge_px: float,
                  centre_px: tuple[float, float, float] | None = None) -> np.ndarray:
    """A cylinder along z, `height_px` from end to end, with a soft edge outside its side and ends: (box, box, box)."""
    z, y, x = _offsets(box, centre_px)
    beside = np.maximum(np.sqrt(y * y + x * x) - radius_px, 0)
    above = np.maximum(np.abs(z) - height_px / 2, 0)
    return raised_cosine(np.sqrt(beside * beside + above * above), edge_px)


def disc_mask(box: int, radius_px: float, edge_px: float) -> np.ndarray:
    """1 within `radius_px` of pixel box // 2, falling to 0 at radius_px + edge_px: (box, box), for images."""
    axis = np.arange(box, dtype=np.float32) - box // 2
    return raised_cosine(np.hypot(axis[:, None], axis[None, :]) - np.float32(radius_px), edge_px)


def _offsets(box: int, centre_px: tuple[float, float, float] | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Signed distances (float32) from the centre along z, y, x, shaped to broadcast."""
    cz, cy, cx = centre_px or (box // 2,) * 3
    axis = np.arange(box, dtype=np.float32)
    return (axis - np.float32(cz))[:, None, None], (axis - np.float32(cy))[None, :, None], (axis - np.float32(cx))[None, None, :]


def raised_cosine(distance_px: np.ndarray, width_px: float) -> np.ndarray:
    """The edge: 1 where the distance is <= 0, half a cosine down to 0 at `width_px`; a width of 0 is a hard edge. float32."""
    if width_px <= 0:
        return (distance_px <= 0).astype(np.float32)
    phase = np.clip(distance_px / np.float32(width_px), 0, 1).astype(np.float32, copy=False)
    return np.float32(0.5) + np.float32(0.5) * np.cos(np.float32(np.pi) * phase)


def distance_to(binary: np.ndarray, limit_px: int) -> np.ndarray:
    """Exact Euclidean distance (voxels, float32) to the nearest true voxel, for all within `limit_px`; infinity beyond. Not periodic.

    The squared distance is separable: one pass along each axis takes the minimum, over offsets up to the limit, of what was found
    plus offset^2.
    """
    out: np.ndarray = library_of(binary).arrays.full(binary.shape, np.inf, np.float32)
    region = _bounds(binary, limit_px)
    if region is None:
        return out
    far = np.int32((limit_px + 1) ** 2)
    square = np.where(binary[region], np.int32(0), far)
    for axis in range(binary.ndim):
        square = _nearest_along(square, axis, limit_px)
    out[region] = np.where(square <= limit_px**2, np.sqrt(square, dtype=np.float32), np.float32(np.inf))
    return out


def _bounds(binary: np.ndarray, margin: int) -> tuple[slice, ...] | None:
    """The smallest box that holds every true voxel, grown by `margin` within the array; None where nothing is true."""
    region = []
    for axis in range(binary.ndim):
        others = tuple(a for a in range(binary.ndim) if a != axis)
        found = np.flatnonzero(binary.any(axis=others))
        if not len(found):
            return None
        region.append(slice(max(int(found[0]) - margin, 0), int(found[-1]) + margin + 1))
    return tuple(region)


def _nearest_along(square: np.ndarray, axis: int, limit_px: int) -> np.ndarray:
    """One pass of `distance_to`: the minimum over |offset| <= limit_px along `axis` of square + offset^2."""
    source = np.moveaxis(square, axis, 0)
    out = square.copy()
    target = np.moveaxis(out, axis, 0)
    for offset in range(1, min(limit_px, len(source) - 1) + 1):
        np.minimum(target[offset:], source[:-offset] + np.int32(offset**2), out=target[offset:])
        np.minimum(target[:-offset], source[offset:] + np.int32(offset**2), out=target[:-offset])
    return out


def dilate(binary: np.ndarray, distance_px: float) -> np.ndarray:
    """All voxels within `distance_px` of a true one (bool)."""
    return distance_to(binary, int(np.ceil(distance_px))) <= distance_px


def erode(binary: np.ndarray, distance_px: float) -> np.ndarray:
    """All true voxels farther than `distance_px` from a false one (bool); the outside of the box counts as true."""
    return ~dilate(~binary, distance_px)


def soft_edge(binary: np.ndarray, width_px: float) -> np.ndarray:
    """1 on the set, falling to 0 as half a cosine over `width_px` outside it: float32."""
    return raised_cosine(distance_to(binary, int(np.ceil(width_px))), width_px)


def threshold_mask(volume: np.ndarray, level: float) -> np.ndarray:
    """All voxels at or above `level` (bool)."""
    return volume >= level


def near_points(box: int, points_px: np.ndarray, radius_px: float) -> np.ndarray:
    """All voxels within `radius_px` of a point (n, 3) [z, y, x], in voxels from the corner; the voxel that holds a point always (bool)."""
    out = np.zeros((box,) * 3, bool)
    nearest = np.rint(points_px).astype(np.int64)
    reach = int(np.ceil(radius_px + 0.5))
    for step in np.ndindex((2 * reach + 1,) * 3):
        voxel = nearest + (np.array(step) - reach)
        within = ((voxel - points_px) ** 2).sum(axis=1) <= radius_px**2
        keep = (within | (voxel == nearest).all(axis=1)) & ((voxel >= 0) & (voxel < box)).all(axis=1)
        out[tuple(voxel[keep].T)] = True
    return out


def largest_component(binary: np.ndarray) -> np.ndarray:
    """The largest set of true voxels that touch by their faces (bool); of equally large ones, the first in memory order."""
    labels, number = ndimage.label(binary)
    if number == 0:
        return np.zeros_like(binary, dtype=bool)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return labels == int(np.argmax(sizes))


def large_components(binary: np.ndarray, fraction: float) -> np.ndarray:
    """Every set of true voxels that touch by their faces and are at least this fraction of the largest such set (bool)."""
    labels, number = ndimage.label(binary)
    if number == 0:
        return np.zeros_like(binary, dtype=bool)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray((sizes >= fraction * sizes.max()) & (sizes > 0))[labels]


def fill_holes(binary: np.ndarray) -> np.ndarray:
    """The set with every enclosed hole filled: all that cannot be reached from the faces of the box without crossing it (bool)."""
    labels, _ = ndimage.label(~binary)
    outside = np.zeros(int(labels.max()) + 1, bool)
    for axis in range(binary.ndim):
        for face in (0, -1):
            outside[np.unique(np.take(labels, face, axis=axis))] = True
    outside[0] = False  # label 0 is the set itself
    return ~outside[labels]


def dynamic_mask(volume: np.ndarray, threshold_fraction: float, near_px: float, far_px: float) -> np.ndarray:
    """The mask of a (low-passed) volume: 1 within `near_px` of voxels at or above a fraction of the maximum, falling to 0 at `far_px`.

    The rule that cryoSPARC's documentation gives for its dynamic mask (threshold, near, far). Raises ValueError where far < near or where
    the maximum is not positive, since then a fraction of it selects nothing sensible.
    """
    highest = float(volume.max())
    if far_px < near_px or highest <= 0:
        raise ValueError(f"expected near <= far and a positive maximum, found near {near_px}, far {far_px}, maximum {highest:g}")
    distance = distance_to(volume >= threshold_fraction * highest, int(np.ceil(far_px)))
    return raised_cosine(distance - np.float32(near_px), far_px - near_px)
