"""Protomer's own HDF5 records, damaged: read or refused in one message, with nothing taken from another file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzing import HERE, bounded, check, damaged, written
from protomer.errors import InputError
from protomer.formats import hdf5
from protomer.maps.volumes import Halves, MapRecord, Volume
from stack_files import noise_images
from test_format_hdf5 import some_fsc, some_particles
from test_shared_columns import copies as sharing_copies


def small_volume(seed: int, box: int = 6) -> Volume:
    return Volume(noise_images(box, box, seed), 1.5)


PARTICLES = written("particles.h5", lambda path: hdf5.write_particles(path, some_particles(3)))
COPIES = written("copies.h5", lambda path: hdf5.write_particles(path, sharing_copies(3, 2)[1]))
RECORD = written(
    "volume.h5",
    lambda path: hdf5.write_map_record(
        path,
        MapRecord(
            Halves(small_volume(1), small_volume(2)), small_volume(3), fsc_mask=small_volume(4), fsc=some_fsc(6), provenance={"seed": 1}
        ),
    ),
)


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
    np.zeros(3),
    np.full(3, np.nan),
    np.full(3, 2**40),
    np.zeros(0),
    np.zeros((3, 3), "f4"),
    np.zeros((3, 4)),
    np.array([b"x"] * 3),
    "text",
    b"\xff",
    5,
    -1.0,
    np.zeros(3, "c8"),
    np.zeros(3, [("a", "f4"), ("b", "S3")]),
    np.full(3, 127, "i1"),
    np.zeros(3, ">f8"),
    np.zeros((3, 15), "f4"),
    "[1",
    "null",
    "[]",
    "NaN",
    "[" * 4000,
    h5py.Empty("f4"),
    np.zeros((2, 2, 2), "f4"),
    np.full((6, 6, 6), np.inf, "f4"),
    np.zeros(3, bool),
    10**18,
)
ODD_DATASETS: tuple[Callable[[h5py.File, str], None], ...] = (
    outside,
    virtual,
    linked,
    squeezed,
    referring,
    ragged,
    circling,
    lambda file, name: file.create_group(name),
    lambda file, name: file.create_dataset(name, (2**40,), "f8", chunks=(2**16,)),
    lambda file, name: file.create_dataset(name, (3,), "f8"),
    lambda file, name: file.create_dataset(name, data=["\N{GREEK SMALL LETTER MU}", "", "a" * 9000], dtype=h5py.string_dtype()),
    lambda file, name: file.__setitem__(name, h5py.SoftLink("/nowhere")),
    lambda file, name: file.__setitem__(name, h5py.SoftLink(f"/{name}")),
)


def records(data: bytes, name: str) -> st.SearchStrategy[bytes]:
    """An HDF5 file with objects and attributes taken away or exchanged for ones of another kind."""
    objects, attributes = names_in(data, name)

    @st.composite
    def changed(draw: st.DrawFn) -> bytes:
        path = HERE / f"odd_{name}"
        path.write_bytes(data)
        removed: set[str] = set()
        with h5py.File(path, "r+") as file:
            for _ in range(draw(st.integers(1, 2))):
                if draw(st.integers(0, 3)) == 0:
                    place, key = draw(st.sampled_from(attributes))
                    if removed & {place, place.partition("/")[0]}:
                        continue
                    if key in file[place].attrs:
                        del file[place].attrs[key]
                        if draw(st.booleans()):
                            file[place].attrs[key] = draw(st.sampled_from(ODD_VALUES))
                    continue
                place = draw(st.sampled_from(objects))
                if removed & {place, place.partition("/")[0]}:
                    continue
                del file[place]
                removed.add(place)
                kind = draw(st.integers(0, 4))
                if kind in (1, 2):
                    file[place] = draw(st.sampled_from(ODD_VALUES))
                elif kind > 2:
                    draw(st.sampled_from(ODD_DATASETS))(file, place)
                if place.startswith(("extra", "images_extra")) and isinstance(file.get(place, getlink=True), h5py.HardLink):
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


@bounded(120)
@given(data=st.one_of(records(COPIES, "copies.h5"), damaged(COPIES, 4000)))
def test_a_damaged_particles_h5_of_copies_is_read_or_refused(data: bytes) -> None:
    check("copies.h5", data, hdf5.read_particles)


@bounded(220)
@given(data=st.one_of(records(RECORD, "volume.h5"), damaged(RECORD, 4000)))
def test_a_damaged_volume_h5_is_read_or_refused(data: bytes) -> None:
    check("volume.h5", data, hdf5.read_any_volume)


@pytest.mark.parametrize("elsewhere", [outside, virtual, linked, squeezed, referring])
def test_values_that_lie_in_another_file_or_in_no_room_are_never_read(elsewhere: Callable[[h5py.File, str], None], tmp_path: Path) -> None:
    for name in ("particles/scale", "extra/more"):
        (tmp_path / "p.h5").write_bytes(PARTICLES)
        with h5py.File(tmp_path / "p.h5", "r+") as file:
            if name in file:
                del file[name]
            elsewhere(file, name)
            if isinstance(file.get(name, getlink=True), h5py.HardLink):
                file[name].attrs["name"] = "more"
        with pytest.raises(InputError, match=r"links to elsewhere|its own values|claims shape|of the type"):
            hdf5.read_particles(tmp_path / "p.h5")


def test_many_texts_that_share_their_room_are_refused(tmp_path: Path) -> None:
    (tmp_path / "p.h5").write_bytes(PARTICLES)
    with h5py.File(tmp_path / "p.h5", "r+") as file:
        del file["particles/micrograph"]
        file.create_dataset("particles/micrograph", data=["MARK" * 2000] + ["x"] * 40_000, dtype=h5py.string_dtype())
    data = (tmp_path / "p.h5").read_bytes()
    with h5py.File(tmp_path / "p.h5") as file:
        at, elements = file["particles/micrograph"].id.get_offset(), len(file["particles/micrograph"])
    first = data[at : at + 16]  # length, heap and place of the first text
    assert int.from_bytes(first[:4], "little") == 8000
    (tmp_path / "p.h5").write_bytes(data[:at] + first * elements + data[at + 16 * elements :])
    with pytest.raises(InputError, match="claims more text than the file holds"):
        hdf5.read_particles(tmp_path / "p.h5")


def test_the_sound_files_are_read() -> None:
    assert check("particles.h5", PARTICLES, hdf5.read_particles) == 1
    assert check("copies.h5", COPIES, hdf5.read_particles) == 1
    assert check("volume.h5", RECORD, hdf5.read_any_volume) == 1
