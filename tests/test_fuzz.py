"""Every reader on damaged files: it reads them or says in one message what is wrong, and takes neither forever nor the memory."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fuzzing import ODD_WORDS, bounded, damaged, require_read_or_refused
from protomer.catalogue import declaration
from protomer.chain import read_chain
from protomer.errors import InputError
from protomer.formats import hdf5
from protomer.formats.cs import read_cs_particles
from protomer.formats.cs_table import STREAM_MAGIC, read_fields, write_fields
from protomer.formats.mrc import StackReader, read_volume, write_stack, write_volume
from protomer.formats.stack_table import read_stack_particles
from protomer.formats.star import read_star_particles
from protomer.job_command import interpret
from protomer.volumes import Halves, MapRecord, Volume
from stack_files import BOX, noise_images, plain_rows, star_text
from test_format_cs import STREAM, some_fields
from test_format_hdf5 import some_fsc, some_particles

FOLDER = tempfile.TemporaryDirectory(prefix="fuzz")
HERE = Path(FOLDER.name)


def written(name: str, write: Callable[[Path], Any]) -> bytes:
    """The bytes of a sound file."""
    write(HERE / name)
    return (HERE / name).read_bytes()


def small_volume(seed: int, box: int = 6) -> Volume:
    return Volume(noise_images(box, box, seed), 1.5)


STACK = written("images.mrcs", lambda path: write_stack(path, noise_images(4), 1.5))
VOLUME = written("map.mrc", lambda path: write_volume(path, small_volume(1)))
HALF = written("half.mrcs", lambda path: write_stack(path, noise_images(2), 1.5, half_precision=True))
POSES = {"rlnAngleRot": 10, "rlnAngleTilt": 20, "rlnAnglePsi": 30, "rlnOriginXAngst": 1, "rlnOriginYAngst": 2, "rlnMicrographName": "m.mrc",
         "rlnClassNumber": 1, "rlnHelicalTubeID": 1, "rlnCtfBfactor": 2.0, "rlnCoordinateX": 5, "rlnCoordinateY": 6}
ROWS = [{**row, **POSES} for row in plain_rows(4)]
OPTICS = {"rlnOpticsGroup": 1, "rlnOpticsGroupName": "first", "rlnVoltage": 300, "rlnSphericalAberration": 2.7, "rlnAmplitudeContrast": 0.1,
          "rlnImagePixelSize": 1.5, "rlnImageSize": BOX, "rlnImageDimensionality": 2, "rlnBeamTiltX": 0.1, "rlnBeamTiltY": -0.1,
          "rlnOddZernike": "[0,0.1,0.2]", "rlnEvenZernike": "[0.5]", "rlnMagMat00": 1, "rlnMagMat01": 0, "rlnMagMat10": 0, "rlnMagMat11": 1,
          "rlnMagnification": 10000, "rlnDetectorPixelSize": 5.0}
STAR = star_text(ROWS, [OPTICS]).encode()
CS_FIELDS = {**some_fields(), "ctf/tilt_A": np.ones((4, 2), "f4"), "ctf/anisomag": np.full((4, 4), 0.01, "f4"),
             "location/micrograph_path": np.full(4, b">S1/m.mrc"), "location/center_x_frac": np.full(4, 0.5, "f4"),
             "location/center_y_frac": np.full(4, 0.5, "f4"), "location/micrograph_shape": np.full((4, 2), 4000, "u4")}
CS = written("particles.cs", lambda path: write_fields(path, CS_FIELDS))
PARTICLES = written("particles.h5", lambda path: hdf5.write_particles(path, some_particles(3)))
RECORD = written("volume.h5", lambda path: hdf5.write_map_record(path, MapRecord(
    Halves(small_volume(1), small_volume(2)), small_volume(3), fsc_mask=small_volume(4), fsc=some_fsc(6), provenance={"seed": 1})))
CSV = (b"image,defocus_u_A,defocus_v_A,defocus_angle_deg,phase_shift_deg,voltage_kV,spherical_aberration_mm,amplitude_contrast,micrograph\n"
       + b"".join(b"%d,15000,14800,30,0,300,2.7,0.1,m.mrc\n" % (i + 1) for i in range(4)))
CHAIN = b"""dataset: {star: particles.star, resources: {ranks: 1, minutes: 10}}
jobs:
  start: &start {job: simulate, number: 20, box: 64px, pixel_size: "3.5 \xc3\x85"}
  consensus: {job: refine, particles: dataset, volume: start/map.mrc, symmetry: C1, settings: {initial_low_pass: 40A, marginalise: yes}}
  sharp: {job: postprocess, volume: consensus}
"""
CONFIG = b"job: refine\nparticles: p.h5\nvolume: v.mrc\nsettings:\n  initial_low_pass: 40 A\n  seed: 3\n  mask_mode: none\n"


def read_stack(path: Path) -> None:
    with StackReader(path) as reader:
        if reader.number_whole:
            reader.read([0, reader.number_whole - 1])
        reader.digest()


def read_config(path: Path) -> None:
    interpret(declaration("refine"), {"config": str(path)})


def check(name: str, data: bytes, *readers: Callable[[Path], object]) -> None:
    """Write the bytes to a file of that name beside a sound stack, and let each reader have it."""
    path = HERE / "damaged" / name
    path.parent.mkdir(exist_ok=True)
    if name != "images.mrcs":
        (path.parent / "images.mrcs").write_bytes(STACK)
        (path.parent / "main.cs").write_bytes(CS)
    path.write_bytes(data)
    for reader in readers:
        require_read_or_refused(reader, path)


@bounded(500)
@given(data=st.one_of(damaged(VOLUME, 240), damaged(STACK, 240), damaged(HALF, 240), st.binary(max_size=1200)))
def test_a_damaged_mrc_file_is_read_or_refused(data: bytes) -> None:
    check("images.mrcs", data, read_volume, read_stack, read_stack_of(None))


def read_stack_of(ctf: Path | None) -> Callable[[Path], object]:
    return lambda path: read_stack_particles(path, ctf, 1.5)


def read_ctf(path: Path) -> object:
    return read_stack_particles(path.parent / "images.mrcs", path)


@bounded(200)
@given(data=st.one_of(damaged(CSV), st.binary(max_size=200), st.tuples(damaged(CSV), ODD_WORDS).map(lambda p: p[0] + p[1].encode())))
def test_a_damaged_table_of_a_stack_is_read_or_refused(data: bytes) -> None:
    check("ctf.csv", data, read_ctf)


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
@given(data=st.one_of(star_tables(), damaged(STAR, 700), st.binary(max_size=200), st.text(max_size=100).map(lambda t: b"data_\n" + t.encode())))
def test_a_damaged_star_file_is_read_or_refused(data: bytes) -> None:
    check("particles.star", data, read_star, read_star_particles)


def read_cs(path: Path) -> None:
    read_cs_particles(path, require_stacks=False)


def read_passthrough(path: Path) -> None:
    read_cs_particles(path.parent / "main.cs", passthrough=path)


ODD_ARRAYS = st.sampled_from((
    np.zeros(4), np.full(4, np.nan), np.full(4, -1), np.full(4, 2**63, "u8"), np.full(4, 1e38, "f4"), np.zeros((4, 0)), np.zeros((4, 1), "f4"),
    np.zeros((4, 7), "f4"), np.zeros((4, 2, 2), "f4"), np.array([b"x"] * 4), np.array(["\N{GREEK SMALL LETTER MU}"] * 4), np.zeros(4, "M8[s]"),
    np.zeros(4, "c16"), np.zeros(4, "V5"), np.zeros(4, bool), np.zeros(4, [("a", "f4")]), np.array([b"\xff\xfe/x"] * 4),
    np.array([b"x" * 9000] * 4), np.zeros(4, "S0"), np.full(4, np.inf), np.zeros(4, "f2"), np.zeros(4, "i1")))


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
@given(data=st.one_of(cs_tables(), damaged(CS, 900), damaged(STREAM, 320), st.binary(max_size=99).map(STREAM_MAGIC.__add__), st.binary(max_size=99)))
def test_a_damaged_cs_file_is_read_or_refused(data: bytes) -> None:
    check("particles.cs", data, read_cs, read_cs_particles, read_passthrough, read_fields)


def names_in(data: bytes, name: str) -> tuple[list[str], list[tuple[str, str]]]:
    """All groups and datasets of an HDF5 file, and all attributes as (object, name)."""
    (HERE / name).write_bytes(data)
    with h5py.File(HERE / name) as file:
        objects: list[str] = []
        file.visit(objects.append)
        return objects, [(o, a) for o in ("/", *objects) for a in file[o].attrs]


def outside(file: h5py.File, name: str) -> None:
    """A dataset whose values lie in another file."""
    file.create_dataset(name, (3,), "f8", external=[(str(HERE / "outside.bin"), 0, 24)])


def virtual(file: h5py.File, name: str) -> None:
    """A dataset that is put together from another file's."""
    layout = h5py.VirtualLayout((3,), "f8")
    layout[:] = h5py.VirtualSource(HERE / "outside.h5", "x", (3,))
    file.create_virtual_dataset(name, layout)


def linked(file: h5py.File, name: str) -> None:
    """A link to another file."""
    file[name] = h5py.ExternalLink(HERE / "outside.h5", "x")


def squeezed(file: h5py.File, name: str) -> None:
    """Much in little room."""
    file.create_dataset(name, (2**31,), "f8", chunks=(2**20,), compression="gzip", fillvalue=0.0)


def referring(file: h5py.File, name: str) -> None:
    """References to objects."""
    file.create_dataset(name, data=np.array([file.ref] * 3, object), dtype=h5py.ref_dtype)


def ragged(file: h5py.File, name: str) -> None:
    """Rows of many lengths."""
    file.create_dataset(name, (3,), h5py.vlen_dtype("f4"))[0] = np.arange(5.0)


def circling(file: h5py.File, name: str) -> None:
    """A group that holds itself."""
    file[name] = file["/"]


ODD_VALUES: tuple[Any, ...] = (
    np.zeros(3), np.full(3, np.nan), np.full(3, 2**40), np.zeros(0), np.zeros((3, 3), "f4"), np.zeros((3, 4)), np.array([b"x"] * 3), "text", b"\xff",
    5, -1.0, np.zeros(3, "c8"), np.zeros(3, [("a", "f4"), ("b", "S3")]), np.full(3, 127, "i1"), np.zeros(3, ">f8"), np.zeros((3, 15), "f4"), "[1",
    "null", "[]", "NaN", "[" * 4000, h5py.Empty("f4"), np.zeros((2, 2, 2), "f4"), np.full((6, 6, 6), np.inf, "f4"), np.zeros(3, bool), 10**18)
ODD_DATASETS: tuple[Callable[[h5py.File, str], None], ...] = (
    outside, virtual, linked, squeezed, referring, ragged, circling, lambda file, name: file.create_group(name),
    lambda file, name: file.create_dataset(name, (2**40,), "f8", chunks=(2**16,)), lambda file, name: file.create_dataset(name, (3,), "f8"),
    lambda file, name: file.create_dataset(name, data=["\N{GREEK SMALL LETTER MU}", "", "a" * 9000], dtype=h5py.string_dtype()),
    lambda file, name: file.__setitem__(name, h5py.SoftLink("/nowhere")), lambda file, name: file.__setitem__(name, h5py.SoftLink(f"/{name}")))


def records(data: bytes, name: str) -> st.SearchStrategy[bytes]:
    """An HDF5 file with objects and attributes taken away or exchanged for ones of another kind."""
    objects, attributes = names_in(data, name)

    @st.composite
    def changed(draw: st.DrawFn) -> bytes:
        path = HERE / f"odd_{name}"
        path.write_bytes(data)
        with h5py.File(path, "r+") as file:
            for _ in range(draw(st.integers(1, 2))):
                if draw(st.integers(0, 3)) == 0:
                    place, key = draw(st.sampled_from(attributes))
                    if place in file and key in file[place].attrs:
                        del file[place].attrs[key]
                        if draw(st.booleans()):
                            file[place].attrs[key] = draw(st.sampled_from(ODD_VALUES))
                    continue
                place = draw(st.sampled_from(objects))
                if place not in file:
                    continue
                del file[place]
                if "/" in place and place.rpartition("/")[0] not in file:
                    continue
                kind = draw(st.integers(0, 4))
                if kind in (1, 2):
                    file[place] = draw(st.sampled_from(ODD_VALUES))
                elif kind > 2:
                    draw(st.sampled_from(ODD_DATASETS))(file, place)
                if place in file and place.startswith("extra"):
                    file[place].attrs["name"] = "rlnX"
        return path.read_bytes()

    return changed()


(HERE / "outside.bin").write_bytes(np.full(3, 7.0).tobytes())
with h5py.File(HERE / "outside.h5", "w") as _file:
    _file["x"] = np.full(3, 7.0)


@bounded(220)
@given(data=st.one_of(records(PARTICLES, "particles.h5"), damaged(PARTICLES, 4000), st.binary(max_size=99).map(PARTICLES[:96].__add__)))
def test_a_damaged_particles_h5_is_read_or_refused(data: bytes) -> None:
    check("particles.h5", data, hdf5.read_particles)


@bounded(220)
@given(data=st.one_of(records(RECORD, "volume.h5"), damaged(RECORD, 4000)))
def test_a_damaged_volume_h5_is_read_or_refused(data: bytes) -> None:
    check("volume.h5", data, hdf5.read_any_volume)


YAML_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 2**70), st.floats(), ODD_WORDS, st.dates(), st.binary(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(ODD_WORDS, inner, max_size=3)), max_leaves=6)


@st.composite
def chains(draw: st.DrawFn) -> bytes:
    """A chain with one value exchanged for an odd one or taken away."""
    import yaml
    document: Any = yaml.safe_load(CHAIN)
    for _ in range(draw(st.integers(1, 2))):
        place: Any = document
        while True:
            key = draw(st.sampled_from(sorted(map(str, place))))
            key = key if key in place else next(iter(place))
            if not isinstance(place[key], Mapping) or not place[key] or draw(st.integers(0, 3)) == 0:
                break
            place = place[key]
        if draw(st.integers(0, 3)):
            place[key] = draw(YAML_VALUES)
        else:
            place[draw(ODD_WORDS)] = place.pop(key)
        if not document:
            break
    return yaml.safe_dump(document, allow_unicode=True).encode("utf-8", "surrogatepass")


BOMB = b"a: &a [x, x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (c, c, b", ".join([b"*%c" % (c - 1)] * 10)) for c in range(ord("b"), ord("m"))) + b"jobs: *l\n"
NESTED = st.sampled_from((1, 30, 60, 400, 5000)).map(lambda n: b"jobs: " + b"[" * n)
TAGS = st.sampled_from((b"!!python/object/apply:os.system ['true']", b"!!python/name:os.system", b"!!binary '=='", b"!!timestamp '2001-99-99'",
                        b"!!set {a, b}", b"!!omap [a: 1]", b"!!float x", b"!!int '0b'", b"2001-02-30", b"!!int '" + b"9" * 5000 + b"'", b"<<: 3",
                        b"0x" + b"f" * 5000, b"&a [*a]", b"&a {b: *a}", b"{? [a] : b}", b"{? {a: b} : c}", b"!<tag:yaml.org,2002:python/object:os.x> {}"))


@bounded(220)
@given(data=st.one_of(chains(), damaged(CHAIN), NESTED, TAGS.map(lambda tag: b"jobs: {a: {job: refine, seed: " + tag + b"}}"),
                      TAGS.map(b"jobs: ".__add__), st.binary(max_size=60)))
@example(data=BOMB)
@example(data=b"".join(b"k%d: 1\n" % i for i in range(20_000)))
def test_a_damaged_chain_is_read_or_refused(data: bytes) -> None:
    (HERE / "damaged").mkdir(exist_ok=True)
    (HERE / "damaged/particles.star").write_bytes(STAR)
    check("chain.yaml", data, read_chain)


@bounded(150)
@given(data=st.one_of(damaged(CONFIG), NESTED, TAGS.map(b"seed: ".__add__), YAML_VALUES.map(lambda value: json.dumps({"seed": value}, default=str).encode()),
                      st.binary(max_size=60)))
@example(data=BOMB)
def test_a_damaged_settings_file_is_read_or_refused(data: bytes) -> None:
    check("settings.yaml", data, read_config)


@pytest.fixture(scope="module", autouse=True)
def _tidy() -> Iterator[None]:
    yield
    FOLDER.cleanup()


def test_the_sound_files_are_read() -> None:
    (HERE / "damaged").mkdir(exist_ok=True)
    for name, data, reader in (("images.mrcs", STACK, read_stack), ("map.mrc", VOLUME, read_volume), ("images.mrcs", HALF, read_stack),
                               ("ctf.csv", CSV, read_ctf), ("particles.star", STAR, read_star_particles), ("particles.cs", CS, read_cs_particles),
                               ("stream.cs", STREAM, read_fields), ("particles.h5", PARTICLES, hdf5.read_particles),
                               ("volume.h5", RECORD, hdf5.read_any_volume), ("chain.yaml", CHAIN, read_chain), ("settings.yaml", CONFIG, read_config)):
        (HERE / "damaged/images.mrcs").write_bytes(STACK)
        (HERE / "damaged" / name).write_bytes(data)
        reader(HERE / "damaged" / name)


@pytest.mark.parametrize("elsewhere", [outside, virtual, linked, squeezed, referring])
def test_values_that_lie_in_another_file_or_in_no_room_are_never_read(elsewhere: Callable[[h5py.File, str], None], tmp_path: Path) -> None:
    for name in ("particles/scale", "extra/more"):
        (tmp_path / "p.h5").write_bytes(PARTICLES)
        with h5py.File(tmp_path / "p.h5", "r+") as file:
            if name in file:
                del file[name]
            elsewhere(file, name)
        with pytest.raises(InputError, match="another|its own|links|claims|type|stores"):
            hdf5.read_particles(tmp_path / "p.h5")


def test_many_texts_that_share_their_room_are_refused(tmp_path: Path) -> None:
    (tmp_path / "p.h5").write_bytes(PARTICLES)
    with h5py.File(tmp_path / "p.h5", "r+") as file:
        del file["particles/micrograph"]
        file.create_dataset("particles/micrograph", data=["MARK" * 2000] + ["x"] * 40_000, dtype=h5py.string_dtype())
    data = (tmp_path / "p.h5").read_bytes()
    with h5py.File(tmp_path / "p.h5") as file:
        at, elements = file["particles/micrograph"].id.get_offset(), len(file["particles/micrograph"])
    first = data[at:at + 16]  # length, heap and place of the first text
    assert int.from_bytes(first[:4], "little") == 8000
    (tmp_path / "p.h5").write_bytes(data[:at] + first * elements + data[at + 16 * elements:])
    with pytest.raises(InputError, match="claims more text than the file holds"):
        hdf5.read_particles(tmp_path / "p.h5")
