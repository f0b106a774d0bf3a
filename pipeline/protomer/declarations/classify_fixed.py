"""classify-fixed: several structures from one set of particles whose poses are known."""

from __future__ import annotations

from dataclasses import dataclass

from protomer.config.settings import Input, Job, JobSettings, setting


@dataclass(frozen=True)
class ClassifyFixedSettings(JobSettings):
    """Settings of `classify-fixed`."""

    classes: int = setting(2, "number of classes; with start=volumes, one for each --volume", minimum=1)
    target_resolution: float = setting(4.0, "finest detail by which classes are told apart; the pixel size is the limit", unit="A",
                                       minimum=0.5)
    epochs: int = setting(5, "first passes over all images: online EM, with new maps after each block of images, where these are many; "
                             "then passes over all of them until classes settle", minimum=0)
    start: str | None = setting(
        None, "classes begin in clusters of the images along the directions in which maps vary most (pca), by chance (random), in either "
        "half-set by itself, or as given (volumes), which the half-sets then share up to initial_low_pass; unset: volumes where there are "
        "--volume, else pca", choices=("random", "pca", "volumes"))
    similarity: float | None = setting(
        None, "share of every image that counts in all classes alike in the first epoch, falling to none over the epochs; unset: 0.5 with "
        "start=random, else 0", minimum=0.0, maximum=0.95)
    initial_low_pass: float = setting(20.0, "classes begin with no finer differences than this", unit="A", minimum=2.0)
    images_per_block: int = setting(1000, "images for each class and half-set in a block of online EM", minimum=16)
    class_change: float = setting(0.01, "settled when posteriors move by less than this share of the images in a pass", minimum=0.0,
                                  maximum=1.0)
    final_passes: int = setting(1, "passes after classes have settled", minimum=0)
    rehearse: bool = setting(
        True, "at the end, classify images made from the classes' maps, whose class is known, and state posteriors as far as these were "
        "right")
    cross_fit_folds: int | None = setting(
        None, "an image is compared with maps from the other folds of its half; 1: of the whole half, its own noise included; unset: 4 "
        "where a half has fewer than 20,000 images and the maps fit into 4 GB, else 1", minimum=1)
    half_precision: bool = setting(False, "keep the prepared images as 16-bit floats: half the memory")


JOB = Job(
    name="classify-fixed",
    summary="Classes of particles whose poses are known, told apart inside a mask",
    teaches="3D classification without alignment: poses stay as they are, so that each image is compared with one view of every class, "
    "which takes seconds where a search takes hours. Use it for what does not change poses: a subunit that is there or not, a bound "
    "factor, a domain in two places. --focus-mask says where classes may differ: everything outside is the map of all images, and drops "
    "out. Symmetry-expanded particles are welcome, with a focus mask over one copy of the place in question. Each half-set finds its "
    "classes by itself; what the two do not find alike counts as noise, and class_posterior then says that it does not know. "
    "Writes class_1/ ... with volume.h5, half maps, FSC and particles.h5 of each class, and particles.h5 and classes.csv of all. "
    "Example: protomer classify-fixed --particles consensus --mask mask.mrc --focus-mask subunit.mrc --set classes=2 --output states",
    inputs=(
        Input("particles", "particles.h5 with poses, or a job folder; symmetry-expanded ones too", file="particles.h5", required=True),
        Input("mask", "mask of the whole particle, .mrc; unset: a sphere", file="mask.mrc", alternatives=(".map",)),
        Input("focus-mask", "mask in which classes may differ, .mrc; unset: wherever --mask is", file="mask.mrc", alternatives=(".map",)),
        Input("volume", "start of each class: .mrc, volume.h5 or a job folder", file="volume.h5", alternatives=(".mrc", ".map"),
              repeatable=True),
    ),
    settings=ClassifyFixedSettings,
    entry="protomer.jobs.classify_fixed",
    ranks=True,
    cuda=True,
)
