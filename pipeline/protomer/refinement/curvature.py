"""Maps from given poses with or without the curvature of the Ewald sphere, and which of its two signs the images speak for.

What two half maps know of one another is, for Gaussian coefficients of which shell s holds n_s independent complex ones (half of those of
the full sphere, times the share of the box in which the maps are compared), the mutual information in bits

    I = - sum_s n_s log2(1 - FSC_s^2)                                                                                     (1)

and its standard error about sqrt(sum_s 2 n_s FSC_s^2) / ln 2, from a variance of (1 - FSC^2)^2 / (2 n_s) of each FSC (Cover & Thomas,
Elements of Information Theory, 8.5; Fisher 1921). Both signs are compared on the same images, so that the error of a difference is at most
that of two independent values. A wrong sign turns phases the wrong way in both halves alike: they agree about less.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from protomer.engine.maximisation import first_shell_below, half_map_curve, solid_sphere
from protomer.engine.pose_table import PoseTable
from protomer.imaging.ewald import Ewald
from protomer.maps.volumes import Halves
from protomer.refinement.reconstruction import reconstruct_halves
from protomer.refinement.setup import MASK_FRACTION, Setup
from protomer.running.events import Events

TRIED = {"none": (0,), "+1": (1,), "-1": (-1,), "auto": (0, 1, -1)}
NAMES = {0: "none", 1: "+1", -1: "-1"}
CLEAR = 3.0  # standard errors


@dataclass(frozen=True)
class CurvedMaps:
    """Half maps and the map of both, each (D, D, D), and how they were chosen: the sign taken, and where several were tried the FSC in a
    sphere (shells,), and the information of eq. (1) with its standard error, of each."""

    half_maps: Halves[np.ndarray]
    together: np.ndarray
    sign: int
    width_A: float
    fsc: dict[int, np.ndarray]
    bits: dict[int, float]
    error_bits: dict[int, float]

    @property
    def was_tried(self) -> bool:
        """Whether both signs were compared."""
        return len(self.bits) > 1

    @property
    def margin(self) -> float:
        """By how many standard errors the better of the two signs knows more than the other."""
        return margin_of(self.bits, self.error_bits)

    @property
    def better(self) -> int:
        """The better of the two signs."""
        return 1 if self.bits[1] >= self.bits[-1] else -1

    def resolution_A(self, sign: int) -> float:
        """Where the FSC in a sphere falls below 0.143."""
        return self.width_A / max(first_shell_below(self.fsc[sign]), 1)

    def summary(self) -> dict[str, object]:
        """What summary.json says."""
        if not self.was_tried:
            return {"sign": NAMES[self.sign]}
        tried = {NAMES[s]: {"bits": round(self.bits[s], 1), "spherical_fsc_A": round(self.resolution_A(s), 4)} for s in self.bits}
        return {"sign": NAMES[self.sign], "better_sign": NAMES[self.better], "margin_standard_errors": round(self.margin, 2),
                "tried": tried}

    def in_words(self) -> str:
        """A paragraph for a report."""
        if not self.was_tried:
            return (f"Images were inserted on the Ewald sphere, sign {NAMES[self.sign]}. Where the other sign gives the better map, the "
                    "hand of the map, or the sign, is the wrong one.")
        listed = "; ".join(f"{NAMES[s]}: {self.bits[s]:,.0f} bits, {self.resolution_A(s):.2f} Å" for s in self.bits)
        return (f"What the half maps know of one another (in a sphere, all shells), and where their FSC falls below 0.143: {listed}. "
                f"The better sign, {NAMES[self.better]}, is ahead of the other by {self.margin:.1f} standard errors; taken: "
                f"{NAMES[self.sign]}.")


def reconstruct_curved(
    setup: Setup,
    noise: np.ndarray,
    poses: PoseTable,
    operators: np.ndarray,
    translations_A: np.ndarray | None,
    choice: str,
    events: Events,
) -> CurvedMaps:
    """As reconstruct_halves, under a sign or, where choice is auto, under the best of both and none; a warning where that is not clear."""
    tried = TRIED[choice]
    mask = solid_sphere(setup.store.plane.box, MASK_FRACTION)
    maps, fsc, bits, error = {}, {}, {}, {}
    for sign in tried:
        halves, together = reconstruct_halves(setup, noise, poses, operators, translations_A, Ewald(sign) if sign else None)
        maps[sign] = halves, together
        if len(tried) > 1:
            fsc[sign] = half_map_curve(halves, mask)
            bits[sign], error[sign] = information(fsc[sign])
    taken = chosen_sign(bits, error, events) if len(tried) > 1 else tried[0]
    return CurvedMaps(*maps[taken], taken, setup.store.plane.box * setup.pixel_size_A, fsc, bits, error)


def information(curve: np.ndarray) -> tuple[float, float]:
    """Bits of eq. (1) and their standard error, from the FSC (shells,) in a sphere of MASK_FRACTION; shells 0 and 1 are left out."""
    shell = np.arange(len(curve))[2:]
    share = 4.0 / 3.0 * np.pi * MASK_FRACTION**3
    count = 2.0 * np.pi * shell.astype(float) ** 2 * share
    fsc = np.clip(curve[2:], 0.0, 1.0 - 1e-6)
    bits = -(count * np.log2(1.0 - fsc**2)).sum()
    return float(bits), float(np.sqrt((2.0 * count * fsc**2).sum()) / np.log(2.0))


def margin_of(bits: dict[int, float], error_bits: dict[int, float]) -> float:
    """The difference of the two signs in standard errors."""
    return abs(bits[1] - bits[-1]) / max(float(np.hypot(error_bits[1], error_bits[-1])), 1e-12)


def chosen_sign(bits: dict[int, float], error_bits: dict[int, float], events: Events) -> int:
    """The sign whose maps know most of one another; 0, with a warning, where the two signs are not told apart."""
    better, margin = 1 if bits[1] >= bits[-1] else -1, margin_of(bits, error_bits)
    if margin >= CLEAR and bits[better] >= bits[0]:
        return better
    why = (f"they differ by {margin:.1f} standard errors of what the half maps know of one another, of at least {CLEAR:g}" if margin < CLEAR
           else "a map without curvature is better than with either")
    events.warn("ewald_undecided", f"the images do not tell the two signs of the Ewald-sphere correction apart: {why}. The map is without "
                "it. At this resolution and particle size the curvature may be too small to matter; give ewald_sign +1 or -1 where it is "
                "known from other data of the microscope")
    return 0
