"""cryoSPARC's lengths of aberrations and ours: with azimuth phi from image x towards y, s in cycles per angstrom, lambda the wavelength,

(1) chi = -(2 pi / 3) lambda^2 s^3 (3 tilt_x cos phi + 3 tilt_y sin phi + trefoil_0 cos 3 phi + trefoil_1 sin 3 phi)
(2) gamma -> gamma + (pi / 2) lambda^3 s^4 (4 tetra_0 cos 2 phi + 4 tetra_1 sin 2 phi + tetra_2 cos 4 phi + tetra_3 sin 4 phi)

(chi and gamma as in protomer_kernels/aberrations.py). Sources: that these are third- and fourth-order Zernike terms made lengths by the
wavelength, and what tilt is, cryoSPARC's own forum; factors and signs, what others found by comparing with its simulator. They are not
confirmed by its authors, so readers warn where they use them. s^4 cos 2 phi is (Z_4^2 + 3 Z_2^2) / 4, s^3 cos phi (Z_3^1 + 2 Z_1^1) / 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from protomer.tables.optics import OpticsGroup
from protomer_kernels.ctf import electron_wavelength_A

GREATEST_TILT_RAD = 0.1  # a coma that would need more is no beam tilt: spherical aberration is small or corrected
LEAST_SHARE = 1e-6  # of the largest coefficient: what is smaller was left by rounding
#: places in RELION's lists: odd (1,-1) (1,1) (3,-3) (3,-1) (3,1) (3,3); even (0,0) (2,-2) (2,0) (2,2) (4,-4) (4,-2) (4,0) (4,2) (4,4)
ODD, EVEN = 6, 9


@dataclass(frozen=True)
class CsAberrations:
    """cryoSPARC's fields ctf/tilt_A, ctf/trefoil_A and ctf/tetra_A of one optics group, angstrom."""

    tilt_A: tuple[float, ...] = (0.0, 0.0)
    trefoil_A: tuple[float, ...] = (0.0, 0.0)
    tetra_A: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)

    def ours(self, voltage_V: float, spherical_aberration_A: float) -> tuple[tuple[float, float], tuple[float, ...], tuple[float, ...]]:
        """Beam tilt (rad), odd and even Zernike coefficients, eqs (1) and (2); a coma that no tilt explains is among the odd ones."""
        wavelength_A = float(electron_wavelength_A(voltage_V))
        odd, even = np.zeros(ODD), np.zeros(EVEN)
        per_third, per_fourth = -2.0 * np.pi / 3.0 * wavelength_A**2, np.pi / 2.0 * wavelength_A**3
        odd[[5, 2]] = per_third * np.array(self.trefoil_A)
        sine = np.array(self.tilt_A) / spherical_aberration_A if spherical_aberration_A else np.full(2, np.inf)
        tilt = (0.0, 0.0)
        if np.all(np.abs(sine) < GREATEST_TILT_RAD):
            tilt = (float(np.arcsin(sine[0])), float(np.arcsin(sine[1])))
        else:
            odd[[4, 3]] = per_third * np.array(self.tilt_A)
            odd[[1, 0]] = 2.0 * odd[[4, 3]]
        even[[7, 5]] = per_fourth * np.array(self.tetra_A[:2])
        even[[3, 1]] = 3.0 * even[[7, 5]]
        even[[8, 4]] = per_fourth * np.array(self.tetra_A[2:])
        return tilt, tuple(odd.tolist()) if odd.any() else (), tuple(even.tolist()) if even.any() else ()

    @classmethod
    def of(cls, group: OpticsGroup) -> tuple[CsAberrations, bool]:
        """The fields of an optics group, and whether they say all that its aberrations are (others have no field of their own there)."""
        wavelength_A = float(electron_wavelength_A(group.voltage_V))
        odd, even = (np.resize([*values, *[0.0] * count], max(count, len(values)))
                     for values, count in ((group.odd_zernike, ODD), (group.even_zernike, EVEN)))
        per_third, per_fourth = -2.0 * np.pi / 3.0 * wavelength_A**2, np.pi / 2.0 * wavelength_A**3
        tilt = np.sin(group.beam_tilt_rad) * group.spherical_aberration_A + odd[[4, 3]] / per_third
        found = cls(tuple(tilt.tolist()), tuple((odd[[5, 2]] / per_third).tolist()),
                    tuple((np.array([*even[[7, 5]], *even[[8, 4]]]) / per_fourth).tolist()))
        left = [*(odd[[1, 0]] - 2.0 * odd[[4, 3]]), *odd[ODD:], *even[[0, 2, 6]], *(even[[3, 1]] - 3.0 * even[[7, 5]]), *even[EVEN:]]
        largest = max(np.abs(odd).max(), np.abs(even).max())
        return found, not np.any(np.abs(left) > LEAST_SHARE * largest)
