"""report: one page about all runs in a folder."""

from __future__ import annotations

from dataclasses import dataclass

from protomer.config.settings import Input, Job, JobSettings, setting


@dataclass(frozen=True)
class ReportSettings(JobSettings):
    """Where the page goes."""

    page: str = setting("chain_report.html", "file to write; without a folder: in the folder that is reported on")


JOB = Job(
    name="report", summary="One page about a whole chain: its graph, key numbers, figures, and maps that turn under the mouse",
    teaches="Writes chain_report.html into the folder: warnings of all jobs first, the chain as a graph, and for each job its key numbers, "
            "its figures and its maps as surfaces, with half maps and masks to switch on. The page is one file that needs no network; "
            "where a browser cannot draw in three dimensions, and in print, it shows still pictures. `protomer run` makes it at the end of "
            "a chain; give this command for one that still runs, or for any folder that holds runs. "
            "Example: protomer report demo",
    inputs=(Input("folder", "folder of a chain, or of one run", required=True, positional=True),),
    settings=ReportSettings, entry="protomer.jobs.report", keeps_folder=False)
