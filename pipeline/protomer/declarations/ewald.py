"""The setting of the Ewald-sphere correction, which several jobs share."""

from __future__ import annotations

from typing import Any

from protomer.config.settings import setting

TEXT = (
    "take the curvature of the Ewald sphere into account, for large particles at high resolution (it matters beyond about "
    "sqrt(wavelength x diameter): 2.4 Å for 300 Å at 300 kV, 3.7 Å for 700 Å). +1: an atom at height z (image x cross y) has z more "
    "defocus, -1: z less. Which one holds depends on how the detector was read and on the hand of the map: where the sign is known, a "
    "map that is better with the other one has the wrong hand; where the hand is known, it tells the sign for all data of the "
    "microscope. auto: both and none are tried, the best is taken, and the report says by what margin"
)


def ewald_setting(when: str = "") -> Any:
    """The setting; `when` says at which step, where that is not plain."""
    return setting("none", when + TEXT, choices=("none", "+1", "-1", "auto"))
