"""select: the rows of a particle set that pass criteria."""

from __future__ import annotations

from dataclasses import dataclass

from protomer.config.settings import Input, Job, JobSettings, setting


@dataclass(frozen=True)
class SelectSettings(JobSettings):
    """Settings of `select`."""

    min_posterior: float | None = setting(None, "keep rows whose class has at least this probability (class_posterior)", minimum=0.0,
                                          maximum=1.0)
    min_pose_posterior: float | None = setting(None, "keep rows whose pose is right with at least this probability", minimum=0.0,
                                               maximum=1.0)
    half: str | None = setting(None, "keep one half-set: a (1 in RELION, 0 in cryoSPARC), or b", choices=("a", "b"))
    copy: str | None = setting(None, "keep these symmetry copies, such as 0 or 0,2-4; 0 is the image as it was")
    optics: str | None = setting(None, "keep these optics groups: names, or patterns such as grid2*, with commas between")
    micrograph: str | None = setting(None, "keep these micrographs: names, or patterns such as *_00[1-5]*.mrc, with commas between")
    defocus_min: float | None = setting(None, "keep rows of at least this defocus, the mean of both directions", unit="A")
    defocus_max: float | None = setting(None, "keep rows of at most this defocus", unit="A")
    min_log_likelihood: float | None = setting(None, "keep rows of at least this log-likelihood")
    max_log_likelihood: float | None = setting(None, "keep rows of at most this log-likelihood")
    max_rotation_change: float | None = setting(None, "with --reference: keep rows whose rotation differs by at most this", unit="deg",
                                                minimum=0.0, maximum=180.0)
    max_shift_change: float | None = setting(None, "with --reference: keep rows whose shift differs by at most this", unit="A", minimum=0.0)
    match: str = setting("auto", "with, without: which rows are the same: those of one image, or of one image and copy; auto: copy where "
                                 "both sets are symmetry-expanded", choices=("auto", "image", "copy"))
    keep_best: float | None = setting(None, "of the rows that pass all else, keep this share: those of the highest log-likelihood",
                                      minimum=0.0, maximum=1.0)
    number: int | None = setting(None, "of the images that pass all else, keep this many at random, with all their copies that passed; "
                                       "the same ones whatever the order of rows, and all of them among those of a larger number",
                                 minimum=1)
    one_per_image: str | None = setting(None, "of an expanded set, keep one copy of each image, of those that pass all else, and make it "
                                              "an image again: that of the highest log-likelihood, or the original one",
                                        choices=("best", "original"))
    min_distance: float | None = setting(None, "of particles nearer to each other than this on one micrograph keep one: the others were "
                                               "picked twice; copies of one image do not count", unit="A", minimum=0.0)
    duplicate_kept: str = setting("best", "min_distance: which stays: that of the highest log-likelihood, or the first of its stack",
                                  choices=("best", "first"))
    duplicate_copies: bool = setting(False, "min_distance: copies of one image count as well, where their centres lie in one place")
    micrograph_pixel_size: float | None = setting(None, "min_distance: pixel size in which coordinates are given; unset: as the file says, "
                                                        "or that of the stacks", unit="A", minimum=0.01)
    rebalance: bool = setting(False, "thin out crowded viewing directions (of the group of --symmetry)")
    crowding: float = setting(1.5, "rebalance: most views of one direction, in units of an even coverage", minimum=0.1, maximum=100.0)
    invert: bool = setting(False, "keep the rows that would be dropped, and drop the others")
    rest: bool = setting(True, "write what is dropped as rest.h5")


JOB = Job(
    name="select",
    summary="Keep the particles that pass criteria: class, posterior, pose change, position, viewing direction, another set",
    teaches="All criteria must be passed (--invert turns the outcome over). The report shows how many rows each would drop by itself, how "
    "many it dropped after those before it, and where thresholds lie in the histograms; what is dropped is in rest.h5, so nothing is "
    "lost, and `join` puts the two together again. Half-sets stay as they are: a particle that changed its half would have been seen by "
    "the other half's map. No image is read. Log-likelihoods compare rows of one job only, and grow with the signal: the best of a set "
    "are also those of high defocus and thin ice. "
    "Example: protomer select --particles classified --class 1,3 --min-posterior 0.8 --output good. "
    "A pose that a refinement has not settled: protomer select --particles refined --reference earlier --symmetry C2 "
    "--max-rotation-change 10deg --output settled. What another program kept: --with kept/particles.h5; what it threw away: --without. "
    "Particles that were picked twice: --min-distance 80A. Views so uneven that the map is smeared (protomer orientations says): "
    "--rebalance --symmetry C2. Back from an expanded set: --one-per-image best.",
    inputs=(
        Input("particles", "particles.h5 or a job folder", file="particles.h5", required=True),
        Input("class", "keep these classes, from 1, such as 1,3 or 2-4", file=None, repeatable=True),
        Input("reference", "the same particles as another job left them: for max_rotation_change, max_shift_change",
              file="particles.h5"),
        Input("symmetry", "point group of the map, of which a rotation may have gone to a mate: changes count to the nearest one",
              file=None, default="C1"),
        Input("axes", "convention of the group's axes: relion, cryosparc or scipy", file=None, default="relion"),
        Input("with", "keep rows that are in this set too; may be repeated: in all of them", file="particles.h5", repeatable=True),
        Input("without", "keep rows that are not in this set; may be repeated: in none of them", file="particles.h5", repeatable=True),
    ),
    settings=SelectSettings,
    entry="protomer.jobs.select",
)
