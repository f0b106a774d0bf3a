"""ab-initio: volumes from particles alone."""

from __future__ import annotations

from dataclasses import dataclass

from protomer.config.settings import Input, Job, JobSettings, setting


@dataclass(frozen=True)
class AbInitioSettings(JobSettings):
    """Settings of `ab-initio`."""

    classes: int = setting(1, "how many volumes; more than one sorts the images too, such as into good ones and junk", minimum=1,
                           maximum=100)
    initial_resolution: float = setting(35.0, "resolution at which volumes begin", unit="A", minimum=5.0)
    final_resolution: float = setting(12.0, "resolution at which they end; finer detail is the work of refine", unit="A", minimum=2.0)
    similarity: float = setting(
        0.1, "share of each image that counts in all classes alike at the start, annealed to none: classes then begin in one frame",
        minimum=0.0, maximum=1.0
    )
    non_negative: bool = setting(True, "volumes have no negative density while they are found")
    centre: bool = setting(True, "move each volume's centre of mass to the box centre, as far as the point group leaves it free")
    starts: int = setting(5, "attempts from other random poses; the one that makes the images most probable is gone on with", minimum=1)
    batch_first: int = setting(90, "images per class and iteration at first, rounded up to 32", minimum=32)
    batch_last: int = setting(300, "images per class and iteration before the fine steps, which take four times as many; rounded up to 32",
                              minimum=32)
    shift_search_extent: float | None = setting(None, "largest shift tried; unset: 1/16 of the box", unit="A", minimum=0.0)


JOB = Job(
    name="ab-initio",
    summary="One or more low-resolution volumes from particles alone, without any model",
    teaches="Stochastic expectation-maximisation: poses drawn at random, then small batches of images, each of which "
    "counts at all poses and "
    "in all classes by its posterior, while the resolution grows from 35 to 12 Å. Several attempts are made, and the likeliest is "
    "gone on with. The hand is not known: a volume and its mirror image explain the images equally well; look for a right-handed "
    "helix in a finer map. A --symmetry that the particle does not have yields a volume that looks symmetric all the same: begin with"
    " C1, and let `protomer symmetry-find` say. With several classes junk often gathers in one of them; give the good ones to "
    "`classify`, with decoys. Writes class_1/ ... with volume.h5 and map.mrc, made of all images: there are no half maps and no "
    "resolution is claimed, for half-sets are neither used nor changed here; refine measures. particles.h5 holds each image's "
    "likeliest class, its posterior and the pose in it. Example: protomer ab-initio --particles imported --output abinitio, then "
    "protomer refine --particles abinitio --volume abinitio/class_1 --output refined",
    inputs=(
        Input("particles", "particles.h5 or a job folder", file="particles.h5", required=True),
        Input("symmetry", "point group: Cn, Dn, T, O, I, I1 to I4", default="C1"),
        Input("axes", "how the axes of the group lie: relion, cryosparc, scipy", default="relion"),
    ),
    settings=AbInitioSettings,
    entry="protomer.jobs.ab_initio",
    ranks=True,
    cuda=True,
)
