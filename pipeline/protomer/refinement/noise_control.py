"""What a refinement makes of noise: the same run on images whose detail is noise (Chen et al. 2013, Ultramicroscopy 135:24).

Beyond a shell the phases of every image are drawn at random, its amplitudes stay. A refinement of these images starts and proceeds as the
real one did; what its half maps agree on beyond that shell is no detail of the particle but noise fitted alike, and the mask:

(1) FSC_true = (FSC - FSC_noise) / (1 - FSC_noise)                                                       (Chen et al. 2013, eq. 4)

Copies of one image, and images of one expanded particle, have the same noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from protomer.engine.pose_table import at_heaviest_mode
from protomer.imaging.images import ImageStore
from protomer.imaging.packed import Packed
from protomer.maps.fsc_curves import FscSet, first_crossing
from protomer.maps.resolution import LEAK_SHELLS, measure_fsc
from protomer.maps.volumes import Volume
from protomer.randomness import generator
from protomer.refinement.checkpoint import resume, until_settled
from protomer.refinement.reconstruction import reconstruct_halves
from protomer.refinement.setup import Setup, State, at_scales
from protomer.running.job_run import JobRun

SHARE_KEPT = 0.75  # of the resolution, in shells: Chen et al. replace what lies beyond it
NOISE_SIGMAS, LEAST_EXCESS = 3.0, 0.05  # of the control's mean FSC over what the mask alone gives, from which the run has fitted noise
CHECKPOINT_NAME = "checkpoint_control.h5"


@dataclass
class NoiseSubstituted(ImageStore):
    """The crops of a store with random phases from a shell on."""

    from_shell: int = 1
    seed: int = 0

    def packed(self, number: int) -> Packed:
        """Crops of the batch; each row has its own."""
        given = super().packed(number)
        crops, first = np.array(given.unpacked()), self.plane.prefix(self.from_shell - 1)
        for crop, uid in zip(crops, self.particles.image_uid[self.batches[number]].tolist(), strict=True):
            phases = generator(self.seed, uid, "noise substitution").random(len(crop) - first, np.float32)
            crop[first:] *= np.exp(np.complex64(2j * np.pi) * phases)
        return Packed(crops, None, given.store, number)


@dataclass(frozen=True)
class NoiseControl:
    """FSC by shell in one mask: `masked` of the run, `noise` of its control, and that corrected for what the mask alone gives; detail was
    noise from a shell on."""

    masked: np.ndarray
    noise: np.ndarray
    noise_corrected: np.ndarray
    from_shell: int
    resolved_shell: float
    width_A: float

    @property
    def beyond(self) -> slice:
        """The shells that judge: from where the noise begins, less those into which the mask leaks, to the resolution."""
        first = self.from_shell + LEAK_SHELLS
        return slice(first, max(int(np.ceil(self.resolved_shell)) + 1, first + 2))

    @property
    def true_fsc(self) -> np.ndarray:
        """Eq. (1) beyond, the masked FSC before."""
        curve, from_there = self.masked.copy(), slice(self.beyond.start, None)
        noise = np.minimum(self.noise[from_there], 0.99)
        curve[from_there] = (self.masked[from_there] - noise) / (1.0 - noise)
        return curve

    @property
    def resolution_A(self) -> float:
        """Of eq. (1), at 0.143; infinite where it is never reached."""
        shell = first_crossing(self.true_fsc, 0.143)
        return self.width_A / shell if shell > 0 else float("inf")

    @property
    def excess(self) -> float:
        """Mean FSC of the control beyond, less what the mask alone gives."""
        return float(np.mean(self.noise_corrected[self.beyond]))

    def fits_noise(self, particle_share: float) -> bool:
        """Whether the control's FSC is more than chance and the mask make it. particle_share: of the box, in the mask."""
        coefficients = 2.0 * np.pi * np.arange(len(self.noise))[self.beyond] ** 2 * max(particle_share, 1e-3)
        chance = float(np.sqrt(np.sum(1.0 / np.maximum(coefficients, 1.0)))) / max(len(coefficients), 1)
        return self.excess > max(NOISE_SIGMAS * chance, LEAST_EXCESS)


def control_shell(fsc: FscSet) -> int:
    """From which shell noise replaces detail: three quarters of the way to the corrected resolution; 0 where that is too coarse to tell."""
    shell = int(SHARE_KEPT * fsc.shell_at("corrected", 0.143))
    return shell if shell >= 3 and shell + LEAK_SHELLS + 1 < fsc.box // 2 else 0


def run_control(
    setup: Setup, start: State, measured: tuple[FscSet, Volume], extra_passes: int, at_best: bool, job: JobRun
) -> NoiseControl:
    """Refine from `start` with noise in place of detail, and compare with the FSC that the real images gave in a mask (`measured`).

    at_best: whether images count at their best mode alone in the final maps.
    """
    (fsc, mask), given = measured, setup.store
    from_shell = control_shell(fsc)
    store = NoiseSubstituted(
        given.particles, given.plane, given.batches, given.cache, given.arithmetic, given.half_precision, given.blocks, given._held,
        from_shell=from_shell, seed=setup.seed,
    )
    setup = replace(setup, store=store)
    job = replace(job, checkpoint=job.checkpoint.beside(CHECKPOINT_NAME))
    state = until_settled(setup, resume(setup, job) or start, extra_passes, job, "control iteration")
    counted = at_heaviest_mode(state.poses) if at_best else state.poses
    half_maps, _ = reconstruct_halves(at_scales(setup, state), state.model.noise, counted, setup.operators)
    job.checkpoint.remove()
    noise = measure_fsc(half_maps.map(lambda data: Volume(data, setup.pixel_size_A)), mask, fsc.mask_name, setup.seed)
    resolved = fsc.shell_at("corrected", 0.143)
    return NoiseControl(fsc.masked, noise.masked, noise.corrected, from_shell, resolved, fsc.box * fsc.voxel_size_A)
