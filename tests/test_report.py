"""Reports: one file without outside parts, text escaped, figures drawn alike each time and true to their data."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from protomer.maps.fsc_curves import FscSet
from protomer.maps.resolution import shell_resolution_A
from protomer.maps.sharpening import GuinierFit
from protomer.maps.volumes import Volume
from protomer.report import figures
from protomer.report.build import Report
from protomer.report.drawing import as_png, as_svg
from protomer.report.pictures import mollweide
from protomer.tables.views import viewing_directions


def example_fsc() -> FscSet:
    shell = np.arange(33)
    curve = 1 / (1 + np.exp((shell - 18) / 2))
    return FscSet(shell, shell_resolution_A(64, 1.5), curve**2, curve**1.5, curve, np.where(shell < 15, curve, 0.02), curve,
                  "by rule: low-pass 15 Å", 15, 64, 1.5)


def example_figures() -> dict[str, object]:
    rng = np.random.default_rng(0)
    volume = Volume(rng.standard_normal((24, 24, 24)).astype(np.float32), 2.0)
    mask = Volume((np.abs(volume.data) > 0.5).astype(np.float32), 2.0)
    s2 = (np.arange(33) / 96) ** 2
    return {
        "fsc": figures.fsc_figure(example_fsc()), "slices": figures.slices_figure(volume, mask),
        "projections": figures.projections_figure(volume),
        "orientations": figures.orientation_figure(Rotation.random(500, random_state=1).as_quat()),
        "poses": figures.pose_change_figure(np.sort(rng.random((4, 3))), np.sort(rng.random((4, 3)))),
        "noise": figures.noise_figure(np.ones((2, 20)), ["one", "two"], 38, 2.0),
        "resolution": figures.resolution_figure({"corrected": [np.inf, 12, 8.5], "masked": [15, 11, 8]}),
        "guinier": figures.guinier_figure(GuinierFit(s2, -40 * s2, np.where(s2 < 0.08, -45 * s2, -np.inf), 6, 20, 180.0, 0.0)),
        "histogram": figures.histogram_figure(rng.random(100), "rotation (deg)", 0.8, "extent"),
    }


class Tags(HTMLParser):
    """Collects what a page refers to, and whether its tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]


def test_a_report_is_one_file_that_needs_no_network_and_no_script() -> None:
    report = Report("Refinement", facts={"mask": "by rule"})
    for name, figure in example_figures().items():
        report.figure(figure, name)
    page = report.html()
    parsed = Tags()
    parsed.feed(page)
    assert parsed.tags.count("svg") == 9 and "script" not in parsed.tags and "link" not in parsed.tags
    assert all(link.startswith(("#", "data:")) for link in parsed.links)
    assert not re.findall(r"url\((?!#)", page)
    assert 'name="color-scheme" content="light dark"' in page


def test_warnings_come_first_and_text_is_never_read_as_html() -> None:
    report = Report("A <b> title", [{"code": "small", "text": "only 3 < 4 & <script>alert(1)</script>"}], {"name": "<i>"})
    report.headline("resolution", "6.7 Å", "corrected")
    report.section("Poses & more", "first <paragraph>")
    report.table(["a", "b"], [[1, 2.34567], [None, "<td>"]], "caption")
    page = report.html()
    assert "<script" not in page and "&lt;script&gt;" in page and "A &lt;b&gt; title" in page
    assert page.index("1 warning") < page.index("6.7 Å") < page.index("Poses &amp; more") < page.index("2.346") < page.index("&lt;td&gt;")
    assert "No warnings" not in page and "No warnings" in Report("Calm").html()


def test_a_table_with_a_short_row_is_refused() -> None:
    with pytest.raises(ValueError, match="2 values"):
        Report("x").table(["a", "b"], [[1]])


def test_every_figure_is_well_formed_takes_the_colour_of_the_page_and_is_drawn_alike_each_time() -> None:
    first, again = ({name: as_svg(figure, name) for name, figure in example_figures().items()} for _ in range(2))
    for name, svg in first.items():
        ElementTree.fromstring(svg)
        assert "currentColor" in svg and "#010203" not in svg, name
        assert svg == again[name], name


def test_figures_can_be_pictures_too() -> None:
    assert as_png(figures.fsc_figure(example_fsc())).startswith(b"\x89PNG")


def test_the_fsc_figure_names_mask_thresholds_and_resolutions() -> None:
    svg = as_svg(figures.fsc_figure(example_fsc()), "fsc")
    for text in ("by rule: low-pass 15 Å", "0.143", "0.5", "unmasked", "spherical", "masked", "corrected", "phases random from 6.40 Å"):
        assert text in svg
    assert f"corrected: {example_fsc().resolution_A_at('corrected'):.2f} Å" in svg
    assert "at 0.143" in figures.fsc_caption(example_fsc())


def test_an_fsc_that_reaches_nothing_is_drawn_and_said() -> None:
    zero = np.r_[1.0, np.zeros(32)]
    fsc = FscSet(np.arange(33), shell_resolution_A(64, 1.5), *[zero] * 5, "none", 1, 64, 1.5)
    assert "corrected: not reached" in as_svg(figures.fsc_figure(fsc), "fsc")


def test_viewing_directions_are_the_image_normals_in_the_map() -> None:
    rotations = Rotation.random(50, random_state=2)
    np.testing.assert_allclose(viewing_directions(rotations.as_quat()), rotations.apply([0, 0, 1]), atol=1e-12)
    tilted = Rotation.from_euler("ZYZ", [30, 70, 11], degrees=True).as_quat()[None]
    rot, tilt = np.radians(30), np.radians(70)
    expected = [np.cos(rot) * np.sin(tilt), np.sin(rot) * np.sin(tilt), np.cos(tilt)]
    np.testing.assert_allclose(viewing_directions(tilted)[0], expected, atol=1e-12)


def test_the_mollweide_map_keeps_areas() -> None:
    direction = np.random.default_rng(0).standard_normal((200_000, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    across, up = mollweide(direction)
    assert np.all((across / 2) ** 2 + up**2 < 1 + 1e-6)
    for low, high in ((-0.9, -0.5), (-0.1, 0.1), (0.6, 0.95)):
        strip = np.mean((up > low) & (up < high))
        area = sum(np.sqrt(1 - u * u) for u in np.linspace(low, high, 2001)) / 2001 * (high - low) * 4 / (2 * np.pi)
        assert strip == pytest.approx(area, rel=0.03)


def test_a_picture_of_a_constant_map_and_empty_changes_do_not_fail() -> None:
    as_svg(figures.slices_figure(Volume(np.zeros((8, 8, 8), np.float32), 1.0)), "x")
    as_svg(figures.pose_change_figure(np.zeros((0, 3)), np.zeros((0, 3))), "x")
    as_svg(figures.histogram_figure(np.full(5, np.nan), "x"), "x")


def test_matplotlib_is_imported_only_when_a_figure_is_drawn() -> None:
    code = "import sys, protomer.report.build, protomer.report.figures; sys.exit('matplotlib' in sys.modules or 'jinja2' in sys.modules)"
    paths = [path for path in sys.path if path]
    assert subprocess.run([sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}; {code}"], check=False).returncode == 0
