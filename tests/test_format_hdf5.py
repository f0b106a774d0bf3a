"""particles.h5 and volume.h5."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from protomer.errors import InputError, StorageError
from protomer.formats import hdf5, hdf5_particles
from protomer.formats.mrc import write_volume
from protomer.maps.fsc_curves import FscSet
from protomer.maps.volumes import Halves, MapRecord, Volume
from protomer.tables.optics import OpticsGroup
from protomer.tables.particles import COLUMNS, Particles, Stack, empty_columns
from stack_files import noise_images


def some_particles(n: int = 7) -> Particles:
    random = np.random.default_rng(3)
    columns = empty_columns(n)
    for name, (dtype, shape, _, _) in COLUMNS.items():
        if dtype.startswith("f"):
            columns[name][...] = random.normal(size=(n, *shape))
    columns["image_uid"][:] = random.integers(2**64 - 1, size=n, dtype=np.uint64)
    columns["micrograph"][:] = [f"mic_{i}_\N{GREEK SMALL LETTER MU}.mrc" for i in range(n)]
    optics = (OpticsGroup("one", 3e5, 2.7e7, 0.1, 1.31, 64, (1e-3, 2e-3), (0.5, 0.25), (), (1.01, 0.0, 0.0, 0.99),
                          {"rlnB": "2", "rlnA": "1"}),
              OpticsGroup("two", 2e5, 2.0e7, 0.07, 1.4, 64))
    extra = {"alignments3D/error": random.normal(size=n).astype(np.float32), "rlnGroupName": np.array([b"g%d" % i for i in range(n)]),
             "..": np.array(["\N{GREEK SMALL LETTER MU}"] * n, object), "ctf/tilt_A": random.normal(size=(n, 2)).astype(np.float32)}
    return Particles(columns, optics, (Stack("/data/a.mrcs", 9, 64, 1000, 123456789012345, "ab" * 32),), True, extra=extra,
                     provenance={"inputs": ["x"], "seed": 3})


def assert_same_particles(a: Particles, b: Particles) -> None:
    for name in COLUMNS:
        np.testing.assert_array_equal(a.columns[name], b.columns[name])
    assert (a.optics_groups, a.stacks, a.has_poses, dict(a.provenance)) == (b.optics_groups, b.stacks, b.has_poses, dict(b.provenance))
    assert [list(g.extra) for g in a.optics_groups] == [list(g.extra) for g in b.optics_groups]
    np.testing.assert_array_equal(a.operators.rotations, b.operators.rotations)
    np.testing.assert_array_equal(a.operators.translations_A, b.operators.translations_A)
    assert a.operators.name == b.operators.name
    assert list(a.extra) == list(b.extra)
    for name in a.extra:
        assert a.extra[name].dtype == b.extra[name].dtype
        np.testing.assert_array_equal(a.extra[name], b.extra[name])


def test_particles_come_back_bit_for_bit_and_the_file_is_the_same_twice(tmp_path: Path) -> None:
    particles = some_particles()
    hdf5.write_particles(tmp_path / "a.h5", particles)
    hdf5.write_particles(tmp_path / "b.h5", particles)
    assert_same_particles(particles, hdf5.read_particles(tmp_path / "a.h5"))
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_an_empty_table_comes_back_empty(tmp_path: Path) -> None:
    hdf5.write_particles(tmp_path / "a.h5", some_particles().take(np.arange(0)))
    assert len(hdf5.read_particles(tmp_path / "a.h5")) == 0


def test_every_dataset_says_its_unit_and_what_it_is(tmp_path: Path) -> None:
    hdf5.write_particles(tmp_path / "a.h5", some_particles())
    with h5py.File(tmp_path / "a.h5") as file:
        seen = []
        file.visititems(lambda name, item: seen.append((name, dict(item.attrs))) if isinstance(item, h5py.Dataset) else None)
        assert len(seen) > len(COLUMNS)
        assert all({"units", "description"} <= set(attributes) and attributes["description"] for _, attributes in seen)
        assert file["particles/shift_A"].attrs["units"] == "angstrom"


def test_copies_of_an_image_in_both_half_sets_are_refused_on_load(tmp_path: Path) -> None:
    particles = some_particles(2)
    same = particles.with_columns(image_uid=np.full(2, 5, np.uint64), half=np.zeros(2))
    hdf5.write_particles(tmp_path / "a.h5", same)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["particles/half"][1] = 1
    with pytest.raises(InputError, match="both half-sets"):
        hdf5.read_particles(tmp_path / "a.h5")


def test_other_files_are_refused_with_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("no HDF5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    for name in ("text.h5", "other.h5", "absent.h5"):
        with pytest.raises(InputError):
            hdf5.read_particles(tmp_path / name)
    hdf5.write_particles(tmp_path / "particles.h5", some_particles())
    with pytest.raises(InputError, match=r"holds particles\s+expected: a file with a volume"):
        hdf5.read_map_record(tmp_path / "particles.h5")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    hdf5.write_particles(tmp_path / "a.h5", some_particles())
    (tmp_path / "a.h5").write_bytes((tmp_path / "a.h5").read_bytes()[:-3000])
    with pytest.raises(InputError, match="damaged"):
        hdf5.read_particles(tmp_path / "a.h5")


def test_a_dataset_that_claims_more_than_it_stores_is_refused_before_it_is_read(tmp_path: Path) -> None:
    hdf5.write_particles(tmp_path / "a.h5", some_particles())
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file["particles/scale"]
        file["particles"].create_dataset("scale", shape=(2**50,), dtype="f8", chunks=(1024,))  # a petabyte that was never written
    with pytest.raises(InputError, match="claims shape"):
        hdf5.read_particles(tmp_path / "a.h5")


def test_a_column_of_python_objects_is_never_written(tmp_path: Path) -> None:
    particles = some_particles(2)
    with pytest.raises(TypeError, match="texts only"):
        hdf5.write_particles(tmp_path / "a.h5", Particles(particles.columns, particles.optics_groups, particles.stacks,
                                                          extra={"x": np.array([{}, 1], object)}))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hdf5.write_particles(tmp_path / "a.h5", some_particles())
    before = (tmp_path / "a.h5").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hdf5_particles, "_write_optics", full)
    with pytest.raises(StorageError):
        hdf5.write_particles(tmp_path / "a.h5", some_particles(9))
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.h5", before)]


def some_fsc(box: int) -> FscSet:
    shells = box // 2 + 1
    values: dict[str, Any] = {f.name: np.linspace(1.0, 0.0, shells) for f in fields(FscSet)}
    values.update(shell=np.arange(shells), mask_name="dynamic", randomised_from_shell=3, box=box, voxel_size_A=1.5)
    return FscSet(**values)


def test_a_map_record_comes_back_bit_for_bit(tmp_path: Path) -> None:
    a, b, c = (Volume(noise_images(8, 8, seed), 1.5) for seed in (1, 2, 3))
    record = MapRecord(Halves(a, b), c, None, Volume(np.ones((8, 8, 8), np.float32), 1.5), None, some_fsc(8), "D2", {"seed": 1})
    hdf5.write_map_record(tmp_path / "volume.h5", record)
    again = hdf5.read_map_record(tmp_path / "volume.h5")
    for mine, read in zip([*record.half_maps, record.map, record.refinement_mask], [*again.half_maps, again.map, again.refinement_mask],
                          strict=True):
        assert mine is not None and read is not None
        np.testing.assert_array_equal(mine.data, read.data)
        assert mine.voxel_size_A == read.voxel_size_A
    assert (again.sharpened, again.fsc_mask, again.symmetry, again.provenance) == (None, None, "D2", {"seed": 1})
    assert record.fsc is not None and again.fsc is not None
    for entry in fields(FscSet):
        np.testing.assert_array_equal(getattr(record.fsc, entry.name), getattr(again.fsc, entry.name))


def test_a_volume_is_read_from_either_kind_of_file(tmp_path: Path) -> None:
    volume = Volume(noise_images(8, 8), 1.5)
    hdf5.write_map_record(tmp_path / "volume.h5", MapRecord(Halves.of(volume), volume))
    write_volume(tmp_path / "map.mrc", volume)
    for name in ("volume.h5", "map.mrc"):
        np.testing.assert_array_equal(hdf5.read_any_volume(tmp_path / name).data, volume.data)


def test_the_volumes_of_a_record_must_share_a_grid() -> None:
    with pytest.raises(ValueError, match="differ"):
        MapRecord(Halves.of(Volume(noise_images(8, 8), 1.5)), Volume(noise_images(6, 6), 1.5))
