"""classify: several structures from one set of particles."""

from __future__ import annotations

from dataclasses import dataclass

from protomer.config.settings import Input, Job, setting
from protomer.declarations.engine import EngineSettings

DECOYS = ("sphere", "shell", "ellipsoid", "noise", "phase-randomised")


@dataclass(frozen=True)
class ClassifySettings(EngineSettings):
    """Settings of `classify`."""

    box: int = setting(128, "Fourier-crop the images to this box, where they are larger", unit="px", minimum=16)
    initial_low_pass: float = setting(20.0, "start volumes are low-passed to this resolution; halves share what is coarser", unit="A",
                                      minimum=2.0)
    max_alignment_resolution: float | None = setting(
        None, "finest resolution used for alignment; unset: as far as the best class's FSC allows", unit="A"
    )
    hard: bool = setting(False, "each image counts in its likeliest class alone; off: in every class by its posterior")
    null_class: bool = setting(
        True, "noise alone, or something as strong as the structures that is none of them, is one more thing that an image may show, once "
        "most images clearly hold a particle; images that are likeliest to be that are in class 0"
    )
    random_iterations: int = setting(
        5, "where volumes are the same: iterations in which images lie in classes drawn at random, which tells them apart", minimum=1
    )
    final_iterations: int = setting(2, "iterations after convergence", minimum=0)
    class_change: float = setting(
        0.05, "converged when less than this share of the images change class, counted by their posteriors, and the resolution stays",
        minimum=0.0, maximum=1.0
    )
    shift_search_extent: float | None = setting(
        None, "largest shift tried by the global search; unset: 1/16 of the box", unit="A", minimum=0.0
    )
    batch_per_class: int | None = setting(
        1000, "where there are at least twice as many images, classes are first found in so many for each, drawn at random, and then in "
        "all; none: all from the start", minimum=1
    )
    replicates: int = setting(1, "runs from so many seeds, to say how stable each image's class is; the maps are those of the first seed",
                              minimum=1)
    rehearse: bool = setting(True, "classify images of known class, made from the maps, to say how far posteriors may be believed")


JOB = Job(
    name="classify",
    summary="Classes and poses of a mixture of structures and junk, from one volume for each",
    teaches="Heterogeneous refinement: every particle is compared with every class's map of its own half-set, and counts in each class by "
    "the posterior probability that it shows it. Give one --volume for each class; the same volume twice, for classes that differ in what "
    "is not known yet: their images are then drawn at random for the first iterations. Junk is drawn off by decoys, which are made to the "
    "grey scale of the volumes and need no file: --volume sphere:120 (diameter in Å), shell:120,80, ellipsoid:150,100,80, noise, or "
    "phase-randomised:VOLUME (as strong at each resolution and about as wide as the volume, with other phases). "
    "Writes class_1/ ... with volume.h5, half maps and FSC of each class, and one particles.h5 with class_number and class_posterior; "
    "classes.csv has all posteriors of each image. Class 0 are images of none of them: noise, broken particles, ice. Trust a class by its "
    "FSC and its map, and read the class flow: what is still moving has not been told apart. "
    "Example: protomer classify --particles imported --volume good.mrc --volume other.mrc --volume sphere:120 --volume noise "
    "--output classes",
    inputs=(
        Input("particles", "particles.h5 or a job folder", file="particles.h5", required=True),
        Input(
            "volume",
            "one for each class: .mrc, volume.h5 or a job folder; or a decoy in a word: sphere:120, shell:120,80, ellipsoid:150,100,80, "
            "noise, phase-randomised:VOLUME",
            file="volume.h5",
            alternatives=(".mrc", ".map"),
            required=True,
            repeatable=True,
            words=DECOYS,
        ),
    ),
    settings=ClassifySettings,
    entry="protomer.jobs.classify",
    ranks=True,
    cuda=True,
)
