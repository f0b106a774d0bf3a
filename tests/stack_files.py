"""Stacks, tables and raw MRC headers for the tests of formats and import."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from protomer.formats.mrc import write_stack

BOX = 16
PIXEL_A = 2.0


def noise_images(number: int, box: int = BOX, seed: int = 5, offset: float = 10.0, sd: float = 3.0) -> np.ndarray:
    """(number, box, box) float32 of white noise about an offset."""
    return np.random.default_rng(seed).normal(offset, sd, (number, box, box)).astype(np.float32)


def raw_mrc(path: Path, data: np.ndarray, mode: int, *, order: Literal["<", ">"] = "<", shape: tuple[int, int, int] | None = None,
            stamp: bytes | None = None, identifier: bytes = b"MAP ") -> Path:
    """Write an MRC file byte by byte, so that its header can lie: `shape` (nz, ny, nx) as announced, machine stamp, identifier."""
    nz, ny, nx = shape or data.shape
    words = np.zeros(256, np.dtype("i4").newbyteorder(order))
    words[[0, 1, 2, 3, 7, 8, 9, 16, 17, 18]] = [nx, ny, nz, mode, nx, ny, nz, 1, 2, 3]
    header = bytearray(words.tobytes())
    header[208:212] = identifier
    header[212:216] = stamp if stamp is not None else (b"DD\0\0" if order == "<" else b"\x11\x11\0\0")
    path.write_bytes(bytes(header) + data.astype(data.dtype.newbyteorder(order)).tobytes())
    return path


def star_text(rows: list[dict[str, object]], optics: list[dict[str, object]] | None = None) -> str:
    """A STAR 3.1 file from rows of tags (without the underscore) and values."""
    optics = optics or [{"rlnOpticsGroup": 1, "rlnOpticsGroupName": "first", "rlnVoltage": 300, "rlnSphericalAberration": 2.7,
                         "rlnAmplitudeContrast": 0.1, "rlnImagePixelSize": PIXEL_A, "rlnImageSize": BOX, "rlnImageDimensionality": 2}]
    text = ""
    for name, table in (("optics", optics), ("particles", rows)):
        text += f"\ndata_{name}\n\nloop_\n" + "".join(f"_{tag} #{i + 1}\n" for i, tag in enumerate(table[0]))
        text += "".join(" ".join(str(value) for value in row.values()) + "\n" for row in table)
    return text


def plain_rows(number: int, stack: str = "images.mrcs") -> list[dict[str, object]]:
    """Rows with a defocus and, in turn, both half-sets; no poses."""
    return [{"rlnImageName": f"{i + 1:06d}@{stack}", "rlnDefocusU": 15000 + 10 * i, "rlnDefocusV": 14800 + 10 * i, "rlnDefocusAngle": 30,
             "rlnRandomSubset": i % 2 + 1, "rlnOpticsGroup": 1} for i in range(number)]


def write_data_set(folder: Path, rows: list[dict[str, object]], images: np.ndarray, optics: list[dict[str, object]] | None = None) -> Path:
    """A stack images.mrcs and a table particles.star beside it; the path of the table."""
    write_stack(folder / "images.mrcs", images, PIXEL_A)
    table = folder / "particles.star"
    table.write_text(star_text(rows, optics))
    return table
