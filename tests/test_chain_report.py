"""A chain's report: its graph, what it takes from jobs, and the page itself in a browser: nothing in the console, no blank figure."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from protomer.errors import InputError
from protomer.formats.mrc import write_volume
from protomer.maps.volumes import Volume
from protomer.report.build import Report
from protomer.report.chain_graph import Node, graph_svg, needed_parents, rows_of
from protomer.report.chain_report import write_chain_report
from protomer.report.excerpts import figures_in, headlines_in, key_figures
from protomer.report.figures import histogram_figure, noise_figure
from protomer.running.run_states import read_runs

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

#: run in the page once all is drawn: which colours each picture has, at how many of its points something was drawn
LOOK = """<script>
addEventListener("load", async () => {
  while (document.body.dataset.surfaces !== "drawn") await new Promise(done => setTimeout(done, 20));
  const canvas = document.createElement("canvas"), told = [];
  const see = (picture, width, height) => {
    canvas.width = width; canvas.height = height;
    const page = canvas.getContext("2d", {willReadFrequently: true});
    page.drawImage(picture, 0, 0, width, height);
    const data = page.getImageData(0, 0, width, height).data, colours = new Set();
    let drawn = 0;
    for (let at = 0; at < data.length; at += 4) if (data[at + 3]) {
      drawn++;
      colours.add(data[at] << 16 | data[at + 1] << 8 | data[at + 2]);
    }
    return {drawn: drawn / (width * height), colours: colours.size};
  };
  for (const shown of document.querySelectorAll(".viewer canvas, .viewer img")) {
    told.push({kind: shown.tagName, ...see(shown, 200, 200)});
  }
  for (const box of document.querySelectorAll(".viewer input:not(:checked)")) {
    box.click();
    await new Promise(done => setTimeout(done, 100));
    told.push({kind: "SWITCHED", ...see(box.closest(".viewer").querySelector("canvas"), 200, 200)});
  }
  for (const svg of document.querySelectorAll("figure > svg")) {
    const image = new Image(), copy = svg.cloneNode(true);
    copy.prepend(document.querySelector("style").cloneNode(true));
    copy.setAttribute("width", 400); copy.setAttribute("height", 300);
    image.src = "data:image/svg+xml," + encodeURIComponent(new XMLSerializer().serializeToString(copy));
    await image.decode();
    told.push({kind: "SVG", ...see(image, 400, 300)});
  }
  const seen = document.createElement("pre");
  seen.id = "seen";
  seen.textContent = JSON.stringify(told);
  document.body.append(seen);
});
</script></body>"""


def make_run(folder: Path, name: str, job: str, inputs: dict[str, object] | None = None, outputs: tuple[str, ...] = (),
             warnings: tuple[str, ...] = (), **summary: object) -> Path:
    """The folder of a finished run as jobs leave it, but for its results."""
    run = folder / name
    run.mkdir(parents=True, exist_ok=True)
    told = {key: {"path": str(value)} if isinstance(value, Path) else value for key, value in (inputs or {}).items()}
    (run / "settings.yaml").write_text(yaml.safe_dump({"job": job, "settings": {}, "provenance": {
        "version": "0", "backend": "cpu", "inputs": told}}))
    written = [{"code": "odd", "text": text} for text in warnings]
    (run / "summary.json").write_text(json.dumps({"job": job, "status": "done", "version": "0", "warnings": written, "inputs": told,
                                                  "outputs": {at: {} for at in outputs}, "seconds": 2.0, **summary}))
    events = [{"event": "begin", "job": job}, *({"event": "warning", **warning} for warning in written), {"event": "done"}]
    (run / "log.jsonl").write_text("".join(json.dumps({"time": f"2026-01-01T00:00:0{at}+00:00", **event}) + "\n"
                                           for at, event in enumerate(events)))
    return run


def blob(radius: float, shift: int = 0) -> Volume:
    """A soft ball in a box of 24."""
    z, y, x = np.indices((24,) * 3) - 12
    data = np.clip(radius - np.sqrt(z * z + y * y + (x - shift) ** 2), 0, 1)
    return Volume(data.astype(np.float32), 3.0)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs, the second with maps and a report of its own, the third failed."""
    folder = tmp_path_factory.mktemp("chain & <co>")
    make_run(folder, "data", "import", rows_out=40)
    names = ("map.mrc", "half_a.mrc", "half_b.mrc", "mask.mrc", "cut_off.mrc")
    run = make_run(folder, "fine", "refine", {"particles": folder / "data/particles.h5"}, names, ("odd <angles>",),
                   resolution_A={"corrected": 6.5}, particles_out=40)
    for name, volume in zip(names, (blob(7), blob(7), blob(6.5, 1), blob(10), blob(3)), strict=True):
        write_volume(run / name, volume)
    report = Report("Refinement")
    report.headline("resolution", "6.50 Å", "corrected & more")
    report.figure(histogram_figure(np.arange(30.0), "turn (deg)"), "How far they turned.")
    report.figure(noise_figure(np.ones((1, 12)), ["one"], 24, 3.0), "Fourier shell correlation, or nearly.")
    (run / "report.html").write_text(report.html())
    bad = make_run(folder, "bad", "mask", {"volume": run / "map.mrc"})
    (bad / "summary.json").unlink()
    with (bad / "log.jsonl").open("a") as log:
        log.write(json.dumps({"time": "2026-01-01T00:00:09+00:00", "event": "failed", "error": "OSError", "text": "no <room>"}) + "\n")
    return folder


def test_a_graph_s_rows_follow_what_waits_for_what_and_implied_arrows_are_left_out() -> None:
    nodes = [Node("a", "import", "done", ()), Node("b", "refine", "done", ("a",)), Node("c", "mask", "done", ("a", "b")),
             Node("d & e", "x", "failed", ("b",))]
    assert rows_of(nodes) == [["a"], ["b"], ["c", "d & e"]]
    assert needed_parents(nodes[2], nodes) == ["b"]
    svg = graph_svg(nodes)
    assert svg.count('marker-end="url(#tip)"') == 3 and "d &amp; e" in svg and 'class="failed"' in svg


def test_runs_come_in_the_order_in_which_they_read_one_another_and_those_planned_are_there_too(chain: Path) -> None:
    runs = read_runs(chain, {"data": (), "fine": ("data",), "later": ("fine",)})
    assert [(run.name, run.state, run.parents) for run in runs] == [
        ("data", "done", ()), ("fine", "done", ("data",)), ("later", "waiting", ("fine",)), ("bad", "failed", ("fine",))]
    assert runs[1].resolution_A == 6.5 and [w["text"] for w in runs[1].warnings] == ["odd <angles>"]


def test_headlines_and_figures_are_taken_from_a_job_s_report_the_fsc_first_and_ids_kept_apart(chain: Path) -> None:
    page = (chain / "fine/report.html").read_text()
    assert headlines_in(page) == [("resolution", "6.50 Å", "corrected & more")]
    assert [figure.caption for figure in figures_in(page)] == ["How far they turned.", "Fourier shell correlation, or nearly."]
    kept, left_out = key_figures(page, 1, 10**6)
    assert [figure.caption for figure in kept] == ["Fourier shell correlation, or nearly."] and left_out == 1
    renamed = kept[0].renamed("fine-1")
    ids = set(re.findall(r'\bid="([^"]+)"', renamed))
    assert ids and all(name.startswith("fine-1-") for name in ids)
    assert all(name in ids for name in re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', renamed) for name in name if name)
    assert key_figures(page, 9, 100) == ([], 2)


def test_the_page_says_warnings_first_shows_every_map_and_needs_no_network(chain: Path) -> None:
    write_chain_report(chain, chain / "page.html")
    page = (chain / "page.html").read_text()
    assert page.index("bad: failed: OSError no &lt;room&gt;") < page.index("fine: odd &lt;angles&gt;") < page.index('class="graph"')
    for words in ("half a at grey", "mask at grey 0.5", "6.50", "2 of 3", 'href="fine/report.html"', "print"):
        assert words in page
    links = re.findall(r'(?:src|href)="([^"]*)"', page.partition("<script>")[0])
    assert links and all(link.startswith(("data:", "#", "fine/", "data/")) for link in links)
    told = json.loads(re.findall(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)[0])
    assert len(told["surfaces"]) == 4 and told["surfaces"][3]["opacity"] < 1


def test_a_map_that_cannot_be_read_and_a_job_without_report_are_said_and_the_rest_is_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path, "one", "refine", outputs=("map.mrc",))
    write_volume(run / "map.mrc", blob(7))
    whole = (run / "map.mrc").read_bytes()
    (run / "map.mrc").write_bytes(whole[:-100])
    write_chain_report(tmp_path, tmp_path / "page.html")
    assert "Not all maps can be shown" in (tmp_path / "page.html").read_text()


def test_report_writes_into_the_folder_and_refuses_one_without_runs(chain: Path, tmp_path: Path) -> None:
    from protomer.command_line import job_command
    from protomer.declarations.report import JOB
    with pytest.raises(InputError, match="holds no run"):
        write_chain_report(tmp_path, tmp_path / "page.html")
    assert job_command(JOB).main([str(chain)], standalone_mode=False) == 0 and (chain / "chain_report.html").is_file()


@pytest.mark.skipif(BROWSER is None, reason="no Chromium to open the page with")
@pytest.mark.parametrize("width", [1000, 390])
def test_the_page_opens_in_a_browser_without_an_error_and_nothing_on_it_is_blank(chain: Path, tmp_path: Path, width: int) -> None:
    write_chain_report(chain, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    (tmp_path / "looked_at.html").write_text(page.replace("</body>", LOOK))
    done = subprocess.run([str(BROWSER), "--headless", "--no-sandbox", "--enable-unsafe-swiftshader", "--enable-logging=stderr",
                           f"--user-data-dir={tmp_path / 'browser'}", f"--window-size={width},900", "--virtual-time-budget=30000",
                           "--dump-dom", f"file://{tmp_path / 'looked_at.html'}"], capture_output=True, text=True, timeout=120)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line and "GPU stall due to ReadPixels" not in line]
    assert console == []
    found = json.loads(re.findall(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)[0])
    kinds = [picture["kind"] for picture in found]
    assert kinds.count("CANVAS") == kinds.count("IMG") == 1 and kinds.count("SWITCHED") == 3 and kinds.count("SVG") == 3
    assert all(picture["drawn"] > 0.02 for picture in found), found
    assert all(picture["colours"] > (1 if picture["kind"] == "SVG" else 10) for picture in found), found
    turned, still = (next(p["drawn"] for p in found if p["kind"] == kind) for kind in ("CANVAS", "IMG"))
    assert turned == pytest.approx(still, rel=0.25)
