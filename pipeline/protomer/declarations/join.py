"""join: several particle sets as one."""

from __future__ import annotations

from dataclasses import dataclass

from protomer.config.settings import Input, Job, JobSettings, setting


@dataclass(frozen=True)
class JoinSettings(JobSettings):
    """Settings of `join`."""

    duplicates: str = setting("refuse", "where an image (and symmetry copy) is in several rows: refuse; keep the first, of the set "
                                        "named first; or keep the best, of the highest log-likelihood (of sets from like jobs)",
                              choices=("refuse", "first", "best"))


JOB = Job(
    name="join",
    summary="Several particle sets as one",
    teaches="Rows stand one after the other, in the order of the sets. Stacks and optics groups that are the same become one; different "
    "optics groups of one name get names of their own. A column that a set lacks is filled, and said. Half-sets stay as they are: an "
    "image that one set has in half a and another in half b is refused, since each half's map has then seen the other's images, and the "
    "FSC between them is no gold standard. Poses are taken as they are: join sets whose maps stand in one frame (of one refinement, or "
    "brought together with `volume` or `symmetry-find`), or refine the joined set from the start. No image is read. "
    "Example: protomer join --particles good_1 --particles good_3 --output together. "
    "What select took apart comes together again: protomer join --particles selected --particles selected/rest.h5 --output all",
    inputs=(Input("particles", "particles.h5 or a job folder; once for each set, two or more", file="particles.h5", required=True,
                  repeatable=True),),
    settings=JoinSettings,
    entry="protomer.jobs.join",
)
