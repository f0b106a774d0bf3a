"""Where the images that are written are centred, and how large they are.

(1) The map's origin moves to c, a voxel of the map: shift' = shift - M^T (R^T c)_xy, M the image's magnification (identity for most).
(2) The image moves by m = round(shift') whole pixels, round its edges, and shift' - m stays in the pose: no interpolation anywhere.
(3) The CTF spreads detail of spacing d by lambda defocus / d, so a box holds the detail of a part of radius r where
    box / 2 >= r + lambda defocus / d
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft

from protomer.declarations.subtract import SubtractSettings
from protomer.errors import SettingsError
from protomer.imaging.aberrations import magnification_of
from protomer.maps.rigid_motion import RigidMotion, move_particles
from protomer.maps.volumes import Volume
from protomer.running.events import Events
from protomer.tables.particles import Particles
from protomer_kernels.ctf import electron_wavelength_A

LEAST_BOX = 16
HIGH_DEFOCUS = 90  # percentile
INSIDE = 0.5  # mask values from here on are the part


@dataclass(frozen=True)
class Frame:
    """centre_px (3,): c of eq. (1), x, y, z from the box centre; box: of the images as they are refined; new_box: as they are written;
    moves_px (N, 2) int: m of eq. (2); reach_px: how far the part reaches from c."""

    centre_px: np.ndarray
    box: int
    new_box: int
    moves_px: np.ndarray
    reach_px: float

    def cut(self, images: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Images (n, box, box) of some rows as they are written."""
        moves = self.moves_px[rows]
        if self.new_box == self.box and not moves.any():
            return images
        pixel = np.arange(self.new_box) - self.new_box // 2 + self.box // 2
        x, y = ((pixel - moves[:, axis : axis + 1]) % self.box for axis in (0, 1))
        return images[np.arange(len(images))[:, None, None], y[:, :, None], x[:, None, :]]

    def moved(self, volume: Volume) -> Volume:
        """A map or mask in the new frame and box, exactly; zero comes in from outside."""
        data = volume.data
        for axis, by in enumerate(self.centre_px[::-1].astype(int)):
            voxel = np.arange(self.new_box) - self.new_box // 2 + self.box // 2 + by
            there = ((voxel >= 0) & (voxel < self.box)).reshape([-1 if i == axis else 1 for i in range(3)])
            data = np.take(data, np.clip(voxel, 0, self.box - 1), axis) * there
        return Volume(np.ascontiguousarray(data, np.float32), volume.voxel_size_A)


def frame_of(
    particles: Particles, settings: SubtractSettings, mask: Volume, resolution_A: float, events: Events
) -> tuple[Frame, Particles]:
    """The frame that the settings ask for, and the particles with their poses in it. Raises SettingsError; warns of what is cut off."""
    box, pixel_A = mask.box, mask.voxel_size_A
    centre, posed, moves = np.zeros(3), particles, np.zeros((len(particles), 2), np.int64)
    if settings.recentre:
        centre = _centre_of_mass(mask)
        posed, moves = _posed_about(particles, centre * pixel_A, pixel_A)
    z, y, x = (index - box // 2 for index in np.nonzero(mask.data >= INSIDE))
    reach = float(np.sqrt((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2).max())
    spread_A2 = _wavelength_times_defocus_A2(particles)
    new_box = _new_box(settings.recrop, box, 2 * (reach + spread_A2 / resolution_A / pixel_A))
    frame = Frame(centre, box, new_box, moves, reach)
    _warn_of_frame(frame, settings, spread_A2, resolution_A, pixel_A, events)
    return frame, posed


def _centre_of_mass(mask: Volume) -> np.ndarray:
    """(3,) x, y, z of the nearest voxel, from the box centre."""
    axis, weight = np.arange(mask.box) - mask.box // 2, mask.data.astype(np.float64)
    centre = [np.tensordot(weight.sum(axis=others), axis, 1) / weight.sum() for others in ((0, 1), (0, 2), (1, 2))]
    return np.rint(centre)


def _posed_about(particles: Particles, centre_A: np.ndarray, pixel_A: float) -> tuple[Particles, np.ndarray]:
    """Eqs. (1) and (2): particles posed about a point of the map, and the whole pixels (N, 2) by which their images move."""
    moved = move_particles(particles, RigidMotion(np.eye(3), -centre_A))
    shift_A, magnification = moved.shift_A, magnification_of(particles.optics_groups, particles.optics)
    if magnification is not None:
        shift_A = particles.shift_A + np.einsum("nji,nj->ni", magnification, shift_A - particles.shift_A)
    moves = np.rint(shift_A / pixel_A).astype(np.int64)
    return moved.with_columns(rotation=particles.rotation, shift_A=shift_A - moves * pixel_A), moves


def _wavelength_times_defocus_A2(particles: Particles) -> float:
    """lambda |defocus|, at a high defocus of the set."""
    defocus_u, defocus_v = particles.by_image("defocus_u_A", "defocus_v_A")
    defocus_A = float(np.percentile(np.abs(0.5 * (defocus_u + defocus_v)), HIGH_DEFOCUS))
    return defocus_A * max(float(electron_wavelength_A(group.voltage_V)) for group in particles.optics_groups)


def _new_box(asked: str | None, box: int, wanted_px: float) -> int:
    """The box of the images that are written. Raises SettingsError."""
    if asked is None:
        return box
    if asked == "auto":
        return min(box, 2 * int(scipy.fft.next_fast_len(max(int(np.ceil(wanted_px / 2)), LEAST_BOX // 2), real=True)))
    if not asked.isdigit() or not LEAST_BOX <= int(asked) <= box:
        raise SettingsError(f"recrop {asked!r}", f"auto, or a number of pixels from {LEAST_BOX} to the images' own {box}",
                            "write recrop=auto")
    return int(asked)


def _warn_of_frame(frame: Frame, settings: SubtractSettings, spread_A2: float, resolution_A: float, pixel_A: float, events: Events) -> None:
    """Warn of what the new box cuts off, and of images in which the part lies at the edge."""
    if settings.recrop is not None and frame.new_box == frame.box:
        events.warn("not_cropped", f"the images keep their box of {frame.box} pixels: the part and what the CTF spreads of it fill it")
    if frame.new_box < frame.box:
        spare_A = (frame.new_box / 2 - frame.reach_px) * pixel_A
        if spare_A < 0:
            where = "" if settings.recentre else " about the box centre (recentre is off)"
            events.warn("crop_cuts_mask", f"the part reaches {frame.reach_px:.0f} pixels from the centre{where}, and a box of "
                        f"{frame.new_box} only {frame.new_box // 2}: part of it is cut off")
        elif spread_A2 / resolution_A > 1.05 * spare_A:
            finest = f"{spread_A2 / spare_A:.1f} Å" if spare_A > 0 else "any"
            events.warn("crop_loses_detail", f"in a box of {frame.new_box} pixels the CTF spreads detail finer than {finest} beyond the "
                        f"edge, at the highest defoci of the set; recrop=auto keeps all down to {resolution_A:.1f} Å")
    beyond = int(np.sum(np.abs(frame.moves_px).max(axis=1) + frame.reach_px > frame.box / 2)) if len(frame.moves_px) else 0
    if settings.recentre and beyond:
        events.warn("beyond_image", f"in {beyond} of {len(frame.moves_px)} particles the part reaches beyond the edge of its image: there "
                    "the other side of the image comes in")
