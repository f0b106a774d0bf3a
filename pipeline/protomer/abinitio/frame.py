"""The box in which an ab-initio run works: as small as its final resolution allows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from protomer.abinitio.schedule import LEAST_RADIUS
from protomer.declarations.ab_initio import AbInitioSettings
from protomer.engine.maximisation import working_box
from protomer.errors import SettingsError
from protomer.imaging.images import common_frame
from protomer.tables.particles import Particles
from protomer_kernels.half_plane import largest_radius

MARGIN = 4  # shells beyond the final resolution that images keep


@dataclass(frozen=True)
class Frame:
    """Of the work: its box and pixel size, the radii of initial and final resolution in it, and the images' own box."""

    box: int
    pixel_A: float
    first_radius: int
    last_radius: int
    image_box: int

    @classmethod
    def of(cls, particles: Particles, settings: AbInitioSettings) -> Frame:
        """Raises SettingsError where the resolutions are out of order, or finer than the pixels are."""
        box, pixel_A = common_frame(particles)
        width_A, initial_A, final_A = box * pixel_A, settings.initial_resolution, settings.final_resolution
        if final_A >= initial_A:
            raise SettingsError(f"final_resolution {final_A:g} Å with initial_resolution {initial_A:g} Å", "a final one that is finer",
                                f"set final_resolution below {initial_A:g}A, or leave both at 35 and 12 Å")
        last = round(width_A / final_A)
        if last > largest_radius(box):
            raise SettingsError(f"final_resolution {final_A:g} Å of images with pixels of {pixel_A:g} Å",
                                f"at least {width_A / largest_radius(box):.3g} Å: no detail finer than two pixels is in them",
                                f"set final_resolution={np.ceil(10 * width_A / largest_radius(box)) / 10:g}A or coarser")
        first = max(LEAST_RADIUS, int(np.ceil(width_A / initial_A)))
        if first >= last:
            raise SettingsError(f"final_resolution {final_A:g} Å is shell {last} of a box of {width_A:.0f} Å",
                                f"at least {first + 1} shells",
                                f"set final_resolution={width_A / (first + 1):.0f}A or finer")
        reach = min(last + MARGIN, largest_radius(box))
        small = working_box(box, reach)
        return cls(small, pixel_A * box / small, first, last, box)
