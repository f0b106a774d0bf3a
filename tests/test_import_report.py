"""The report of an import: what it says and how much it reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from protomer.tables.import_report import examples, optics_rows
from stack_files import BOX, noise_images, plain_rows, write_data_set
from test_import import ANGLES, run_import


def test_the_report_says_what_came_in_what_was_left_out_and_why(tmp_path: Path) -> None:
    images = noise_images(12)
    images[3] = 7.0
    rows = [{**row, **ANGLES, "rlnOriginXAngst": 0, "rlnOriginYAngst": 0} for row in plain_rows(12)]
    summary, particles = run_import(tmp_path, {"star": write_data_set(tmp_path, rows, images)}, bad_images="reject")
    page = (tmp_path / "imported" / "report.html").read_text()
    assert page.count("<svg") == 3 and "Viewing directions" in page and "defocus (µm)" in page
    for text in ("1 of 12 rows were left out", "left out: the image is constant", "of 12 rows of the table",
                 " + ".join(str(n) for n in summary["half_sets"])):
        assert text in page
    assert page.index("1 of 12 rows were left out") < page.index("Examples, each in its own greys")
    assert optics_rows(particles)[0][1:5] == (11, *summary["half_sets"], BOX) and summary["warnings"][0]["code"] == "rejected"


def test_the_report_reads_six_images_however_many_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, particles = run_import(tmp_path, {"star": write_data_set(tmp_path, plain_rows(40), noise_images(40))})
    read: list[int] = []
    monkeypatch.setattr("protomer.tables.import_report.read_images", lambda p, rows, readers: read.extend(rows) or noise_images(len(rows)))
    examples(particles)
    assert read == [0, 7, 15, 23, 31, 39]


def test_a_table_of_one_particle_has_a_report(tmp_path: Path) -> None:
    table = write_data_set(tmp_path, plain_rows(2), noise_images(2))
    _, particles = run_import(tmp_path, {"star": table})
    assert len(examples(particles.take(np.array([1]))).axes) == 1
