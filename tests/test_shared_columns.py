"""Tables of symmetry copies that hold once what the copies of an image have in common."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from protomer.errors import InputError
from protomer.formats import hdf5
from protomer.symmetry.operator_sets import OperatorSet
from protomer.tables.particles import COLUMNS, Particles
from protomer.tables.shared_columns import SharedColumns
from test_format_hdf5 import assert_same_particles, some_particles

OWN = ("rotation", "shift_A", "copy")


def copies(number: int = 5, order: int = 3) -> tuple[Particles, Particles]:
    """The same expanded table twice: with all columns in full, and sharing."""
    images = some_particles(number)
    images = images.with_columns(half=np.arange(number) % 2, copy=np.zeros(number))
    image_row = np.repeat(np.arange(number, dtype=np.int32), order)
    random = np.random.default_rng(2)
    own = {"rotation": random.normal(size=(number * order, 4)), "shift_A": random.normal(size=(number * order, 2)),
           "copy": np.tile(np.arange(order), number)}
    rest = (images.optics_groups, images.stacks, True, OperatorSet.of_group(f"C{order}"))
    full = Particles({name: images.columns[name][image_row] for name in COLUMNS}, *rest,
                     {name: column[image_row] for name, column in images.extra.items()}).with_columns(**own)
    shared = {name: images.columns[name] for name in COLUMNS if name not in OWN}
    return full, Particles(SharedColumns({name: full.columns[name] for name in OWN}, shared, image_row), *rest,
                           SharedColumns({}, images.extra, image_row))


def test_a_sharing_table_says_what_the_full_one_says() -> None:
    full, sharing = copies()
    assert_same_particles(full, sharing)
    assert len(sharing) == len(full) and sharing.is_expanded and set(sharing.columns) == set(COLUMNS)
    rows = np.array([14, 3, 4, 0, 3])
    assert_same_particles(full.take(rows), sharing.take(rows))
    assert_same_particles(full.take(full.half == 1), sharing.take(sharing.half == 1))
    new = np.arange(15.0)
    assert_same_particles(full.with_columns(defocus_u_A=new), sharing.with_columns(defocus_u_A=new))


def test_columns_that_nobody_asks_for_are_never_made() -> None:
    _, sharing = copies()
    assert sharing.is_expanded and len(sharing.take(np.arange(4)).rotation) == 4
    assert isinstance(sharing.columns, SharedColumns) and not sharing.columns._made


def test_rows_that_are_taken_keep_only_their_images() -> None:
    _, sharing = copies()
    part = sharing.take(np.array([4, 12, 3])).columns
    assert isinstance(part, SharedColumns) and len(part.shared["stack"]) == 2
    np.testing.assert_array_equal(part.image_row, [0, 1, 0])


def test_a_sharing_table_comes_back_from_its_file_and_is_smaller_than_the_full_one(tmp_path: Path) -> None:
    full, sharing = copies(2000, 7)
    hdf5.write_particles(tmp_path / "full.h5", full)
    hdf5.write_particles(tmp_path / "sharing.h5", sharing)
    again = hdf5.read_particles(tmp_path / "sharing.h5")
    assert isinstance(again.columns, SharedColumns)
    assert_same_particles(full, again)
    assert (tmp_path / "sharing.h5").stat().st_size < 0.3 * (tmp_path / "full.h5").stat().st_size


def test_a_plain_table_is_written_as_older_versions_read_it_and_theirs_is_read(tmp_path: Path) -> None:
    particles = some_particles()
    hdf5.write_particles(tmp_path / "a.h5", particles)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        assert file.attrs["version"] == 1 and "images" not in file
        del file["operator_translations"], file["operators"].attrs["name"]  # as version 1 had it
    again = hdf5.read_particles(tmp_path / "a.h5")
    np.testing.assert_array_equal(again.operators.translations_A, np.zeros((1, 3)))
    np.testing.assert_array_equal(again.rotation, particles.rotation)


@pytest.mark.parametrize("value", [-1, 5, 2**31 - 1])
def test_rows_of_images_that_are_not_there_are_refused(tmp_path: Path, value: int) -> None:
    hdf5.write_particles(tmp_path / "a.h5", copies()[1])
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["particles/image_row"][2] = value
    with pytest.raises(InputError, match="image_row"):
        hdf5.read_particles(tmp_path / "a.h5")


@pytest.mark.parametrize("name", ["particles/rotation", "images/half", "images_extra/..", "images"])
def test_a_sharing_table_with_a_column_of_another_length_or_without_it_is_refused(tmp_path: Path, name: str) -> None:
    hdf5.write_particles(tmp_path / "a.h5", copies()[1])
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        name = name.replace("..", "%2E.")
        if name != "images":
            attributes, values = dict(file[name].attrs), file[name][:-1]
            del file[name]
            file.create_dataset(name, data=values).attrs.update(attributes)
        else:
            del file[name]["defocus_u_A"]
    with pytest.raises(InputError, match="damaged"):
        hdf5.read_particles(tmp_path / "a.h5")
