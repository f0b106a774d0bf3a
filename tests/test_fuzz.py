"""Readers of other programs' files on damaged ones: each is read or refused in one message, in bounded time and memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fuzzing import ODD_WORDS, bounded, check, damaged, written
from protomer.formats.cs import read_cs_particles
from protomer.formats.cs_table import STREAM_MAGIC, read_fields, write_fields
from protomer.formats.mrc import StackReader, read_volume, write_stack, write_volume
from protomer.formats.stack_table import read_stack_particles
from protomer.formats.star import read_star_particles
from protomer.maps.volumes import Volume
from stack_files import BOX, noise_images, plain_rows, star_text
from test_format_cs import STREAM, some_fields

STACK = written("images.mrcs", lambda path: write_stack(path, noise_images(4), 1.5))
VOLUME = written("map.mrc", lambda path: write_volume(path, Volume(noise_images(6, 6, 1), 1.5)))
HALF = written("half.mrcs", lambda path: write_stack(path, noise_images(2), 1.5, half_precision=True))
POSES = {
    "rlnAngleRot": 10,
    "rlnAngleTilt": 20,
    "rlnAnglePsi": 30,
    "rlnOriginXAngst": 1,
    "rlnOriginYAngst": 2,
    "rlnMicrographName": "m.mrc",
    "rlnClassNumber": 1,
    "rlnHelicalTubeID": 1,
    "rlnCtfBfactor": 2.0,
    "rlnCoordinateX": 5,
    "rlnCoordinateY": 6,
}
ROWS = [{**row, **POSES} for row in plain_rows(4)]
OPTICS = {
    "rlnOpticsGroup": 1,
    "rlnOpticsGroupName": "first",
    "rlnVoltage": 300,
    "rlnSphericalAberration": 2.7,
    "rlnAmplitudeContrast": 0.1,
    "rlnImagePixelSize": 1.5,
    "rlnImageSize": BOX,
    "rlnImageDimensionality": 2,
    "rlnBeamTiltX": 0.1,
    "rlnBeamTiltY": -0.1,
    "rlnOddZernike": "[0,0.1]",
    "rlnEvenZernike": "[0.5]",
    "rlnMagMat00": 1,
    "rlnMagMat01": 0,
    "rlnMagMat10": 0,
    "rlnMagMat11": 1,
    "rlnMagnification": 10000,
    "rlnDetectorPixelSize": 5.0,
}
STAR = star_text(ROWS, [OPTICS]).encode()
CS_FIELDS = {
    **some_fields(),
    "ctf/tilt_A": np.ones((4, 2), "f4"),
    "ctf/anisomag": np.full((4, 4), 0.01, "f4"),
    "location/micrograph_path": np.full(4, b">S1/m.mrc"),
    "location/center_x_frac": np.full(4, 0.5, "f4"),
    "location/center_y_frac": np.full(4, 0.5, "f4"),
    "location/micrograph_shape": np.full((4, 2), 4000, "u4"),
}
CS = written("particles.cs", lambda path: write_fields(path, CS_FIELDS))
CSV = (
    b"image,defocus_u_A,defocus_v_A,defocus_angle_deg,phase_shift_deg,voltage_kV,spherical_aberration_mm,amplitude_contrast,micrograph\n"
    + b"".join(b"%d,15000,14800,30,0,300,2.7,0.1,m.mrc\n" % (i + 1) for i in range(4))
)
BESIDE = {"images.mrcs": STACK, "main.cs": CS}


def read_stack(path: Path) -> None:
    with StackReader(path) as reader:
        if reader.number_whole:
            reader.read([0, reader.number_whole - 1])
        reader.digest()


@bounded(500)
@given(data=st.one_of(damaged(VOLUME, 240), damaged(STACK, 240), damaged(HALF, 240), st.binary(max_size=1200)))
def test_a_damaged_mrc_file_is_read_or_refused(data: bytes) -> None:
    check("images.mrcs", data, read_volume, read_stack, read_bare_stack)


def read_bare_stack(path: Path) -> object:
    return read_stack_particles(path, None, 1.5)


def read_ctf(path: Path) -> object:
    return read_stack_particles(path.parent / "images.mrcs", path)


@bounded(200)
@given(data=st.one_of(damaged(CSV), st.binary(max_size=200), st.tuples(damaged(CSV), ODD_WORDS).map(lambda p: p[0] + p[1].encode())))
def test_a_damaged_table_of_a_stack_is_read_or_refused(data: bytes) -> None:
    check("ctf.csv", data, read_ctf, beside=BESIDE)


def read_star(path: Path) -> None:
    read_star_particles(path, require_stacks=False)


@st.composite
def star_tables(draw: st.DrawFn) -> bytes:
    """A STAR file with columns taken away, values exchanged for odd ones, rows repeated or left out."""
    rows, optics = [dict(row) for row in ROWS], [dict(OPTICS)]
    for _ in range(draw(st.integers(1, 3))):
        table = draw(st.sampled_from((rows, optics)))
        tag = draw(st.sampled_from(sorted(table[0])))
        kind = draw(st.sampled_from(("value", "value", "column", "rename", "row", "all")))
        if kind == "value":
            draw(st.sampled_from(table))[tag] = draw(ODD_WORDS)
        elif kind == "all":
            word = draw(ODD_WORDS)
            for row in table:
                row[tag] = word
        elif kind == "row":
            table.append(dict(table[0]))
        elif len(table[0]) > 1:
            new = draw(ODD_WORDS) if kind == "rename" else None
            for row in table:
                value = row.pop(tag, "1")
                if new is not None:
                    row[new] = value
    return star_text(rows, optics).encode("utf-8", "surrogatepass")


@bounded(350)
@given(
    data=st.one_of(star_tables(), damaged(STAR, 700), st.binary(max_size=200), st.text(max_size=100).map(lambda t: b"data_\n" + t.encode()))
)
def test_a_damaged_star_file_is_read_or_refused(data: bytes) -> None:
    check("particles.star", data, read_star, read_star_particles, beside=BESIDE)


def read_cs(path: Path) -> None:
    read_cs_particles(path, require_stacks=False)


def read_passthrough(path: Path) -> None:
    read_cs_particles(path.parent / "main.cs", passthrough=path)


ODD_ARRAYS = st.sampled_from(
    (
        np.zeros(4),
        np.full(4, np.nan),
        np.full(4, -1),
        np.full(4, 2**63, "u8"),
        np.full(4, 1e38, "f4"),
        np.zeros((4, 0)),
        np.zeros((4, 1), "f4"),
        np.zeros((4, 7), "f4"),
        np.zeros((4, 2, 2), "f4"),
        np.array([b"x"] * 4),
        np.array(["\N{GREEK SMALL LETTER MU}"] * 4),
        np.zeros(4, "M8[s]"),
        np.zeros(4, "c16"),
        np.zeros(4, "V5"),
        np.zeros(4, bool),
        np.zeros(4, [("a", "f4")]),
        np.array([b"\xff\xfe/x"] * 4),
        np.array([b"x" * 9000] * 4),
        np.zeros(4, "S0"),
        np.full(4, np.inf),
        np.zeros(4, "f2"),
        np.zeros(4, "i1"),
    )
)


@st.composite
def cs_tables(draw: st.DrawFn) -> bytes:
    """A .cs file with fields taken away or exchanged for ones of another type or shape."""
    fields = dict(CS_FIELDS)
    for name in draw(st.lists(st.sampled_from(sorted(fields)), min_size=1, max_size=3, unique=True)):
        fields.pop(name)
        if draw(st.booleans()):
            fields[name] = draw(ODD_ARRAYS)
    return written("odd.cs", lambda path: write_fields(path, fields))


@bounded(350)
@given(
    data=st.one_of(
        cs_tables(), damaged(CS, 900), damaged(STREAM, 320), st.binary(max_size=99).map(STREAM_MAGIC.__add__), st.binary(max_size=99)
    )
)
def test_a_damaged_cs_file_is_read_or_refused(data: bytes) -> None:
    check("particles.cs", data, read_cs, read_cs_particles, read_passthrough, read_fields, beside=BESIDE)


def test_the_sound_files_are_read() -> None:
    for name, data, reader in (
        ("images.mrcs", STACK, read_stack),
        ("map.mrc", VOLUME, read_volume),
        ("half.mrcs", HALF, read_stack),
        ("ctf.csv", CSV, read_ctf),
        ("particles.star", STAR, read_star_particles),
        ("particles.cs", CS, read_cs_particles),
        ("stream.cs", STREAM, read_fields),
    ):
        assert check(name, data, reader, beside=BESIDE) == 1
