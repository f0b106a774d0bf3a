"""Parts of expanded and of subtracted sets go wherever whole sets go: reconstruct, local-refine, export, symmetry-expand, subtract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protomer.config.job_command import Call
from protomer.config.settings import Job
from protomer.declarations.export import ExportSettings
from protomer.declarations.join import JOB as JOIN
from protomer.declarations.local_refine import JOB as LOCAL_REFINE
from protomer.declarations.mask import JOB as MASK
from protomer.declarations.reconstruct import JOB as RECONSTRUCT
from protomer.declarations.select import JOB as SELECT
from protomer.declarations.subtract import JOB as SUBTRACT
from protomer.declarations.symmetry_expand import JOB as EXPAND
from protomer.formats.cs import read_cs_particles
from protomer.formats.hdf5 import read_map_record, read_particles, write_particles
from protomer.formats.star import read_star_particles
from protomer.jobs.export import execute
from protomer.maps.resolution import fourier_shell_correlation
from protomer.running.job_run import Inputs, RunOptions, run_job
from protomer.symmetry.expansion import expanded
from protomer.symmetry.operator_sets import OperatorSet
from protomer.tables.particles import COLUMNS
from reconstructions import as_particles
from simulated import symmetric_dataset
from test_join import assert_same_rows
from two_parts import codes, data_set, images, subtract

NUMBER = 60


def done(folder: Path, job: Job, output: str, inputs: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """Run a job on files of the folder."""
    given = {name: tuple(str(folder / each) for each in value) if isinstance(value, tuple) else str(folder / value) if name != "symmetry"
             else value for name, value in inputs.items()}
    return run_job(job, given, settings, RunOptions(folder / output, threads=1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies of a C2 particle's images, most of the first copies and a third of the second ones in `part`, all others in its rest."""
    path = tmp_path_factory.mktemp("copies")
    copies = expanded(as_particles(symmetric_dataset("C2", NUMBER, snr=2.0), path), OperatorSet.of_group("C2"))
    worth = np.random.default_rng(3).normal(size=2 * NUMBER) - copies.columns["copy"]
    write_particles(path / "copies.h5", copies.with_columns(log_likelihood=worth))
    assert "incomplete_copies" in codes(done(path, SELECT, "part", {"particles": "copies.h5"}, keep_best=0.6))
    done(path, RECONSTRUCT, "map_copies.h5", {"particles": "copies.h5"})
    return path


def test_a_part_of_the_copies_is_reconstructed_and_both_parts_together_give_the_map_of_all(folder: Path) -> None:
    done(folder, JOIN, "all", {"particles": ("part/rest.h5", "part")})
    maps = {}
    for name, rows in (("copies.h5", 120), ("all", 120), ("part", 72)):
        if name != "copies.h5":
            assert done(folder, RECONSTRUCT, f"map_{name}", {"particles": name})["particles_in"] == rows
        record = read_map_record(folder / f"map_{name}/volume.h5")
        maps[name] = record.half_maps.a.data + record.half_maps.b.data
    assert fourier_shell_correlation(maps["all"], maps["copies.h5"]).min() > 0.999999
    assert fourier_shell_correlation(maps["part"], maps["copies.h5"])[:8].min() > 0.9


def test_a_part_of_the_copies_is_refined_locally_row_by_row(folder: Path) -> None:
    done(folder, MASK, "mask", {"volume": "map_copies.h5"})
    settings = {"rotation_prior": 3, "shift_prior": 2, "max_alignment_resolution": 20}
    done(folder, LOCAL_REFINE, "local", {"particles": "part", "volume": "map_copies.h5", "mask": "mask"}, **settings)
    given, found = read_particles(folder / "part/particles.h5"), read_particles(folder / "local/particles.h5")
    for name in ("image_uid", "copy", "half"):
        np.testing.assert_array_equal(found.columns[name], given.columns[name])
    assert found.operators.name == "C2" and np.abs(found.rotation - given.rotation).max() > 0


def test_a_part_of_the_copies_is_exported_and_read_again(folder: Path) -> None:
    given = read_particles(folder / "part/particles.h5")
    files = {"particles": folder / "part/particles.h5", "star": folder / "part.star", "cs": folder / "part.cs", "mrc": None, "volume": None}
    assert execute(Inputs(files), ExportSettings(), Call({}, {}, None)) == 0
    for again in (read_star_particles(folder / "part.star"), read_cs_particles(folder / "part.cs")):
        for name in ("stack_index", "copy", "half"):
            np.testing.assert_array_equal(again.columns[name], given.columns[name], err_msg=name)
        np.testing.assert_allclose(again.shift_A, given.shift_A, atol=1e-4)


def test_the_expansion_of_a_part_is_taken_back_to_the_best_copy_that_is_left(folder: Path) -> None:
    given = read_particles(folder / "part/particles.h5")
    summary = done(folder, EXPAND, "back", {"particles": "part"}, undo=True)
    back = read_particles(folder / "back/particles.h5")
    assert len(back) == summary["images"] == len(np.unique(given.image_uid)) and len(back.operators) == 1
    for uid, value in zip(back.image_uid, back.log_likelihood, strict=True):
        assert value == given.log_likelihood[given.image_uid == uid].max()


def test_subtraction_is_taken_back_after_select_and_join(tmp_path: Path) -> None:
    data_set(tmp_path, images(NUMBER, 0.2, True))
    subtract(tmp_path, "subtracted")
    done(tmp_path, SELECT, "some", {"particles": "subtracted"}, number=20)
    done(tmp_path, JOIN, "all", {"particles": ("some", "some/rest.h5")})
    assert_same_rows(read_particles(tmp_path / "all/particles.h5"), read_particles(tmp_path / "subtracted/particles.h5"))
    given = read_particles(tmp_path / "particles.h5")
    for name in ("some", "all"):
        run_job(SUBTRACT, {"particles": str(tmp_path / name)}, {"revert": True}, RunOptions(tmp_path / f"{name}_whole", threads=1))
        whole, row = read_particles(tmp_path / f"{name}_whole/particles.h5"), {uid: n for n, uid in enumerate(given.image_uid.tolist())}
        rows = np.array([row[uid] for uid in whole.image_uid.tolist()])
        for column in COLUMNS:
            np.testing.assert_array_equal(whole.columns[column], given.columns[column][rows], err_msg=column)
        assert whole.stacks == given.stacks
