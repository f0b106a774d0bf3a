"""A refinement's last search rehearsed on images whose truth is known: what it loses there, it loses of the real ones too.

The images are made as the engine believes real ones to be: a structure at the found poses, with each image's CTF, scale and noise level.
The structure is not the reference itself but one that could be true, given how well the half maps agree: with A and B the references of
the two halves and FSC that of their half maps, in each shell

(1) T = A + g (B / b - A),  b = <A, B> / <A, A>,  g such that <T, T> = <A, A> / FSC

The bracket is orthogonal to A by construction, so that A remains the best guess of T, and it lies where the map's errors lie. The power of
T follows from A being a Wiener estimate: <A, A> = FSC <T, T>. The halves meet in (1), but nothing of it goes back into maps or poses.

In a local refinement T is the part, at the found poses, beside a rest that moves about the given ones as the part does (less, where it is
the heavier one); the search begins anew at the given poses.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import scipy.fft
from scipy.spatial.transform import Rotation

from protomer.computing.arithmetic import CPU, Arithmetic
from protomer.engine.alignment import IDENTITY, Poses, Reference, Search, search_globally
from protomer.engine.confidence import Confidence, TriedPoses, full_covariance
from protomer.engine.filaments import Filaments, turned_about_z
from protomer.engine.local_alignment import Local, align_locally, nearest_mates, seen_from
from protomer.imaging.aberrations import usable_radius
from protomer.imaging.images import Whitened, whitened
from protomer.randomness import generator
from protomer.refinement.setup import Setup, State
from protomer_kernels.fourier import apply_shell_filter
from protomer_kernels.half_plane import HalfPlane
from protomer_kernels.rotations import matrices_from_quaternions, rotation_errors
from protomer_kernels.shells import shell_cross_sums
from protomer_kernels.slices import transform_volume

MOST_IMAGES, ONE_IN = 1024, 4
LEAST_FSC, MOST_FSC = 0.02, 0.999
LEAST_AGREEMENT, MOST_AGREEMENT = 0.02, 1.2  # of the references: b of eq. (1)
NEIGHBOURS = np.arange(-2, 3)  # subunits along a helix that a pose may be told apart from by chance
LEAST_DIFFERENCE = 1e-6  # of the halves, in power: below, a shell is the same in both


def rehearse(setup: Setup, state: State) -> Confidence:
    """Search images made from the refined maps, a fixed sample of the batches, as the last iteration searched the real ones.

    The same on every rank and for any number of ranks.
    """
    chosen = sampled_batches(setup)
    search, filaments = setup.search(state.band), setup.filaments_at(state.lattice)
    plane, model = setup.store.plane, state.model
    length = plane.prefix(usable_radius(setup.particles, model.insertion_radius))
    weights, tried, current = model.root_weight(plane, length), [], None
    own = [n for n in setup.numbers if n in chosen]
    fsc = of_references(np.array(state.history[-1]["fsc"]), len(setup.keys) // 2, setup.join_shell)
    with setup.progress("rehearsing with known poses", sum(len(setup.batches[n].rows) for n in own)) as line:
        for number in own:
            (half, fold), rows = setup.batches[number].key, setup.batches[number].rows
            if current != (half, fold):
                current = half, fold
                truth = possible_truth(model.maps[half, fold], model.maps[1 - half, fold], fsc)
                there = setup.arithmetic.here(model.about_origin(truth, plane))
                truth_ft = transform_volume(there, model.insertion_radius, workers=setup.threads)
                reference = model.reference((half, fold), plane, search, setup.arithmetic)
            nothing = blank(setup, rows, weights)
            true = seen_in_reference(setup, possible_poses(setup, state.poses.take(rows), rows, number))
            batch = imagined(nothing, truth_ft, true, plane, generator(setup.seed, number, "rehearsal"), setup.arithmetic)
            known = None if filaments is None else filaments.take(rows)
            found = search_anew(setup, batch, reference, search, true, rows, half, known)
            true = true if known is None else nearest_along(true, found, known)
            tried.append(compared(true, found, model.operators, setup.pixel_size_A))
            line.advance(len(rows))
            setup.check_stop()
    empty = TriedPoses(np.zeros((0, 5)), np.zeros((0, 5, 5)), np.zeros(0))
    columns = (np.concatenate([getattr(t, name) for t in (empty, *tried)]) for name in TriedPoses.__dataclass_fields__)
    return Confidence.fit(TriedPoses(*(setup.team.gather_rows(column) for column in columns)))


def sampled_batches(setup: Setup) -> set[int]:
    """Batches spread evenly over all: a quarter of the images, and no more than are needed."""
    images = min(MOST_IMAGES, len(setup.particles) / ONE_IN)
    largest = max(len(batch.rows) for batch in setup.batches)
    number = min(len(setup.batches), max(2, int(np.ceil(images / largest))))
    return set(np.linspace(0, len(setup.batches) - 1, number).round().astype(int).tolist())


def of_references(fsc: np.ndarray, folds: int, join_shell: int) -> np.ndarray:
    """The FSC (s,) that references have, from that of whole half maps: their SSNR, FSC / (1 - FSC), is lower by the fold that they lack,
    and higher by the other half where the halves are joined."""
    data = np.full(len(fsc), 1.0 if folds == 1 else (folds - 1) / folds)
    data[: join_shell + 1] += 1.0
    return np.asarray(data * fsc / (1.0 - fsc + data * fsc))


def possible_truth(own: np.ndarray, other: np.ndarray, fsc: np.ndarray) -> np.ndarray:
    """Eq. (1): own, other (D, D, D) references of two halves, fsc by shell -> (D, D, D) float32. Beyond the curve, own alone."""
    own_ft, other_ft = (scipy.fft.rfftn(volume) for volume in (own, other))
    cross, power, other_power = shell_cross_sums(own_ft, other_ft).T
    agreement = np.clip(cross / np.maximum(power, 1e-30), LEAST_AGREEMENT, MOST_AGREEMENT)
    beyond = other_power / agreement**2 - 2.0 * cross / agreement + power
    known = np.ones(len(power))
    known[: len(fsc)] = np.clip(fsc[: len(power)], LEAST_FSC, MOST_FSC)
    differs = beyond > LEAST_DIFFERENCE * power
    gain = np.sqrt(np.divide(power * (1.0 / known - 1.0), beyond, out=np.zeros(len(power)), where=differs))
    return apply_shell_filter(own, 1.0 - gain) + apply_shell_filter(other, gain / agreement)


def blank(setup: Setup, rows: np.ndarray, weights: np.ndarray) -> Whitened:
    """A batch as an E-step has it, of images that show nothing; weights (groups, K)."""
    crops = setup.arithmetic.here(np.zeros((len(rows), weights.shape[1]), np.complex64))
    return whitened(setup.particles, rows, crops, weights, setup.store.plane, setup.pixel_size_A, setup.arithmetic)


def imagined(
    nothing: Whitened, truth_ft: Any, poses: Poses, plane: HalfPlane, random: np.random.Generator, arithmetic: Arithmetic = CPU
) -> Whitened:
    """A batch whose images show the structure at the poses' first modes under their CTFs, with white noise of the whitened images' size."""
    noise = arithmetic.here(random.standard_normal(nothing.data.shape, np.float32))
    image = nothing.of_map(truth_ft, poses.rotation[:, 0], poses.shift_px[:, 0], plane, arithmetic)
    return replace(nothing, data=image + noise)


def possible_poses(setup: Setup, found: Poses, rows: np.ndarray, number: int) -> Poses:
    """Poses that could be true of a batch: in a local refinement, whose found poses a prior has drawn towards the given ones, draws from
    their posteriors, where these lie within the extents; else the found ones."""
    local = setup.local
    if local is None:
        return found
    covariance = full_covariance(np.where(np.isfinite(found.covariance), found.covariance, 0.0), 1.0)
    root = np.linalg.cholesky(covariance + 1e-14 * np.eye(5))
    drawn = (root @ generator(setup.seed, number, "rehearsed pose").standard_normal((len(rows), 5, 1)))[:, :, 0]
    rotation = Rotation.from_rotvec(drawn[:, :3]).as_matrix() @ found.rotation[:, 0]
    shift_px = found.shift_px[:, 0] + drawn[:, 3:]
    given = nearest_mates(matrices_from_quaternions(local.rotation[rows]), rotation, setup.mates)
    turn = np.linalg.norm(rotation_errors(given, rotation, IDENTITY), axis=1)
    moved = seen_from(rotation, shift_px, local.fulcrum_px) - seen_from(given, local.shift_px[rows], local.fulcrum_px)
    inside = (turn < local.extent[0]) & (np.linalg.norm(moved, axis=1) < local.extent[1])
    possible = replace(found, rotation=found.rotation.copy(), shift_px=found.shift_px.copy())
    possible.rotation[inside, 0], possible.shift_px[inside, 0] = rotation[inside], shift_px[inside]
    return possible


def seen_in_reference(setup: Setup, poses: Poses) -> Poses:
    """Poses in the frame of the references."""
    if setup.local is None:
        return poses
    return replace(poses, shift_px=seen_from(poses.rotation, poses.shift_px, setup.local.origin_px))


def search_anew(
    setup: Setup,
    batch: Whitened,
    reference: Reference,
    search: Search,
    true: Poses,
    rows: np.ndarray,
    half: int,
    filaments: Filaments | None,
) -> Poses:
    """Poses of imagined images, in the frame of the references, found as if nothing were known of them but what the job was given."""
    local = setup.local
    if local is None:
        return search_globally(batch, reference, search, filaments)
    if local.rest is not None:
        batch = replace(batch, data=batch.data + moving_rest(batch, local, true, rows, half, reference.plane, setup.mates))
    return align_locally(batch, reference, search, true, rows, replace(local, recentre=(False, False)), True)


def moving_rest(
    batch: Whitened, local: Local, true: Poses, rows: np.ndarray, half: int, plane: HalfPlane, mates: np.ndarray
) -> Any:
    """What the rest of the particle adds to imagined images (n, 2, K): it moves as the part does of other images of the batch, and what is
    taken from the images does not."""
    shift_px, found = local.shift_px[rows], np.ascontiguousarray(true.rotation[:, 0])
    given = nearest_mates(matrices_from_quaternions(local.rotation[rows]), found, mates)
    rest, turn = local.rest, rotation_errors(given, found, IDENTITY)
    assert rest is not None
    move_px = true.shift_px[:, 0] - seen_from(given, shift_px, local.origin_px)
    turn, move_px = (np.roll(change, len(rows) // 2, axis=0) for change in (turn, move_px))
    image = rest.image(batch, half, *rest.moved(given, shift_px, turn, move_px), plane)
    return image - rest.image(batch, half, given, shift_px, plane) if local.takes_rest else image


def nearest_along(true: Poses, found: Poses, filaments: Filaments) -> Poses:
    """True poses replaced by the equivalent ones along the helix that the found ones lie nearest to, in turn and shift together."""
    axis = true.rotation[:, :1, 2, :2]
    steps = NEIGHBOURS[None, :] + 0.0 * axis[..., 0]
    rotation = turned_about_z(np.repeat(true.rotation[:, :1], steps.shape[1], axis=1), steps * filaments.twist_rad)
    shift_px = true.shift_px[:, :1] + steps[..., None] * filaments.rise_px * axis
    off = np.linalg.norm(shift_px - found.shift_px[:, :1], axis=-1)
    trace = np.einsum("nkij,nij->nk", rotation, found.rotation[:, 0])
    angle = np.arccos(np.clip(0.5 * (trace - 1.0), -1.0, 1.0))
    best = np.argmin((angle / abs(filaments.twist_rad or 1.0)) ** 2 + (off / filaments.rise_px) ** 2, axis=1)
    rows = np.arange(len(best))
    return replace(true, rotation=rotation[rows, best][:, None], shift_px=shift_px[rows, best][:, None])


def compared(true: Poses, found: Poses, operators: np.ndarray, pixel_size_A: float) -> TriedPoses:
    """Found first modes against the true ones; group mates count as the same."""
    turn = rotation_errors(np.ascontiguousarray(true.rotation[:, 0]), np.ascontiguousarray(found.rotation[:, 0]), operators)
    shift_A = (found.shift_px[:, 0] - true.shift_px[:, 0]) * pixel_size_A
    error = np.concatenate([turn, shift_A], axis=1)
    return TriedPoses(error, full_covariance(found.covariance, pixel_size_A), found.weight[:, 0])
