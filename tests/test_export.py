"""The job export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protomer.config.job_command import Call
from protomer.config.job_inputs import resolve_inputs
from protomer.declarations.export import JOB, ExportSettings
from protomer.errors import InputError
from protomer.formats import hdf5
from protomer.formats.cs import read_cs_particles
from protomer.formats.mrc import read_volume
from protomer.formats.star import read_star_particles
from protomer.jobs.export import execute
from protomer.maps.volumes import Halves, MapRecord, Volume
from stack_files import noise_images, plain_rows, write_data_set


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    hdf5.write_particles(tmp_path / "particles.h5", read_star_particles(write_data_set(tmp_path, plain_rows(4), noise_images(4))))
    a, b, c = (Volume(noise_images(8, 8, seed), 1.5) for seed in (1, 2, 3))
    hdf5.write_map_record(tmp_path / "volume.h5", MapRecord(Halves(a, b), c))
    return tmp_path


def export(inputs: dict[str, Any], dry_run: bool = False, **settings: Any) -> int:
    return execute(resolve_inputs(JOB, inputs), ExportSettings.from_mapping(settings), Call(inputs, settings, None, dry_run=dry_run))


def test_particles_go_to_star_and_cs_and_name_the_same_images(folder: Path) -> None:
    assert export({"particles": folder, "star": folder / "out.star", "cs": folder / "out.cs"}) == 0
    a, b = read_star_particles(folder / "out.star"), read_cs_particles(folder / "out.cs")
    for name in ("image_uid", "half", "defocus_u_A"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_the_volume_that_was_asked_for_is_written(folder: Path) -> None:
    export({"volume": folder, "mrc": folder / "half_b.mrc"}, map="half_b")
    np.testing.assert_array_equal(read_volume(folder / "half_b.mrc").data, noise_images(8, 8, 2))
    with pytest.raises(InputError, match="no sharpened"):
        export({"volume": folder, "mrc": folder / "sharp.mrc"}, map="sharpened")
    assert not (folder / "sharp.mrc").exists()


def test_a_file_that_exists_is_replaced_only_when_told_to(folder: Path) -> None:
    (folder / "out.star").write_text("precious")
    with pytest.raises(InputError, match="exists"):
        export({"particles": folder, "star": folder / "out.star", "cs": folder / "out.cs"})
    assert (folder / "out.star").read_text() == "precious" and not (folder / "out.cs").exists()
    export({"particles": folder, "star": folder / "out.star"}, replace=True)
    assert len(read_star_particles(folder / "out.star")) == 4


def test_a_dry_run_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export({"particles": folder, "star": folder / "out.star"}, dry_run=True)
    assert "would write" in capsys.readouterr().out and not (folder / "out.star").exists()


@pytest.mark.parametrize("inputs", [{}, {"star": "x.star"}, {"mrc": "x.mrc"}])
def test_what_cannot_be_written_is_refused(folder: Path, inputs: dict[str, str]) -> None:
    with pytest.raises(InputError):
        export({name: folder / value for name, value in inputs.items()})
    with pytest.raises(InputError, match="does not exist"):
        export({"particles": folder, "star": folder / "no" / "x.star"})
