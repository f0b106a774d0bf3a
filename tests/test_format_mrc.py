"""MRC files: modes, byte orders, missing identifiers, truncation, headers that lie."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

import mrcfile
import numpy as np
import pytest

from protomer.errors import InputError
from protomer.formats.mrc import StackReader, read_header, read_volume, write_stack, write_volume
from protomer.maps.volumes import Volume
from stack_files import noise_images, raw_mrc

MODES = [(0, "i1"), (1, "i2"), (2, "f4"), (6, "u2"), (12, "f2")]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("mode", "kind"), MODES)
def test_every_mode_in_either_byte_order_reads_as_its_values(tmp_path: Path, mode: int, kind: str, order: Literal["<", ">"]) -> None:
    values = np.arange(5 * 6 * 6).reshape(5, 6, 6) % 100
    path = raw_mrc(tmp_path / "stack.mrcs", values.astype(kind), mode, order=order)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = StackReader(path).read([4, 0, 1, 1])
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images, values[[4, 0, 1, 1]].astype(np.float32))


def test_a_missing_identifier_and_an_unknown_stamp_are_read_with_warnings(tmp_path: Path) -> None:
    path = raw_mrc(tmp_path / "stack.mrcs", noise_images(3, 8), 2, order=">", identifier=b"\0\0\0\0", stamp=b"\0\0\0\0")
    with pytest.warns(UserWarning) as caught:
        images = StackReader(path).read(range(3))
    assert {"the MAP identifier is missing" in str(w.message) for w in caught} == {True, False}
    np.testing.assert_array_equal(images, noise_images(3, 8))


def test_a_machine_stamp_that_lies_is_overruled_by_the_sizes_with_a_warning(tmp_path: Path) -> None:
    path = raw_mrc(tmp_path / "stack.mrcs", noise_images(3, 8), 2, order="<", stamp=b"\x11\x11\0\0")
    with pytest.warns(UserWarning, match="machine stamp is wrong"):
        np.testing.assert_array_equal(StackReader(path).read([2]), noise_images(3, 8)[[2]])


@pytest.mark.filterwarnings("ignore:.*machine stamp")
def test_real_files_without_identifier_read_and_are_not_constant(shared_data: Path) -> None:
    path = next((shared_data / "real_particles" / "ribosome_tilts_64_220").glob("*.mrcs"))
    with pytest.warns(UserWarning, match="MAP identifier"):
        reader = StackReader(path)
    assert (reader.number, reader.number_whole, reader.box) == (220, 220, 64)
    assert reader.read(range(220)).std(axis=(1, 2)).min() > 1.0


def test_a_truncated_stack_serves_its_whole_images_and_names_both_sizes_for_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "stack.mrcs"
    write_stack(path, noise_images(5, 8), 1.5)
    whole = path.read_bytes()
    path.write_bytes(whole[:1024 + 3 * 256 + 17])
    reader = StackReader(path)
    assert (reader.number, reader.number_whole) == (5, 3)
    np.testing.assert_array_equal(reader.read([2, 0]), noise_images(5, 8)[[2, 0]])
    with pytest.raises(InputError, match=f"{1024 + 3 * 256 + 17} bytes.*\n.*{len(whole)} bytes"):
        reader.read([3])


def test_images_past_the_end_or_before_the_start_are_refused(tmp_path: Path) -> None:
    write_stack(tmp_path / "stack.mrcs", noise_images(2, 8), 1.5)
    reader = StackReader(tmp_path / "stack.mrcs")
    for index in (2, -1):
        with pytest.raises(InputError, match="between 1 and 2"):
            reader.read([index])


def test_a_header_that_announces_exabytes_asks_for_no_memory(tmp_path: Path) -> None:
    path = raw_mrc(tmp_path / "huge.mrc", np.zeros((2, 2, 2), "f4"), 2, shape=(2**30, 2**30, 2**30))
    assert StackReader(path).number_whole == 0
    with pytest.raises(InputError, match="truncated"):
        read_volume(path)


def test_an_extended_header_longer_than_the_file_leaves_no_whole_image(tmp_path: Path) -> None:
    path = raw_mrc(tmp_path / "stack.mrcs", noise_images(2, 8), 2)
    content = bytearray(path.read_bytes())
    content[92:96] = np.int32(2**31 - 1).tobytes()
    path.write_bytes(bytes(content))
    assert StackReader(path).number_whole == 0


@pytest.mark.parametrize(("content", "message"), [(b"", "header of 1024"), (b"x" * 4000, "mode 0, 1, 2, 6 or 12")])
def test_what_is_no_mrc_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "no.mrc").write_bytes(content)
    with warnings.catch_warnings(), pytest.raises(InputError, match=message):
        warnings.simplefilter("ignore")
        read_header(tmp_path / "no.mrc")


def test_a_complex_map_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="mode 4"):
        read_header(raw_mrc(tmp_path / "complex.mrc", np.zeros((2, 2, 2), "c8"), 4))


def test_a_written_volume_reads_back_bit_for_bit_and_is_the_same_file_twice(tmp_path: Path) -> None:
    volume = Volume(noise_images(9, 9), 1.25)
    write_volume(tmp_path / "a.mrc", volume)
    write_volume(tmp_path / "b.mrc", volume)
    again = read_volume(tmp_path / "a.mrc")
    np.testing.assert_array_equal(again.data, volume.data)
    assert again.voxel_size_A == pytest.approx(1.25, rel=1e-6)
    assert (tmp_path / "a.mrc").read_bytes() == (tmp_path / "b.mrc").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mrc", "b.mrc"]


def test_written_files_pass_the_validator_of_the_mrc_library(tmp_path: Path) -> None:
    write_volume(tmp_path / "map.mrc", Volume(noise_images(8, 8), 1.0))
    write_stack(tmp_path / "stack.mrcs", noise_images(3, 8), 1.0)
    assert mrcfile.validate(tmp_path / "map.mrc") and mrcfile.validate(tmp_path / "stack.mrcs")


def test_axes_stored_in_another_order_are_put_in_order(tmp_path: Path) -> None:
    volume = noise_images(6, 6)
    with mrcfile.new(tmp_path / "turned.mrc") as handle:
        handle.set_data(np.ascontiguousarray(volume.transpose(1, 2, 0)))  # sections y, rows x, columns z
        handle.voxel_size = 2.0
        handle.header.mapc, handle.header.mapr, handle.header.maps = 3, 1, 2
    np.testing.assert_array_equal(read_volume(tmp_path / "turned.mrc").data, volume)


def test_a_map_without_voxel_size_needs_one_given(tmp_path: Path) -> None:
    path = raw_mrc(tmp_path / "map.mrc", noise_images(8, 8), 2)
    with pytest.raises(InputError, match="no voxel size"):
        read_volume(path)
    assert read_volume(path, 3.0).voxel_size_A == 3.0


def test_a_map_that_is_no_cube_or_holds_nan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cubic"):
        read_volume(raw_mrc(tmp_path / "flat.mrc", noise_images(4, 8), 2), 1.0)
    holed = noise_images(8, 8)
    holed[1, 2, 3] = np.nan
    with pytest.raises(InputError, match="1 voxels that are NaN"):
        read_volume(raw_mrc(tmp_path / "nan.mrc", holed, 2), 1.0)


def test_a_half_precision_stack_is_mode_12_and_refuses_what_does_not_fit(tmp_path: Path) -> None:
    images = noise_images(3, 8)
    write_stack(tmp_path / "half.mrcs", images, 1.0, half_precision=True)
    with StackReader(tmp_path / "half.mrcs") as reader:
        assert reader.header.dtype == np.float16
        np.testing.assert_array_equal(reader.read(range(3)), images.astype(np.float16).astype(np.float32))
    with pytest.raises(InputError, match="65504"):
        write_stack(tmp_path / "big.mrcs", images * 1e5, 1.0, half_precision=True)
    assert not (tmp_path / "big.mrcs").exists()
