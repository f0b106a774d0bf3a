"""Stacks written piece by piece: whole, valid for other programs, digested on the way; none is left where writing fails."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest

from protomer.errors import InputError
from protomer.formats.mrc import StackReader
from protomer.formats.mrc_stack import described, writing_stack
from protomer.running.provenance import file_digest


@pytest.mark.parametrize("half_precision", [False, True])
def test_a_stack_written_in_pieces_is_what_other_programs_read(tmp_path: Path, half_precision: bool) -> None:
    images, path = np.random.default_rng(1).standard_normal((7, 10, 10)).astype(np.float32), tmp_path / "images.mrcs"
    with writing_stack(path, 7, 10, 1.25, half_precision) as writer:
        writer.append(images[:4])
        writer.append(images[4:])
        digest = writer.finish()
    with mrcfile.open(path) as theirs:
        assert theirs.is_image_stack() and theirs.data.dtype == (np.float16 if half_precision else np.float32)
        assert float(theirs.voxel_size.x) == 1.25
        np.testing.assert_array_equal(theirs.data, images.astype(theirs.data.dtype))
    with path.with_suffix(".txt").open("w") as messages:
        assert mrcfile.validate(path, print_file=messages), path.with_suffix(".txt").read_text()
    assert described(path, 7, 10, digest).size_bytes == path.stat().st_size and digest == file_digest(path)
    with StackReader(path) as reader:
        assert reader.number_whole == 7 and reader.digest() == digest and reader.pixel_size_A == 1.25


def test_too_few_images_or_grey_values_too_large_leave_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 images fewer"), writing_stack(tmp_path / "a.mrcs", 3, 4, 1.0, False) as writer:
        writer.append(np.zeros((1, 4, 4)))
        writer.finish()
    with pytest.raises(InputError, match="float16"), writing_stack(tmp_path / "b.mrcs", 1, 4, 1.0, True) as writer:
        writer.append(np.full((1, 4, 4), 1e5))
    assert list(tmp_path.iterdir()) == []
