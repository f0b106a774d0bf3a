"""RELION's columns and ours: which tag is which column, in which unit (tags as in RELION's own list of metadata labels).

ours = factor * theirs + offset. Rotation: R = Rz(rot) Ry(tilt) Rz(psi) (SciPy 'ZYZ'), image axes to map axes.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from protomer.errors import InputError
from protomer.tables.optics import OpticsGroup
from protomer.tables.particles import COLUMNS

DEGREE = np.pi / 180.0
ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
ORIGINS_A = ("rlnOriginXAngst", "rlnOriginYAngst")
ORIGINS_PX = ("rlnOriginX", "rlnOriginY")
SOURCE = "protomerSource"  # image_uid of a symmetry copy's image; RELION keeps labels that it does not know
TOLERANCE = 1e-12


@dataclass(frozen=True)
class Number:
    """A tag that holds one number of one of our columns (`part`: which component, where a row has several)."""

    tag: str
    column: str
    factor: float = 1.0
    offset: float = 0.0
    part: int | None = None

    @property
    def is_integer(self) -> bool:
        """Whether the column holds integers."""
        return COLUMNS[self.column][0].startswith(("i", "u"))

    def ours(self, theirs: np.ndarray) -> np.ndarray:
        """Our values (n,) from numbers of the file."""
        values = self.factor * theirs + self.offset
        return np.rint(values) if self.is_integer else values

    def theirs(self, ours: np.ndarray) -> np.ndarray:
        """Numbers for the file from our values (n,)."""
        return (ours - self.offset) / self.factor

    def of(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Our values (n,) in a table of columns."""
        return columns[self.column] if self.part is None else columns[self.column][:, self.part]


NUMBERS = (
    Number("rlnCoordinateX", "coordinate_px", part=0),
    Number("rlnCoordinateY", "coordinate_px", part=1),
    Number("rlnDefocusU", "defocus_u_A"),
    Number("rlnDefocusV", "defocus_v_A"),
    Number("rlnDefocusAngle", "defocus_angle_rad", DEGREE),
    Number("rlnPhaseShift", "phase_shift_rad", DEGREE),
    Number("rlnCtfBfactor", "ctf_bfactor_A2"),
    Number("rlnCtfScalefactor", "scale"),
    Number("rlnRandomSubset", "half", offset=-1.0),
    Number("rlnClassNumber", "class_number"),
    Number("rlnLogLikeliContribution", "log_likelihood"),
    Number("rlnHelicalTubeID", "filament"),
    Number("protomerSymmetryCopy", "copy"),
)


@dataclass(frozen=True)
class OpticsNumber:
    """A tag that holds one number of an optics group."""

    tag: str
    name: str
    factor: float
    part: int | None = None

    def of(self, group: OpticsGroup) -> float:
        """The number for the file."""
        value = getattr(group, self.name)
        return float(value if self.part is None else value[self.part]) / self.factor


OPTICS_NUMBERS = (
    OpticsNumber("rlnVoltage", "voltage_V", 1e3),
    OpticsNumber("rlnSphericalAberration", "spherical_aberration_A", 1e7),
    OpticsNumber("rlnAmplitudeContrast", "amplitude_contrast", 1.0),
    OpticsNumber("rlnBeamTiltX", "beam_tilt_rad", 1e-3, 0),
    OpticsNumber("rlnBeamTiltY", "beam_tilt_rad", 1e-3, 1),
    OpticsNumber("rlnMagMat00", "magnification", 1.0, 0),
    OpticsNumber("rlnMagMat01", "magnification", 1.0, 1),
    OpticsNumber("rlnMagMat10", "magnification", 1.0, 2),
    OpticsNumber("rlnMagMat11", "magnification", 1.0, 3),
)
ZERNIKES = {"rlnOddZernike": "odd_zernike", "rlnEvenZernike": "even_zernike"}


def rotation_from_angles(degrees: np.ndarray) -> np.ndarray:
    """Quaternions (n, 4), scalar last, from rot, tilt, psi (n, 3) in degrees."""
    from scipy.spatial.transform import Rotation

    if len(degrees) == 0:
        return np.zeros((0, 4))
    return np.asarray(Rotation.from_euler("ZYZ", degrees, degrees=True).as_quat())


def angles_from_rotation(rotation: np.ndarray) -> np.ndarray:
    """rot, tilt, psi (n, 3) in degrees, tilt from 0 to 180, from quaternions (n, 4)."""
    from scipy.spatial.transform import Rotation

    if len(rotation) == 0:
        return np.zeros((0, 3))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Gimbal lock", UserWarning)  # at tilt 0 only rot + psi counts: psi = 0 then
        return np.asarray(Rotation.from_quat(rotation).as_euler("ZYZ", degrees=True))


def same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """bool, elementwise: whether numbers are equal but for the last bits (NaN equals NaN)."""
    return np.asarray(np.isclose(a, b, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True))


def same_rows(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """bool (n,): rows of (n, m) arrays that are `same` throughout."""
    return np.asarray(same(a, b).all(axis=1))


def number_texts(values: np.ndarray, is_integer: bool = False, decimals: int = 6) -> np.ndarray:
    """Numbers as texts in bytes, fixed notation."""
    texts = [str(int(v)) if is_integer else f"{v:.{decimals}f}" for v in values.tolist()]
    return np.array([t.encode() for t in texts], "S") if texts else np.zeros(0, "S1")


def split_zernike(text: str) -> tuple[float, ...]:
    """Coefficients from RELION's `[a,b,c]`. Raises InputError where they are no numbers."""
    inner = text.strip().removeprefix("[").removesuffix("]").strip()
    try:
        return tuple(float(part) for part in inner.split(",")) if inner else ()
    except ValueError:
        raise InputError(f"a list of Zernike coefficients is {text[:80]!r}", "numbers as in [1.5,0,-2]",
                         "repair the list in the optics table") from None
