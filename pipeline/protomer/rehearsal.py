"""A refinement's last search rehearsed on images whose truth is known: what it loses there, it loses of the real ones too.

The images are made as the engine believes real ones to be: a structure at the found poses, with each image's CTF, scale and noise level.
The structure is not the reference itself but one that could be true, given how well the half maps agree: with A and B the references of
the two halves and FSC that of their half maps, in each shell

(1) T = A + g (B / b - A),  b = <A, B> / <A, A>,  g such that <T, T> = <A, A> / FSC

The bracket is orthogonal to A by construction, so that A remains the best guess of T, and it lies where the map's errors lie. The power of
T follows from A being a Wiener estimate: <A, A> = FSC <T, T>. The halves meet in (1), but nothing of it goes back into maps or poses.
"""

from __future__ import annotations

import numpy as np
import scipy.fft

from protomer.aberrations import usable_radius
from protomer.alignment import Poses, search_globally
from protomer.confidence import Confidence, TriedPoses, full_covariance
from protomer.images import Whitened, contrast_transfer, whiten
from protomer.randomness import generator
from protomer.refinement_setup import Setup, State
from protomer_kernels.fourier import apply_shell_filter
from protomer_kernels.half_plane import HalfPlane
from protomer_kernels.rotations import rotation_errors
from protomer_kernels.shells import shell_cross_sums
from protomer_kernels.slices import extract_slices, transform_volume

MOST_IMAGES, ONE_IN = 1024, 4
LEAST_FSC, MOST_FSC = 0.02, 0.999
LEAST_AGREEMENT, MOST_AGREEMENT = 0.02, 1.2  # of the references: b of eq. (1)
LEAST_DIFFERENCE = 1e-6  # of the halves, in power: below, a shell is the same in both


def rehearse(setup: Setup, state: State) -> Confidence:
    """Search images made from the refined maps, a fixed sample of the batches, as the last iteration searched the real ones.

    The same on every rank and for any number of ranks.
    """
    chosen = sampled_batches(setup)
    search = state.band.search(setup.shift_extent_px)
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
                truth_ft = transform_volume(truth, model.insertion_radius, workers=setup.threads)
                reference = model.reference((half, fold), plane, search, setup.threads)
            transfer = contrast_transfer(setup.particles, rows, plane, length, setup.pixel_size_A)
            nothing = whiten(np.zeros((len(rows), length), np.complex64), transfer, weights[setup.particles.optics[rows]])
            poses = state.poses.take(rows)
            batch = imagined(nothing, truth_ft, poses, plane, generator(setup.seed, number, "rehearsal"))
            tried.append(compared(poses, search_globally(batch, reference, search, setup.threads), model.operators, setup.pixel_size_A))
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


def imagined(nothing: Whitened, truth_ft: np.ndarray, poses: Poses, plane: HalfPlane, random: np.random.Generator) -> Whitened:
    """A batch whose images show the structure at the poses' first modes under their CTFs, with white noise of the whitened images' size."""
    number, length = nothing.amplitude.shape
    slices = np.empty((number, 2, length), np.float32)
    rotations = nothing.magnified(poses.rotation[:, 0], np.arange(number)).astype(np.float32)
    kx, ky = plane.kx[:length], plane.ky[:length]
    extract_slices(truth_ft, rotations, kx, ky, slices)
    turns = (poses.shift_px[:, 0] @ np.stack([kx, ky]).astype(np.float64)) / plane.box
    image = nothing.amplitude * (slices[:, 0] + 1j * slices[:, 1]) * np.exp(2j * np.pi * turns)
    noise = random.standard_normal((number, 2, length), np.float32)
    return Whitened(np.stack([image.real, image.imag], axis=1).astype(np.float32) + noise, nothing.amplitude, nothing.magnification)


def compared(true: Poses, found: Poses, operators: np.ndarray, pixel_size_A: float) -> TriedPoses:
    """Found first modes against the true ones; group mates count as the same."""
    turn = rotation_errors(np.ascontiguousarray(true.rotation[:, 0]), np.ascontiguousarray(found.rotation[:, 0]), operators)
    shift_A = (found.shift_px[:, 0] - true.shift_px[:, 0]) * pixel_size_A
    error = np.concatenate([turn, shift_A], axis=1)
    return TriedPoses(error, full_covariance(found.covariance, pixel_size_A), found.weight[:, 0])
