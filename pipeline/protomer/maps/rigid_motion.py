"""Turning and shifting maps, masks and the poses that belong to them, all by one motion.

(1) x' = Q x + d, x in angstrom from the box centre (index box // 2)
(2) a map: V'(k) = exp(-2 pi i k.d) V(Q^T k), one interpolation of its transform (protomer_kernels.volume_sampling), exact to float32
(3) a pose: R' = Q R, shift' = shift + (R'^T d)_xy                       so that the moved map has the same image in the moved pose
(4) its covariance, errors (omega about the map's axes, shift): omega' = Q omega, and by (3) shift' takes (R'^T [d]x Q omega)_xy with it

Only what lies in the sphere inscribed in the box can turn and stay in it. Outside, a moved map holds the solvent's grey value.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.fft
from scipy import ndimage

from protomer.maps.volumes import Volume
from protomer.tables.particles import Particles
from protomer_kernels.fourier import resize_field, shift_volume
from protomer_kernels.masks import sphere_mask
from protomer_kernels.nufft import half_plane_frequencies
from protomer_kernels.rotations import matrices_from_quaternions, quaternions_from_matrices
from protomer_kernels.volume_sampling import sample_volume_ft, sampling_grid

MIRROR = np.diag([1.0, 1.0, -1.0])  # of the other hand, z -> -z about the box centre
EDGE_PX = 2.0  # over which a map fades into the solvent where its sphere ends
ROTATION_TOLERANCE = 1e-6
_LOWER = np.tril_indices(5)


@dataclass(frozen=True)
class RigidMotion:
    """Eq. (1): `rotation` Q (3, 3) float64, `shift_A` d (3,) float64 [x, y, z]. Raises ValueError where Q is no rotation."""

    rotation: np.ndarray
    shift_A: np.ndarray

    def __post_init__(self) -> None:
        rotation, shift_A = np.asarray(self.rotation, np.float64), np.asarray(self.shift_A, np.float64)
        if rotation.shape != (3, 3) or shift_A.shape != (3,) or not (np.isfinite(rotation).all() and np.isfinite(shift_A).all()):
            raise ValueError(f"a motion is a (3, 3) rotation and a (3,) shift, found {rotation.shape} and {shift_A.shape}")
        if np.abs(rotation @ rotation.T - np.eye(3)).max() > ROTATION_TOLERANCE or np.linalg.det(rotation) < 0:
            raise ValueError("the matrix of a motion is not a rotation")
        object.__setattr__(self, "rotation", rotation)
        object.__setattr__(self, "shift_A", shift_A)

    @classmethod
    def none(cls) -> RigidMotion:
        """The motion that leaves all where it is."""
        return cls(np.eye(3), np.zeros(3))

    @property
    def angle_deg(self) -> float:
        """The angle by which it turns, degrees."""
        small = np.linalg.norm(self.rotation - np.eye(3)) / np.sqrt(8.0)
        return float(np.rad2deg(2.0 * np.arcsin(min(small, 1.0))))

    @property
    def distance_A(self) -> float:
        """How far it takes the box centre, angstrom."""
        return float(np.linalg.norm(self.shift_A))

    @property
    def inverse(self) -> RigidMotion:
        """The motion that undoes it."""
        return RigidMotion(self.rotation.T, -self.rotation.T @ self.shift_A)

    def after(self, first: RigidMotion) -> RigidMotion:
        """The motion that does `first`, then this one."""
        return RigidMotion(self.rotation @ first.rotation, self.rotation @ first.shift_A + self.shift_A)

    def points(self, positions_A: np.ndarray) -> np.ndarray:
        """Eq. (1) for positions (..., 3) [x, y, z] in angstrom."""
        return np.asarray(positions_A) @ self.rotation.T + self.shift_A

    def operators(self, operators: np.ndarray) -> np.ndarray:
        """Rotations (g, 3, 3) of the old frame as they are in the new one: Q g Q^T."""
        return np.asarray(self.rotation @ operators @ self.rotation.T)

    def to_mapping(self) -> dict[str, list[list[float]] | list[float]]:
        """As plain numbers, for JSON and YAML: rotation row by row, shift in angstrom."""
        return {"rotation": self.rotation.tolist(), "shift_A": self.shift_A.tolist()}


@dataclass(frozen=True)
class Frame:
    """Where a map lies: a cube of `box` voxels of `voxel_size_A`, the origin at its index box // 2."""

    box: int
    voxel_size_A: float

    @classmethod
    def of(cls, volume: Volume) -> Frame:
        """That of a map."""
        return cls(volume.box, volume.voxel_size_A)

    def holds(self, volume: Volume) -> bool:
        """Whether a map lies in this frame already."""
        return volume.box == self.box and bool(np.isclose(volume.voxel_size_A, self.voxel_size_A, rtol=1e-6))

    def wide_enough_for(self, volume: Volume) -> Frame:
        """The same voxels in a box no narrower than a map."""
        return Frame(max(self.box, int(np.ceil(volume.box * volume.voxel_size_A / self.voxel_size_A - 1e-6))), self.voxel_size_A)


def move_volume(volume: Volume, motion: RigidMotion, frame: Frame | None = None) -> Volume:
    """Eq. (2): the map moved. Frequencies beyond Nyquist (the corners of the transform) and what leaves the box are lost.

    frame: the box and voxels to move it to, centre on centre; unset: its own. Either way it is interpolated once.
    """
    frame = Frame.of(volume) if frame is None else frame
    if frame.holds(volume) and _is_nothing(motion, volume.voxel_size_A):
        return volume
    if frame.holds(volume) and np.array_equal(motion.rotation, np.eye(3)):
        return _shifted(volume, motion.shift_A)
    box, step_A = volume.box, volume.voxel_size_A
    radius_px = 0.5 * box
    sphere = sphere_mask(box, radius_px - 1 - EDGE_PX, EDGE_PX)
    solvent = np.float32(np.median(volume.data[sphere == 0]))
    wide = frame.wide_enough_for(volume)  # of a smaller box, what lies outside would come in from the other side
    cut = (volume.data - solvent) * sphere
    moved = moved_transform(cut, motion.rotation, motion.shift_A / step_A, wide.box, wide.voxel_size_A / step_A)
    data = resize_field(scipy.fft.fftshift(scipy.fft.irfftn(moved, s=(wide.box,) * 3)).astype(np.float32, copy=False), frame.box, 3)
    z, y, x = (float(frame.box // 2 + s) for s in motion.shift_A[::-1] / frame.voxel_size_A)
    data *= sphere_mask(frame.box, radius_px * step_A / frame.voxel_size_A, 0.0, (z, y, x))  # what came round from the other side
    return Volume(data + solvent, frame.voxel_size_A)


def _shifted(volume: Volume, shift_A: np.ndarray) -> Volume:
    """A map that is moved and not turned: nothing in its corners is lost."""
    box, solvent = volume.box, np.float32(np.median(volume.data[sphere_mask(volume.box, 0.5 * volume.box - 1, 0.0) == 0]))
    data = shift_volume(volume.data, shift_A / volume.voxel_size_A)
    for axis, by in enumerate(shift_A[::-1] / volume.voxel_size_A):
        source = np.arange(box) - by
        came_round = (source < -1e-6) | (source > box - 1 + 1e-6)
        data[tuple(came_round if other == axis else slice(None) for other in range(3))] = solvent
    return Volume(data, volume.voxel_size_A)


def mirror_volume(volume: Volume) -> Volume:
    """A map or mask of the other hand: z -> -z about voxel box // 2, without interpolation."""
    return Volume(np.ascontiguousarray(np.roll(volume.data[::-1], 1 - volume.box % 2, axis=0)), volume.voxel_size_A)


def moved_transform(data: np.ndarray, rotation: np.ndarray, shift_px: np.ndarray, box: int | None = None, step: float = 1.0) -> np.ndarray:
    """Eq. (2) for a cube (D, D, D): its real FFT about the box centre, (box, box, box // 2 + 1) complex64; any orthogonal matrix will do.

    shift_px: in voxels of the cube. box, step: the size of the new box, and of its voxels in old ones.
    """
    old, box = len(data), len(data) if box is None else box
    ratio = old / (box * step)  # of a frequency in cycles per new box to that in cycles per old box
    limit = min((old - 1) // 2, int(np.ceil(ratio * ((box - 1) // 2))))
    k, kx = half_plane_frequencies(box)
    grid = sampling_grid(data, limit)
    plane = np.stack(np.broadcast_arrays(kx, k[:, None], 0), axis=-1) * ratio
    turned, phase = plane @ rotation, np.exp(-2j * np.pi * (plane @ shift_px) / old).astype(np.complex64)
    out = np.empty((box, box, len(kx)), np.complex64)
    for z, kz in enumerate(k * ratio):
        of_plane = np.exp(-2j * np.pi * kz * shift_px[2] / old) / step**3
        out[z] = sample_volume_ft(grid, limit, turned + kz * rotation[2]) * (phase * np.complex64(of_plane))
    if box % 2 == 0 and ratio * box / 2 <= limit:  # a highest frequency stands for both signs, which a moved map does not share
        for axis in range(3):
            out[tuple(box // 2 if i == axis else slice(None) for i in range(3))] = 0.0
    return out


def move_mask(mask: Volume, motion: RigidMotion, frame: Frame | None = None) -> Volume:
    """A mask moved by linear interpolation, which keeps it between 0 and 1 where a sharper one would ring; 0 comes in from outside.

    frame: as for `move_volume`.
    """
    frame = Frame.of(mask) if frame is None else frame
    if frame.holds(mask) and _is_nothing(motion, mask.voxel_size_A):
        return mask
    back = motion.inverse
    matrix = back.rotation[::-1, ::-1] * (frame.voxel_size_A / mask.voxel_size_A)  # of [z, y, x]
    new_centre, centre = np.full(3, frame.box // 2, float), np.full(3, mask.box // 2, float)
    offset = centre - matrix @ new_centre + back.shift_A[::-1] / mask.voxel_size_A
    data = ndimage.affine_transform(mask.data, matrix, offset, (frame.box,) * 3, order=1, mode="constant", cval=0.0)
    return Volume(np.clip(data, 0.0, 1.0).astype(np.float32), frame.voxel_size_A)


def move_particles(particles: Particles, motion: RigidMotion) -> Particles:
    """Eqs. (3) and (4) for every row; operators that made copies move with the map. Raises ValueError without poses."""
    if not particles.has_poses:
        raise ValueError("particles without poses cannot be moved")
    rotation = motion.rotation @ matrices_from_quaternions(particles.rotation)
    shift_A = particles.shift_A + np.einsum("nij,i->nj", rotation, motion.shift_A)[:, :2]
    covariance = moved_covariance(particles.pose_covariance, rotation, motion.rotation, motion.shift_A)
    moved = particles.with_columns(rotation=quaternions_from_matrices(rotation), shift_A=shift_A, pose_covariance=covariance)
    return replace(moved, operators=particles.operators.moved(motion.rotation, motion.shift_A))


def mirror_particles(particles: Particles) -> Particles:
    """The poses in which the mirrored map (mirror_volume) has the same images: R' = M R M, M = diag(1, 1, -1), shifts unchanged. Errors
    omega about the map's axes become -M omega."""
    rotation = MIRROR @ matrices_from_quaternions(particles.rotation) @ MIRROR
    sign = np.array([-1.0, -1.0, 1.0, 1.0, 1.0])
    covariance = particles.pose_covariance * (sign[_LOWER[0]] * sign[_LOWER[1]])
    mirrored = particles.with_columns(rotation=quaternions_from_matrices(rotation), pose_covariance=covariance)
    return replace(mirrored, operators=particles.operators.mirrored())


def moved_covariance(packed: np.ndarray, rotation: np.ndarray, turn: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Eq. (4) for lower triangles (n, 15), given the moved rotations (n, 3, 3) and the motion: turn Q (3, 3), and shift d (3,) in the unit
    that the covariances have."""
    x, y, z = shift
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    full = np.zeros((len(packed), 5, 5))
    full[:, _LOWER[0], _LOWER[1]] = full[:, _LOWER[1], _LOWER[0]] = packed
    jacobian = np.zeros((len(packed), 5, 5))
    jacobian[:, :3, :3] = turn
    jacobian[:, 3:, :3] = (rotation.transpose(0, 2, 1) @ cross @ turn)[:, :2]
    jacobian[:, 3, 3] = jacobian[:, 4, 4] = 1.0
    moved = jacobian @ full @ jacobian.transpose(0, 2, 1)
    return np.asarray(moved[:, _LOWER[0], _LOWER[1]])


def _is_nothing(motion: RigidMotion, voxel_size_A: float) -> bool:
    """Whether the motion is exactly none, so that interpolation would only do harm."""
    return bool(np.array_equal(motion.rotation, np.eye(3)) and np.abs(motion.shift_A).max() < 1e-9 * voxel_size_A)
