"""Scoring poses and maps against a known truth, whatever frame they came out in.

A refined map may be turned and moved as a whole: map'(x) = map(Q^-1 (x - d)). Then, with g one of the group's operators,

(1) R' = Q g R,   shift' = shift + (R'^T d)_xy                                       for every particle
(2) Q is the rotation by which most particles agree with (1); from there, weighted Procrustes steps with the weights
    1 / (1 + (angle / spread)^2), each particle with its nearest operator           Cauchy weights: Holland & Welsch 1977
(3) d solves the linear equations (1) for the shifts, with the same kind of weights
(4) the other hand: R -> M R M, M = diag(1, 1, -1), shifts unchanged

Only particles whose rotation agrees with (1) within `GOOD_RAD` have a say in d.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft

from protomer.maps.rigid_motion import moved_transform
from protomer.maps.volumes import Volume
from protomer_kernels.rotations import matrices_from_quaternions
from protomer_kernels.shells import fourier_shell_correlation

CANDIDATES = 200
GOOD_RAD = np.deg2rad(15.0)
STEPS = 30
SMALLEST_SPREAD_RAD = np.deg2rad(0.05)
SMALLEST_SPREAD_A = 0.01
MIRROR = np.diag([1.0, 1.0, -1.0])


@dataclass(frozen=True)
class TruthFrame:
    """How the frame of the truth lies in the frame of the result: x' = Q x + d, after a mirror z -> -z where `flipped`."""

    rotation: np.ndarray  # (3, 3) Q
    translation_A: np.ndarray  # (3,) d, x, y, z
    flipped: bool = False


@dataclass(frozen=True)
class PoseErrors:
    """Errors of n poses after one rigid motion of all was taken out."""

    angle_deg: np.ndarray  # (n,) angle of the rotation between found and true
    shift_A: np.ndarray  # (n,) length of the difference of the shifts
    operator: np.ndarray  # (n,) which operator of the group (1) was nearest
    frame: TruthFrame

    def lost(self, beyond_deg: float = 10.0) -> float:
        """Fraction of poses that are wrong by more than this."""
        return float(np.mean(self.angle_deg > beyond_deg))

    def summary(self) -> dict[str, float]:
        """What is usually quoted: medians, 90th percentiles, and the fraction lost."""
        return {"median_angle_deg": float(np.median(self.angle_deg)), "p90_angle_deg": float(np.percentile(self.angle_deg, 90)),
                "median_shift_A": float(np.median(self.shift_A)), "p90_shift_A": float(np.percentile(self.shift_A, 90)),
                "lost": self.lost()}


def pose_errors(rotation: np.ndarray, shift_A: np.ndarray, true_rotation: np.ndarray, true_shift_A: np.ndarray,
                operators: np.ndarray | None = None, both_hands: bool = False) -> PoseErrors:
    """Errors of poses, quaternions (n, 4) and shifts (n, 2), after taking out the frame (1).

    operators: (g, 3, 3) of the point group in the truth's frame; None: C1. both_hands: also try (4), and keep the hand with more agreement.
    Raises ValueError where there are fewer than 3 particles or the tables differ in length.
    """
    if len(rotation) != len(true_rotation) or len(rotation) < 3:
        raise ValueError(f"expected at least 3 poses and as many true ones, found {len(rotation)} and {len(true_rotation)}")
    group = np.eye(3)[None] if operators is None else np.asarray(operators, np.float64)
    found, true = matrices_from_quaternions(rotation), matrices_from_quaternions(true_rotation)
    results = [_errors(found, shift_A, _mirrored(true) if flip else true, true_shift_A, _mirrored(group) if flip else group, flip)
               for flip in ((False, True) if both_hands else (False,))]
    return min(results, key=lambda errors: float(np.median(errors.angle_deg)))


def _mirrored(matrices: np.ndarray) -> np.ndarray:
    """Eq. (4)."""
    return MIRROR @ matrices @ MIRROR


def _errors(found: np.ndarray, shift_A: np.ndarray, true: np.ndarray, true_shift_A: np.ndarray, group: np.ndarray,
            flipped: bool) -> PoseErrors:
    """Errors for one hand."""
    copies = np.einsum("gij,njk->ngik", group, true)
    frame = _refine_frame(found, copies, _best_frame(found, copies))
    operator, angle = _nearest(found, copies, frame)
    good = angle <= GOOD_RAD
    translation_A = _frame_translation(found[good], (shift_A - true_shift_A)[good]) if good.any() else np.zeros(3)
    residual_A = shift_A - true_shift_A - np.einsum("nij,i->nj", found, translation_A)[:, :2]
    return PoseErrors(np.rad2deg(angle), np.linalg.norm(residual_A, axis=1), operator, TruthFrame(frame, translation_A, flipped))


def _angles(traces: np.ndarray, squared_distance: np.ndarray) -> np.ndarray:
    """Rotation angles from tr(A^T B) and |A - B|^2 = 8 sin^2(angle / 2); the second is exact for small angles."""
    small = 2.0 * np.arcsin(np.clip(np.sqrt(squared_distance / 8.0), 0.0, 1.0))
    return np.where(traces > 2.0, small, np.arccos(np.clip((traces - 1.0) / 2.0, -1.0, 1.0)))


def _nearest(found: np.ndarray, copies: np.ndarray, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The operator (n,) that brings each true pose nearest to the one found, and the angle (n,) in radians that is left."""
    traces = np.einsum("nij,ik,ngkj->ng", found, frame, copies, optimize=True)
    operator = traces.argmax(axis=1)
    rows = np.arange(len(found))
    distance = ((found - frame @ copies[rows, operator]) ** 2).sum((1, 2))
    return operator, _angles(traces[rows, operator], distance)


def _best_frame(found: np.ndarray, copies: np.ndarray) -> np.ndarray:
    """Of the frames that single particles propose, the one with the most agreement; eq. (2), first half."""
    rows = np.unique(np.linspace(0, len(found) - 1, CANDIDATES).astype(int))
    # g runs over a group, so one operator per candidate is enough: the others give frames that agree equally well
    candidates = np.einsum("nij,nkj->nik", found[rows], copies[rows, 0])
    scores = [float((1.0 / (1.0 + (_nearest(found, copies, frame)[1] / GOOD_RAD) ** 2)).sum()) for frame in candidates]
    return np.asarray(candidates[int(np.argmax(scores))])


def _refine_frame(found: np.ndarray, copies: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Eq. (2), second half."""
    rows = np.arange(len(found))
    for _ in range(STEPS):
        operator, angle = _nearest(found, copies, frame)
        good = angle <= GOOD_RAD
        spread = max(float(np.median(angle[good])) if good.any() else GOOD_RAD, SMALLEST_SPREAD_RAD)
        weight = good / (1.0 + (angle / spread) ** 2)
        u, _, vt = np.linalg.svd(np.einsum("n,nij,nkj->ik", weight, found, copies[rows, operator]))
        turned = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
        moved, frame = np.abs(turned - frame).max(), turned
        if moved < 1e-9:
            break
    return frame


def _frame_translation(found: np.ndarray, difference_A: np.ndarray) -> np.ndarray:
    """Eq. (3): d (3,) from shift differences (n, 2) of particles with rotations (n, 3, 3)."""
    rows = found.transpose(0, 2, 1)[:, :2]  # (n, 2, 3): (R^T d)_xy = rows d
    weight, translation_A = np.ones(len(found)), np.zeros(3)
    for _ in range(STEPS):
        root = np.sqrt(weight)[:, None]
        solved = np.linalg.lstsq((root[:, :, None] * rows).reshape(-1, 3), (root * difference_A).ravel(), rcond=1e-6)[0]
        moved, translation_A = np.abs(solved - translation_A).max(), solved
        distance_A = np.linalg.norm(difference_A - rows @ translation_A, axis=1)
        weight = 1.0 / (1.0 + (distance_A / max(float(np.median(distance_A)), SMALLEST_SPREAD_A)) ** 2)
        if moved < 1e-9:
            break
    return translation_A


def in_frame(truth: Volume, frame: TruthFrame) -> Volume:
    """The true map moved into the frame of a result, by its Fourier transform: exact but for the corners beyond Nyquist, which become 0."""
    turn = frame.rotation @ MIRROR if frame.flipped else frame.rotation
    volume_ft = moved_transform(truth.data, turn, frame.translation_A / truth.voxel_size_A)
    data = scipy.fft.fftshift(scipy.fft.irfftn(volume_ft, s=(truth.box,) * 3))
    return Volume(data.astype(np.float32), truth.voxel_size_A)


def truth_fsc(found: Volume, truth: Volume, frame: TruthFrame, mask: Volume | None = None) -> np.ndarray:
    """FSC (box // 2 + 1,) of a map with the truth moved into its frame; 0.5 here is what 0.143 is between half maps.

    mask: in the frame of `found`. Raises ValueError where boxes or voxel sizes differ.
    """
    if found.box != truth.box or not np.isclose(found.voxel_size_A, truth.voxel_size_A, rtol=1e-4):
        raise ValueError(f"the map has box {found.box} at {found.voxel_size_A} A, the truth box {truth.box} at {truth.voxel_size_A} A")
    weight = np.float32(1.0) if mask is None else mask.data
    curve: np.ndarray = fourier_shell_correlation(found.data * weight, in_frame(truth, frame).data * weight)
    return curve
