"""What is drawn for each simulated image: pose, subunit motion, CTF, contrast, class, junk.

Every number depends on (seed, image, purpose) alone, so that image i is the same however many are asked for.

(1) Uniform rotations from three uniform numbers: Shoemake 1992, Graphics Gems III, "Uniform random rotations".
(2) A subunit with centre of mass c that is turned by Q and moved by d lies at Q (r - c) + c + d: it is seen with the rotation Q^T R and
    displaced by t + (R^T (c + d - Q c))_xy, t being the displacement of the particle.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from scipy.spatial.transform import Rotation

from protomer.randomness import combine, normal, uniform
from protomer.simulation.filaments import FilamentDesign, field_box, segment_poses
from protomer_kernels.ctf import CtfParameters
from protomer_kernels.rotations import matrices_from_quaternions, quaternions_from_matrices

PARTICLE, EMPTY, DEBRIS = 0, 1, 2  # values of Truth.junk
PREFERRED_DIRECTION = np.array([0.36, 0.48, 0.80])
PREFERRED_SHARE, PREFERRED_SPREAD = 0.5, 0.35
CONTRAST_SPREAD = 0.2  # standard deviation of the logarithm of the contrast
ENVELOPE_A2 = (20.0, 120.0)
DEFOCUS_ERROR_A = 200.0
IMAGES_PER_MICROGRAPH = 50


@dataclass(frozen=True)
class SimulationDesign:
    """What is simulated; the settings of the job in the units used inside."""

    number: int
    box: int
    pixel_size_A: float
    snr: float  # variance of the signal in the disc of radius 0.4 box over the variance of the noise; 0: noise alone
    seed: int = 0
    defocus_min_A: float = 8000.0
    defocus_max_A: float = 20000.0
    astigmatism_A: float = 300.0  # standard deviation of (defocus_u - defocus_v)
    voltage_V: float = 300e3
    spherical_aberration_A: float = 2.7e7
    amplitude_contrast: float = 0.1
    max_shift_A: float = 6.0
    realistic: bool = False
    junk: float = 0.0  # fraction of images without the particle
    motion_rotation_rad: float = 0.0  # standard deviation about each axis
    motion_shift_A: float = 0.0  # standard deviation along each axis
    second_fraction: float = 0.0
    beam_tilt_rad: tuple[float, float] = (0.0, 0.0)  # as in optics.OpticsGroup, and so the next
    odd_zernike: tuple[float, ...] = ()
    even_zernike: tuple[float, ...] = ()
    magnification: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 1.0)
    ewald_sign: int = 0  # h of protomer_kernels/ewald.py, eq. (1); 0: images are of flat slices
    filament: FilamentDesign | None = None  # images are segments of such filaments

    @property
    def field_box(self) -> int:
        """Pixels along the edge of the field from which images are cut: more than the box where a filament runs on beyond it."""
        return self.box if self.filament is None else field_box(self.box)

    @property
    def field(self) -> SimulationDesign:
        """The design with that field for a box."""
        return self if self.filament is None else replace(self, box=self.field_box)


@dataclass(frozen=True)
class Truth:
    """The truth about n images with b rigid bodies. Rotations are quaternions, scalar last, image axes to map axes."""

    rotation: np.ndarray  # (n, 4)
    shift_A: np.ndarray  # (n, 2) minus the displacement of the particle
    body_rotation: np.ndarray  # (n, b, 4) eq. (2)
    body_shift_A: np.ndarray  # (n, b, 2)
    defocus_u_A: np.ndarray  # (n,)
    defocus_v_A: np.ndarray  # (n,)
    defocus_angle_rad: np.ndarray  # (n,)
    stated_defocus_u_A: np.ndarray  # (n,) what the particle file says
    stated_defocus_v_A: np.ndarray  # (n,)
    bfactor_A2: np.ndarray  # (n,) envelope that the particle file does not know of
    contrast: np.ndarray  # (n,)
    junk: np.ndarray  # (n,) int8: 0 particle, 1 nothing but noise, 2 debris
    class_number: np.ndarray  # (n,) int32 from 1

    def __len__(self) -> int:
        return len(self.junk)

    def take(self, rows: np.ndarray | slice) -> Truth:
        """The given rows."""
        return replace(self, **{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    @property
    def rotation_matrix(self) -> np.ndarray:
        """(n, 3, 3) float64."""
        return matrices_from_quaternions(self.rotation)


class _Draws:
    """Random numbers per image of one stream."""

    def __init__(self, number: int, seed: int, stream: str) -> None:
        self.keys, self.seed, self.stream = np.arange(number, dtype=np.uint64), seed, stream

    def uniform(self, purpose: str, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        return low + (high - low) * uniform(self.seed, self.keys, f"{self.stream}/{purpose}")

    def normals(self, purpose: str, *shape: int) -> np.ndarray:
        keys = np.stack([combine(self.keys, j) for j in range(int(np.prod(shape)))], axis=1)
        return normal(self.seed, keys, f"{self.stream}/{purpose}").reshape(-1, *shape)


def draw_truth(design: SimulationDesign, body_centres_A: np.ndarray, stream: str = "simulate") -> Truth:
    """Draw the truth about `design.number` images of a particle whose bodies have the centres (b, 3)."""
    draws = _Draws(design.number, design.seed, stream)
    rotation = _uneven_rotations(draws) if design.realistic else _uniform_rotations(draws)
    radius, angle = design.max_shift_A * np.sqrt(draws.uniform("shift radius")), draws.uniform("shift angle", 0.0, 2.0 * np.pi)
    shift_A = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    if design.filament is not None:
        rotation, shift_A = segment_poses(design.filament, design.number, design.max_shift_A, design.seed, stream)
    body_rotation, body_shift_A = _move_bodies(draws, design, body_centres_A, rotation, shift_A)
    defocus_A = draws.uniform("defocus", design.defocus_min_A, design.defocus_max_A)
    astigmatism_A = 0.5 * design.astigmatism_A * draws.normals("astigmatism", 1)[:, 0]
    error_A = DEFOCUS_ERROR_A * draws.normals("defocus error", 1)[:, 0] * design.realistic
    junk_at = draws.uniform("junk") < design.junk
    return Truth(
        rotation=rotation, shift_A=shift_A, body_rotation=body_rotation, body_shift_A=body_shift_A,
        defocus_u_A=defocus_A + astigmatism_A, defocus_v_A=defocus_A - astigmatism_A,
        defocus_angle_rad=draws.uniform("astigmatism angle", 0.0, np.pi),
        stated_defocus_u_A=defocus_A + astigmatism_A + error_A, stated_defocus_v_A=defocus_A - astigmatism_A + error_A,
        bfactor_A2=draws.uniform("envelope", *ENVELOPE_A2) * design.realistic,
        contrast=np.exp(CONTRAST_SPREAD * draws.normals("contrast", 1)[:, 0] * design.realistic),
        junk=np.where(junk_at, np.where(draws.uniform("kind of junk") < 0.5, EMPTY, DEBRIS), PARTICLE).astype(np.int8),
        class_number=np.where(draws.uniform("class") < design.second_fraction, 2, 1).astype(np.int32))


def true_ctf(design: SimulationDesign, truth: Truth, retarded_rad: float = 0.0) -> CtfParameters:
    """The CTF that the images were made with, without even aberrations; retarded by a quarter turn it is cos gamma."""
    return CtfParameters(truth.defocus_u_A, truth.defocus_v_A, truth.defocus_angle_rad, design.voltage_V, design.spherical_aberration_A,
                         design.amplitude_contrast, retarded_rad, truth.bfactor_A2, np.reshape(design.magnification, (2, 2)))


def _uniform_rotations(draws: _Draws) -> np.ndarray:
    """Eq. (1): (n, 4)."""
    s, a, b = draws.uniform("rotation s"), draws.uniform("rotation a", 0.0, 2.0 * np.pi), draws.uniform("rotation b", 0.0, 2.0 * np.pi)
    return np.stack([np.sqrt(1 - s) * np.sin(a), np.sqrt(1 - s) * np.cos(a), np.sqrt(s) * np.sin(b), np.sqrt(s) * np.cos(b)], axis=1)


def _uneven_rotations(draws: _Draws) -> np.ndarray:
    """(n, 4): half of the views around one preferred direction, all in-plane angles alike."""
    preferred = draws.uniform("preferred") < PREFERRED_SHARE
    direction = PREFERRED_SPREAD * draws.normals("direction", 3) / np.where(preferred, 1.0, PREFERRED_SPREAD)[:, None]
    direction += np.where(preferred[:, None], PREFERRED_DIRECTION, 0.0)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    angles = np.stack([np.arctan2(direction[:, 1], direction[:, 0]), np.arccos(np.clip(direction[:, 2], -1, 1)),
                       draws.uniform("in plane", 0.0, 2.0 * np.pi)], axis=1)
    return Rotation.from_euler("ZYZ", angles).as_quat()


def _move_bodies(draws: _Draws, design: SimulationDesign, centres_A: np.ndarray, rotation: np.ndarray,
                 shift_A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eq. (2): the rotation (n, b, 4) and shift (n, b, 2) of every body."""
    number, bodies = len(rotation), len(centres_A)
    turn = Rotation.from_rotvec(design.motion_rotation_rad * draws.normals("body rotation", bodies, 3).reshape(-1, 3)).as_matrix()
    turn = turn.reshape(number, bodies, 3, 3)
    moved_A = centres_A + design.motion_shift_A * draws.normals("body shift", bodies, 3) - np.einsum("nbij,bj->nbi", turn, centres_A)
    matrix = matrices_from_quaternions(rotation)
    body_rotation = quaternions_from_matrices(np.einsum("nbji,njk->nbik", turn, matrix).reshape(-1, 3, 3)).reshape(number, bodies, 4)
    return body_rotation, shift_A[:, None] - np.einsum("nij,nbi->nbj", matrix, moved_A)[:, :, :2]
