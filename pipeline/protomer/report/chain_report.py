"""A chain's report: one page that needs no network, made from what the runs in a folder left there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from protomer.errors import InputError
from protomer.report.build import Report, filled
from protomer.report.chain_graph import Node, graph_svg
from protomer.report.excerpts import headlines_in, key_figures
from protomer.report.map_viewers import Group, read_groups, triangles_each, viewer_html
from protomer.running.chain_provenance import planned_parents, read_provenance
from protomer.running.progress import describe_seconds
from protomer.running.run_states import RunState, last_words, read_runs

REPORT_NAME = "chain_report.html"
MOST_FIGURES, MOST_FIGURE_BYTES = 3, 260_000  # of one job
_VIEWER = Path(__file__).parent / "viewer"


def write_chain_report(folder: Path, path: Path) -> Mapping[str, Any]:
    """Write the report of the runs in a folder; gives how many there are, and how many are done. Raises InputError where there is none."""
    from protomer.running.output import writing_atomically
    runs = read_runs(folder, planned_parents(folder))
    if not runs:
        raise InputError(f"{folder} holds no run", "the folder of a chain, in which each job has a folder of its own",
                         "give --folder of `protomer run`, or the folder of one job")
    page = chain_page(folder, runs, path.absolute().parent)
    with writing_atomically(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return {"runs": len(runs), "done": sum(run.state == "done" for run in runs)}


def chain_page(folder: Path, runs: Sequence[RunState], seen_from: Path) -> str:
    """The page, as HTML; seen_from: the folder it will lie in, for links to the jobs' own reports."""
    provenance = read_provenance(folder) or {}
    report = Report(f"Chain: {folder.absolute().name}", _warnings(folder, runs, provenance), _facts(folder, provenance),
                    f"{len(runs)} jobs, each in a folder of its own")
    _headlines(report, runs)
    report.section("The chain", "Each job, and what it reads: arrows that others imply are left out. A box leads to its job.")
    report.markup(f"<figure>{graph_svg([_node(run) for run in runs])}</figure>")
    report.table(("job", "what", "state", "rows", "resolution (Å)", "time", "warnings"), [_row(run) for run in runs])
    groups = {run.name: read_groups(run.name, run.folder, (run.summary or {}).get("outputs", ())) for run in runs}
    most = triangles_each([group for of_run, _ in groups.values() for group in of_run])
    for run in runs:
        _job(report, folder, run, groups[run.name], most, seen_from)
    scripts = {name: (_VIEWER / file).read_text(encoding="utf-8") for name, file in (("three", "three.min.js"), ("viewer", "viewer.js"))}
    return report.html("chain.html", **scripts)


def _warnings(folder: Path, runs: Sequence[RunState], provenance: Mapping[str, Any]) -> list[dict[str, str]]:
    """Jobs that are not done first, then what was not as the lock file says, then the warnings of each job."""
    found = [{"code": run.state, "text": f"{run.name}: {_state_in_words(run)}. {last_words(folder, run.name)}".rstrip()}
             for run in runs if run.state != "done"]
    found += [{"code": "differs_from_lock", "text": f"not the environment of protomer.lock: {line}"}
              for line in provenance.get("differs_from_lock", ())]
    return found + [{"code": warning["code"], "text": f"{run.name}: {warning['text']}"} for run in runs for warning in run.warnings]


def _state_in_words(run: RunState) -> str:
    failed = run.last("failed") or {}
    words = {"waiting": "has not begun", "refused": "was refused", "running": "has not ended: it runs still, or was killed",
             "stopped": "was stopped by a signal; the same `protomer run` goes on from its checkpoint",
             "failed": f"failed: {failed.get('error', '')} {failed.get('text', '')}".rstrip()}
    return words.get(run.state, run.state)


def _facts(folder: Path, provenance: Mapping[str, Any]) -> dict[str, object]:
    facts: dict[str, object] = {"folder": folder.absolute()}
    if provenance:
        machine, started = provenance["environment"]["machine"], provenance["started"]
        facts |= {"chain": f"{provenance['chain']['path']} (SHA-256 {provenance['chain']['sha256'][:16]})",
                  "started": ", ".join(started[-3:]) + (f" ({len(started)} times)" if len(started) > 3 else ""),
                  "computed on": f"{machine['cpu']}, {machine['threads']} threads",
                  "to repeat it": f"protomer verify {folder.absolute()} --commands prints every command line"}
    return facts


def _headlines(report: Report, runs: Sequence[RunState]) -> None:
    done = sum(run.state == "done" for run in runs)
    report.headline("jobs done", f"{done} of {len(runs)}")
    reached = [(run.resolution_A, run.name) for run in runs if run.resolution_A is not None]
    if reached:
        best = min(reached)
        report.headline("finest resolution", f"{best[0]:.2f} Å", f"corrected FSC at 0.143, {best[1]}")
    report.headline("time", describe_seconds(sum(run.seconds for run in runs)), "of all jobs together")
    report.headline("warnings", str(sum(len(run.warnings) for run in runs)))


def _node(run: RunState) -> Node:
    reached = f", {run.resolution_A:.2f} Å" if run.resolution_A is not None else ""
    return Node(run.name, (run.job or "not begun") + (reached if run.state == "done" else f", {run.state}"), run.state, run.parents)


def _row(run: RunState) -> tuple[object, ...]:
    summary = run.summary or {}
    rows = summary.get("particles_out", summary.get("rows_out"))
    resolution = None if run.resolution_A is None else f"{run.resolution_A:.2f}"
    return run.name, run.job, run.state, rows, resolution, describe_seconds(run.seconds), len(run.warnings) or None


def _job(report: Report, folder: Path, run: RunState, groups: tuple[Sequence[Group], str], most_triangles: int, seen_from: Path) -> None:
    """One job: what its own report says first, its maps, its figures."""
    report.markup(f'<div class="job" id="job-{run.name}"></div>')
    report.section(f"{run.name} ({run.job or 'not begun'})")
    if run.state != "done":
        report.text(f"This job {_state_in_words(run)}.")
    for warning in run.warnings:
        report.text(f"Warning: {warning['text']}")
    page_file = run.folder / "report.html"
    page = page_file.read_text(encoding="utf-8", errors="replace") if page_file.is_file() else ""
    said = headlines_in(page)
    if said:
        report.table(("what", "value", "note"), said)
    _maps(report, groups, most_triangles)
    figures, left_out = key_figures(page, MOST_FIGURES, MOST_FIGURE_BYTES)
    for number, figure in enumerate(figures, 1):
        report.markup(filled("excerpt.html", svg=figure.renamed(f"{run.name}-{number}"), caption=f"{run.name}: {figure.caption}"))
    if page:
        link = quote(str(Path(page_file.absolute()).relative_to(seen_from))) if page_file.absolute().is_relative_to(seen_from) else ""
        report.markup(filled("link.html", href=link, path=str(page_file), left_out=left_out))


def _maps(report: Report, groups: tuple[Sequence[Group], str], most_triangles: int) -> None:
    """A viewer for each group of maps; a map that cannot be read is said."""
    of_run, trouble = groups
    for group in of_run:
        try:
            report.markup(viewer_html(group, most_triangles))
        except InputError as error:
            trouble = error.found
    if trouble:
        report.text(f"Not all maps can be shown: {trouble}")
