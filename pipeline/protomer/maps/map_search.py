"""How a map lies on a reference when nothing is known: all rotations, both hands, several starts.

1. The map, band-limited to COARSE_WAVES waves per particle radius, is turned by rotations spread evenly over all turns
   STEP_WAVES of a wave at the particle's radius apart (some 11 degrees); each is scored over a lattice of shifts about the centres of
   mass, as one product of matrices. The mirrored map is the map compared with the mirrored reference, so that both hands cost one
   sampling.
2. The best places that are apart are fitted (map_fit.py) in that band, for each hand.
3. The best of those are fitted in bands that widen to the finest detail, and compared as far as the best of them agrees with the
   reference.

A place found is apart from another where it moves the particle by more than APART of its radius (root mean square). Where the map has a
symmetry of its own several places are equally good: they are recognised by the map agreeing with itself in both, and the one that turns
the map least is taken.

A mirrored map is x -> M x, M = diag(1, 1, -1), before it moves; with (Q', d') the motion onto the mirrored reference,

(1) Q = M Q' M, d = M d'
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from protomer.maps.map_fit import (
    MANY_POINTS,
    START_WAVES,
    MapFit,
    MapPair,
    correlation,
    free_directions,
    last_shell_of_agreement,
    march,
    score_at,
    shell_correlations,
)
from protomer.maps.rigid_motion import MIRROR, RigidMotion
from protomer.symmetry.self_correlation import MapSpectrum, ball_points
from protomer_kernels.rotations import matrices_from_quaternions, super_fibonacci_grid

COARSE_WAVES = 3.0  # particle radii per finest wave of the search
STEP_WAVES = 0.6  # between rotations, in finest waves at the particle's radius
SHIFT_STEP_WAVES, SHIFT_RADII, MOST_SHIFTS = 1 / 3, 0.35, 1500
SCAN_POINTS, ROTATIONS_AT_ONCE = 250, 500
COARSE_POINTS = 700
APART, SAME = 0.2, 0.02  # of the particle's radius
KEPT_STARTS, KEPT_FITS = 10, 5
HOPELESS = 0.7  # of the best coarse score: a start below is not fitted any finer, but the best of each hand
TIE, TIE_SDS = 0.003, 2.0  # scores that differ by less are equal
ROUNDING = 1e-6  # degrees and angstrom that are none
OWN_SYMMETRY = 0.9  # of the score that a map must agree with itself in two places for them to be its own symmetry


@dataclass(frozen=True)
class Limits:
    """The largest turn (degrees) and shift (angstrom, of the box centre) of the map, and whether it may be mirrored."""

    angle_deg: float = 180.0
    shift_A: float = np.inf
    both_hands: bool = True

    def allow(self, motion: RigidMotion) -> bool:
        """Whether a motion is within them."""
        return motion.angle_deg <= max(self.angle_deg, ROUNDING) and motion.distance_A <= max(self.shift_A, ROUNDING)

    @property
    def free(self) -> np.ndarray:
        """What may change at all, for map_fit.march."""
        return free_directions(self.angle_deg > 0, self.shift_A > 0)


@dataclass(frozen=True)
class Alignment:
    """The best place of a map on a reference, and how far the others fall behind. Scores up to `fit.radius`; None: there was none."""

    fit: MapFit
    is_mirrored: bool
    other_hand: float | None  # score of the best place of the other hand
    runner_up: float | None  # of the best other place of the same hand that the map's own symmetry does not explain
    equals: int  # places as good by the map's own symmetry, this one not counted
    curve: np.ndarray  # correlation with the reference by shell of its box
    score_sd: float  # of the difference of two scores, by chance

    @property
    def hand_margin(self) -> float | None:
        """How far the other hand falls behind, as a share of the score."""
        return None if self.other_hand is None else 1.0 - self.other_hand / max(self.fit.score, 1e-6)

    @property
    def start_margin(self) -> float | None:
        """How far the second-best place falls behind, as a share of the score."""
        return None if self.runner_up is None else 1.0 - self.runner_up / max(self.fit.score, 1e-6)


def align(reference: MapSpectrum, volume: MapSpectrum, limits: Limits, tell: Callable[[], None] = lambda: None) -> Alignment:
    """The motion, and the hand, that bring a map onto a reference: steps 1 to 3. tell: called now and then.

    Raises ValueError where nothing within the limits is left.
    """
    pairs = [MapPair(reference, volume), MapPair(reference.mirrored(), volume)][: 1 + limits.both_hands]
    coarse, last = pairs[0].shell_at(COARSE_WAVES), pairs[0].limit
    first, starts = pairs[0].shell_at(START_WAVES), scan(pairs, limits, tell)
    rough = []
    for pair, motions in zip(pairs, starts, strict=True):
        fits = [march(pair, motion, limits.free, first, coarse, COARSE_POINTS) for motion in motions]
        tell()
        rough.append(_apart(pair, [fit for fit in fits if limits.allow(fit.motion)], SAME)[:KEPT_FITS])
    best = max((fits[0].score for fits in rough if fits), default=0.0)
    fine: list[list[MapFit]] = []
    for pair, fits in zip(pairs, rough, strict=True):
        hopeful = [fit for i, fit in enumerate(fits) if i == 0 or fit.score > HOPELESS * best]
        fine.append([march(pair, fit.motion, limits.free, coarse, last) for fit in hopeful])
        tell()
    return choose(pairs, [[fit for fit in fits if limits.allow(fit.motion)] for fits in fine], limits)


def align_from(reference: MapSpectrum, volume: MapSpectrum, start: Alignment, limits: Limits) -> Alignment:
    """The place nearest to an earlier one, of the same hand, for maps that are masked otherwise. The scores of the search stay as they are.

    The earlier one, where it would leave the limits.
    """
    pair = MapPair(reference.mirrored() if start.is_mirrored else reference, volume)
    motion = unmirrored(start.fit.motion) if start.is_mirrored else start.fit.motion
    fit = march(pair, motion, limits.free, pair.shell_at(START_WAVES), pair.limit, MANY_POINTS)
    if not limits.allow(fit.motion):
        return start
    curve = shell_correlations(pair, fit.motion)
    fit = replace(fit, score=start.fit.score, radius=start.fit.radius, resolution_A=start.fit.resolution_A)
    return replace(start, fit=_of_hand(fit, start.is_mirrored), curve=curve)


def unmirrored(motion: RigidMotion) -> RigidMotion:
    """Eq. (1), which is its own inverse."""
    return RigidMotion(MIRROR @ motion.rotation @ MIRROR, MIRROR @ motion.shift_A)


def choose(pairs: list[MapPair], fits: list[list[MapFit]], limits: Limits) -> Alignment:
    """Step 3's comparison of the fits of each hand. Raises ValueError where there are none."""
    places = [(hand, fit) for hand, of_hand in enumerate(fits) for fit in of_hand]
    if not places:
        raise ValueError("no place within the limits is left")
    hand, fit = max(places, key=lambda place: place[1].score)
    curve = shell_correlations(pairs[hand], fit.motion)
    radius = max(float(last_shell_of_agreement(curve)), pairs[0].shell_at(COARSE_WAVES))
    radius = min(radius, pairs[0].limit)
    scored = [sorted((_rescored(pair, fit, radius) for fit in of_hand), key=lambda fit: -fit.score)
              for pair, of_hand in zip(pairs, fits, strict=True)]
    tops = [of_hand[0].score if of_hand else -1.0 for of_hand in scored]
    top = max(tops)
    score_sd = float(np.sqrt(max(1.0 - top**2, 0.0) / pairs[0].independent(radius)))
    tie = TIE + TIE_SDS * score_sd
    hand = 0 if tops[0] >= top - min(tie, TIE + score_sd) else 1
    best, pair = scored[hand][0], pairs[hand]
    distinct = _apart(pair, scored[hand], APART)
    equals = [fit for fit in distinct if fit.score >= best.score - tie and _own_symmetry(pair, best, fit, radius)]
    others = [fit for fit in distinct if not any(fit is equal for equal in equals)]
    chosen = min(equals, key=lambda fit: round(fit.motion.angle_deg, 3))
    other_hand = float(tops[1 - hand]) if len(tops) > 1 and scored[1 - hand] else None
    last = march(pair, chosen.motion, limits.free, radius, pair.limit, MANY_POINTS)
    if limits.allow(last.motion):
        chosen = replace(last, score=chosen.score, radius=radius, resolution_A=chosen.resolution_A)
    curve = shell_correlations(pair, chosen.motion)
    runner_up = others[0].score if others else None
    return Alignment(_of_hand(chosen, hand == 1), hand == 1, other_hand, runner_up, len(equals) - 1, curve, score_sd)


def _rescored(pair: MapPair, fit: MapFit, radius: float) -> MapFit:
    return replace(fit, score=score_at(pair, fit.motion, radius), radius=radius, resolution_A=pair.reference.extent_A / radius)


def _of_hand(fit: MapFit, is_mirrored: bool) -> MapFit:
    """The fit onto the mirrored reference as one of the mirrored map, by eq. (1); omega is an axial vector."""
    if not is_mirrored:
        return fit
    flip = np.diag([-1.0, -1.0, 1.0, 1.0, 1.0, -1.0])
    return replace(fit, motion=unmirrored(fit.motion), covariance=flip @ fit.covariance @ flip)


def _own_symmetry(pair: MapPair, first: MapFit, second: MapFit, radius: float) -> bool:
    """Whether the map and the reference, as far as they agree with one another, agree with themselves in both places."""
    if first is second:
        return True
    points = ball_points(4000, radius)
    volume = correlation(pair.whitened_volume(points, first.motion), pair.whitened_volume(points, second.motion))
    between = second.motion.after(first.motion.inverse)
    turned = MapPair(pair.reference, pair.reference).whitened_volume(points, between)
    reference = correlation(pair.whitened_reference(points), turned)
    return bool(np.sqrt(max(volume, 0.0) * max(reference, 0.0)) >= OWN_SYMMETRY * first.score)


def _apart(pair: MapPair, fits: list[MapFit], radii: float) -> list[MapFit]:
    """The best of those fits that move the particle by less than so many radii from one another, best first."""
    kept: list[MapFit] = []
    for fit in sorted(fits, key=lambda fit: -fit.score):
        if all(displacement_A(pair.volume, fit.motion, other.motion) > radii * pair.volume.radius_A for other in kept):
            kept.append(fit)
    return kept


def displacement_A(spectrum: MapSpectrum, first: RigidMotion, second: RigidMotion) -> float:
    """Root mean square distance, over a ball of the particle's size, between where two motions take it."""
    turn = first.rotation - second.rotation
    middle = turn @ spectrum.centre_A + first.shift_A - second.shift_A
    return float(np.sqrt(middle @ middle + spectrum.radius_A**2 / 5.0 * (turn**2).sum()))


def scan(pairs: list[MapPair], limits: Limits, tell: Callable[[], None] = lambda: None) -> list[list[RigidMotion]]:
    """Step 1: for each hand the best places of the map that are apart, best first."""
    pair, radius = pairs[0], pairs[0].shell_at(COARSE_WAVES)
    rotations = rotations_within(STEP_WAVES * pair.reference.extent_A / radius / pair.radius_A, limits.angle_deg)
    offsets_A, is_about_centres = shifts_within(pair, limits, radius)
    points = ball_points(SCAN_POINTS, radius)
    wave = -2j * np.pi / pair.reference.extent_A
    phase = np.exp(wave * (points @ offsets_A.T))
    phases = np.concatenate([phase.real, -phase.imag]).astype(np.float32)  # Re(x e) = Re x Re e - Im x Im e
    about = [p.reference.centre_A if is_about_centres else np.zeros(3) for p in pairs]
    from_A = pair.volume.centre_A if is_about_centres else np.zeros(3)
    templates = [(p.whitened_reference(points) * np.exp(-wave * (points @ centre))).conj() for p, centre in zip(pairs, about, strict=True)]
    norm = [np.sqrt(float((np.abs(template) ** 2).sum())) for template in templates]
    score, place = np.empty((len(pairs), len(rotations))), np.empty((len(pairs), len(rotations)), int)
    for first in range(0, len(rotations), ROTATIONS_AT_ONCE):
        some = slice(first, first + ROTATIONS_AT_ONCE)
        values = _turned_values(pair, points, rotations[some], from_A)
        power = np.sqrt((np.abs(values) ** 2).sum(axis=1))
        for hand, template in enumerate(templates):
            products = values * template
            sums = np.concatenate([products.real, products.imag], axis=1).astype(np.float32) @ phases
            place[hand, some] = sums.argmax(axis=1)
            score[hand, some] = sums.max(axis=1) / (power * norm[hand])
        tell()
    return [_best_places(pair, score[hand], rotations, about[hand] + offsets_A[place[hand]] - rotations @ from_A)
            for hand in range(len(pairs))]


def _turned_values(pair: MapPair, points: np.ndarray, rotations: np.ndarray, from_A: np.ndarray) -> np.ndarray:
    """G of each rotation (n, 3, 3) of the map about a point (3,): (n, a)."""
    own = points * pair.ratio
    turned = np.einsum("ai,nij->naj", own, rotations)
    back = np.exp(2j * np.pi / pair.volume.extent_A * (turned @ from_A)) if from_A.any() else 1.0
    return np.asarray(pair.volume.sample(turned) * back * np.sqrt(pair.volume.whitening(np.linalg.norm(own, axis=-1))))


def _best_places(pair: MapPair, score: np.ndarray, rotations: np.ndarray, shifts_A: np.ndarray) -> list[RigidMotion]:
    """The best KEPT_STARTS that are apart."""
    kept: list[RigidMotion] = []
    for i in np.argsort(-score):
        motion = RigidMotion(rotations[i], shifts_A[i])
        if all(displacement_A(pair.volume, motion, other) > APART * pair.volume.radius_A for other in kept):
            kept.append(motion)
        if len(kept) == KEPT_STARTS:
            break
    return kept


def rotations_within(step_rad: float, angle_deg: float) -> np.ndarray:
    """Rotations (n, 3, 3) about a step apart up to an angle, and a step beyond; the first turns nothing."""
    every = matrices_from_quaternions(super_fibonacci_grid(int(np.ceil(8 * np.pi**2 / step_rad**3))))
    angles = np.arccos(np.clip((np.trace(every, axis1=1, axis2=2) - 1) / 2, -1, 1))
    near = every[(angles <= np.deg2rad(angle_deg) + step_rad) & (angle_deg > 0)]
    return np.concatenate([np.eye(3)[None], near])


def shifts_within(pair: MapPair, limits: Limits, radius: float) -> tuple[np.ndarray, bool]:
    """Shifts (n, 3) to try; and whether they are about the centres of mass (the map may move far) or the map's place (it may not)."""
    largest = max(pair.reference.radius_A, pair.volume.radius_A)
    reach_A = max(SHIFT_RADII * largest, largest - pair.radius_A)
    is_about_centres = limits.shift_A > reach_A
    extent_A = reach_A if is_about_centres else limits.shift_A
    step_A = max(SHIFT_STEP_WAVES * pair.reference.extent_A / radius, extent_A * (4.19 / MOST_SHIFTS) ** (1 / 3))
    steps = np.arange(-np.ceil(extent_A / step_A), np.ceil(extent_A / step_A) + 1) * step_A
    shifts_A = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    distance_A = np.linalg.norm(shifts_A, axis=1)
    return shifts_A[distance_A <= extent_A + (0.5 * step_A if limits.shift_A > 0 else 0.0)], is_about_centres
