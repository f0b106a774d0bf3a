"""Simulated data sets with known truth: images of a scatterer with CTF and noise, made in blocks.

(1) image = contrast gain F^-1[C exp(i chi) F2] + noise, aberrations as in protomer_kernels/aberrations.py; the noise has variance 1,
    the volume written beside the images is gain times the scatterer; where the Ewald sphere is curved, C F2 is the sum over both its
    half-curves, protomer_kernels/ewald.py, eq. (2)
(2) gain^2 = snr / (variance of F^-1[C F2] over pixels within 0.4 box of the centre, averaged over PROBES images drawn for this)
(3) coloured noise has the power (1 + COLOUR / (1 + (s / S0)^2)) up to a factor that keeps the variance at 1
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import scipy.fft

from protomer.errors import InputError, SettingsError
from protomer.maps.volumes import Volume
from protomer.randomness import generator
from protomer.simulation.draws import DEBRIS, PARTICLE, SimulationDesign, Truth, draw_truth, true_ctf
from protomer.simulation.filaments import cut_out
from protomer.simulation.optics import even_turns, magnified_rotations, odd_phase, optics_of
from protomer.simulation.scatterers import Scatterer
from protomer_kernels.atoms import image_fts_of_atoms, real_images, real_volume
from protomer_kernels.ctf import ctf_values
from protomer_kernels.ewald import height_form, heights
from protomer_kernels.nufft import half_plane_frequencies
from protomer_kernels.rotations import matrices_from_quaternions

PROBES = 64
SIGNAL_DISC = 0.4  # radius in boxes
BLOCK = 64
COLOUR, COLOUR_PERIOD_A = 3.0, 30.0
DEBRIS_ATOMS, DEBRIS_BFACTOR_A2, DEBRIS_SIZE = 400, 200.0, 0.5


@dataclass(frozen=True)
class SimulatedData:
    """A whole simulated data set in memory."""

    images: np.ndarray  # (n, box, box) float32 [y, x]; the noise has variance 1
    truth: Truth
    volume: Volume  # the first scatterer, in the grey scale of the images
    noise_variance: np.ndarray  # (box // 2 + 1,) E|noise|^2 of a unitary transform per shell
    design: SimulationDesign


class Simulator:
    """Makes the images of one design; block by block, in any order."""

    def __init__(self, scatterers: tuple[Scatterer, ...], design: SimulationDesign) -> None:
        """`scatterers` are the particles of class 1, 2, ... Raises SettingsError or InputError where they cannot be imaged so."""
        require_possible(scatterers, design)
        self.scatterers, self.design = scatterers, design
        self.truth = draw_truth(design, scatterers[0].body_centres_A)
        self.gain = self._measure_gain()
        self._noise_filter = np.sqrt(noise_power(design)).astype(np.float32)

    def volume(self, class_number: int = 1) -> Volume:
        """The scatterer of a class in the grey scale of the images; at its own scale where snr is 0."""
        box, pixel_size_A = self.design.field_box, self.design.pixel_size_A
        data = cut_out(real_volume(self.scatterers[class_number - 1].volume_ft(box, pixel_size_A), box), self.design.box)
        return Volume(data * np.float32(self.gain if self.gain > 0 else 1.0), pixel_size_A)

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, images (up to BLOCK, box, box) float32), in order."""
        for first in range(0, len(self.truth), BLOCK):
            rows = np.arange(first, min(first + BLOCK, len(self.truth)))
            yield first, self.images(rows)

    def images(self, rows: np.ndarray) -> np.ndarray:
        """The images of the given rows, (len(rows), box, box) float32; the same whichever rows come with them."""
        noise = np.stack([self._noise(int(row)) for row in rows])
        if self.gain == 0:
            return noise
        return noise + np.float32(self.gain) * self.signal(self.truth.take(rows), rows)

    def signal(self, truth: Truth, rows: np.ndarray) -> np.ndarray:
        """Images without noise and at the scatterer's own grey scale, (n, box, box) float32."""
        box, pixel_size_A = self.design.field_box, self.design.pixel_size_A
        image_fts = np.zeros((len(truth), box, box // 2 + 1), np.complex64)
        if not self.design.ewald_sign:
            for scatterer, here, seen in self._particles(truth):
                image_fts[here] = scatterer.image_fts(*seen, box, pixel_size_A)
        for n in np.flatnonzero(truth.junk == DEBRIS):
            image_fts[n] = self._debris(int(rows[n]), truth.shift_A[n])
        contrast = truth.contrast[:, None, None].astype(np.float32)
        image_fts *= self._transfer(truth) * contrast
        if self.design.ewald_sign:
            image_fts += self._curved(truth) * contrast
        images = real_images(image_fts, box)
        return images if box == self.design.box else cut_out(images, self.design.box)

    def _particles(self, truth: Truth) -> Iterator[tuple[Scatterer, np.ndarray, tuple[np.ndarray, np.ndarray]]]:
        """Each scatterer, the images that show it, and how it is seen there: matrices R M (n, b, 3, 3), displacements (n, b, 2)."""
        for index, scatterer in enumerate(self.scatterers):
            here = np.flatnonzero((truth.class_number == index + 1) & (truth.junk == PARTICLE))
            if len(here):
                rotations = magnified_rotations(self.design, matrices_from_quaternions(truth.body_rotation[here]))
                yield scatterer, here, (rotations, -truth.body_shift_A[here])

    def _curved(self, truth: Truth) -> np.ndarray:
        """C exp(i chi) F2 of eq. (1) on the Ewald sphere, (n, box, box // 2 + 1) complex64; 0 for junk."""
        design = self.design.field
        box, (kx, ky) = design.box, _half_plane(design.box)
        out = np.zeros((len(truth), box, box // 2 + 1), np.complex64)
        magnification = np.reshape(design.magnification, (1, 2, 2))
        form = height_form(design.ewald_sign, np.array([design.voltage_V]), box * design.pixel_size_A, magnification)
        height = heights(form, kx, ky).reshape(out.shape[1:])
        for scatterer, here, seen in self._particles(truth):
            above, below = scatterer.curved_fts(*seen, height, box, design.pixel_size_A)
            shown = truth.take(here)
            turned = self._ctf(shown) + 1j * self._ctf(shown, 0.5 * np.pi)
            out[here] = 0.5 * (turned * above + np.conj(turned) * below)
        phase = odd_phase(design, kx, ky)
        return out if phase is None else out * phase.reshape(out.shape[1:])

    def _ctf(self, truth: Truth, retarded_rad: float = 0.0) -> np.ndarray:
        """The CTF (n, box, box // 2 + 1) float32; retarded by a quarter turn, cos gamma."""
        design, (kx, ky) = self.design.field, _half_plane(self.design.field_box)
        out = np.empty((len(truth), len(kx)), np.float32)
        added = even_turns(replace(design, number=len(truth)), kx, ky)
        ctf_values(true_ctf(design, truth, retarded_rad), kx, ky, 1.0 / (design.box * design.pixel_size_A), out, added)
        return out.reshape(len(truth), design.box, design.box // 2 + 1)

    def _transfer(self, truth: Truth) -> np.ndarray:
        """The CTF, with the phases of odd aberrations where there are any."""
        out, phase = self._ctf(truth), odd_phase(self.design.field, *_half_plane(self.design.field_box))
        return out if phase is None else out * phase.reshape(out.shape[1:])

    def _measure_gain(self) -> float:
        """Eq. (2)."""
        probe = replace(self.design, number=PROBES, junk=0.0, second_fraction=0.0)
        truth = draw_truth(probe, self.scatterers[0].body_centres_A, "simulate/probe")
        axis = np.arange(self.design.box) - self.design.box // 2
        disc = axis[:, None] ** 2 + axis**2 <= (SIGNAL_DISC * self.design.box) ** 2
        variance = self.signal(truth, np.arange(PROBES))[:, disc].var(axis=1, dtype=np.float64).mean()
        return float(np.sqrt(self.design.snr / variance))

    def _noise(self, row: int) -> np.ndarray:
        """Noise of image `row`, (box, box) float32."""
        box = self.design.box
        white = generator(self.design.seed, row, "simulate/noise").standard_normal((box, box), dtype=np.float32)
        return scipy.fft.irfft2(scipy.fft.rfft2(white) * self._noise_filter, s=(box, box)) if self.design.realistic else white

    def _debris(self, row: int, shift_A: np.ndarray) -> np.ndarray:
        """Transform of a compact random walk of pseudo-atoms with the weight of the particle."""
        design, particle = self.design, self.scatterers[0]
        walk = np.cumsum(generator(design.seed, row, "simulate/debris").standard_normal((DEBRIS_ATOMS, 3)), axis=0)
        walk -= walk.mean(axis=0)
        walk *= DEBRIS_SIZE * particle.radius_A / np.sqrt((walk**2).sum(1).mean()) / design.pixel_size_A
        weights = np.full(DEBRIS_ATOMS, particle.image_total(design.pixel_size_A) / DEBRIS_ATOMS, np.float32)
        offset_px = (-shift_A / design.pixel_size_A)[None]
        return image_fts_of_atoms(walk, weights, np.eye(3)[None], offset_px, design.field_box,
                                  DEBRIS_BFACTOR_A2 / design.pixel_size_A**2)[0]


def _half_plane(box: int) -> tuple[np.ndarray, np.ndarray]:
    """kx and ky (box (box // 2 + 1),) in the order of a real FFT."""
    ky, kx = (k.ravel() for k in np.meshgrid(*half_plane_frequencies(box), indexing="ij"))
    return kx, ky


def simulate_dataset(model: Scatterer, design: SimulationDesign, second: Scatterer | None = None) -> SimulatedData:
    """Simulate a whole data set in memory. Raises as Simulator does."""
    simulator = Simulator((model,) if second is None else (model, second), design)
    images = np.concatenate([images for _, images in simulator.blocks()])
    return SimulatedData(images, simulator.truth, simulator.volume(), noise_variance(design), design)


def noise_power(design: SimulationDesign) -> np.ndarray:
    """Eq. (3) where `realistic`, else 1: (box, box // 2 + 1) float64 in the order of a real FFT; the mean over the full plane is 1."""
    ky, kx = half_plane_frequencies(design.box)
    power = np.ones((len(ky), len(kx)))
    if design.realistic:
        s_squared = (ky[:, None] ** 2 + kx**2) / (design.box * design.pixel_size_A) ** 2
        power += COLOUR / (1.0 + s_squared * COLOUR_PERIOD_A**2)
        twice = np.where((kx == 0) | (2 * kx == design.box), 1.0, 2.0)  # columns that stand for their Friedel mates too
        power /= (power * twice).sum() / design.box**2
    return power


def noise_variance(design: SimulationDesign) -> np.ndarray:
    """E|noise|^2 of a unitary transform, mean per shell (box // 2 + 1,) float64."""
    ky, kx = half_plane_frequencies(design.box)
    shell = np.rint(np.sqrt(ky[:, None] ** 2 + kx**2)).astype(int).ravel()
    return (np.bincount(shell, noise_power(design).ravel()) / np.bincount(shell))[: design.box // 2 + 1]


def require_possible(scatterers: tuple[Scatterer, ...], design: SimulationDesign) -> None:
    """Raise InputError where the particle does not fit the box or the aberrations are out of reach, SettingsError where settings contradict
    one another."""
    optics_of(design)
    width_A, radius_A = design.box * design.pixel_size_A, max(s.radius_A for s in scatterers)
    if design.filament is not None:  # what leaves the field on one side comes back on the other, and must not reach the image
        width_A = 2 * design.field_box * design.pixel_size_A - width_A
    if 2 * radius_A > width_A:
        raise InputError(f"the particle reaches {radius_A:.1f} A from its centre", f"at most half of the box of {width_A:.1f} A",
                         "choose a larger box or pixel_size")
    if design.defocus_max_A < design.defocus_min_A:
        raise SettingsError(f"defocus_min {design.defocus_min_A:g} A above defocus_max {design.defocus_max_A:g} A", "a rising range",
                            "exchange the two")
    if design.second_fraction > 0 and len(scatterers) < 2:
        raise SettingsError(f"second_fraction {design.second_fraction:g} without a second model", "a second_model", "name one")
    if design.ewald_sign and (design.motion_rotation_rad or design.motion_shift_A):
        raise SettingsError("an Ewald sphere (ewald_sign) and moving subunits", "one of them: how subunits move along the beam is not kept",
                            "leave motion_rotation and motion_shift at 0, or ewald_sign at none")
    if len({len(s.body_centres_A) for s in scatterers}) > 1:
        raise SettingsError("two models with different numbers of moving subunits", "the same subunits in both models",
                            "leave motion_rotation and motion_shift at 0, or simulate the two apart and join them")
