"""variability: linear modes in which a particle varies, at known poses, and each particle's place on them."""

from __future__ import annotations

from dataclasses import dataclass

from protomer.config.settings import Input, Job, JobSettings, setting


@dataclass(frozen=True)
class VariabilitySettings(JobSettings):
    """Settings of `variability`."""

    modes: int = setting(3, "number of modes", minimum=0)
    iterations: int = setting(20, "passes over all images", minimum=2)
    filter_resolution: float = setting(8.0, "finest detail of the modes, and of the images that are compared with them; the pixel size "
                                            "is the limit. Coarser is faster and surer", unit="A", minimum=0.5)
    high_pass: float | None = setting(None, "modes have no detail coarser than this: takes out gradients and ice", unit="A", minimum=2.0)
    particle_scale: str = setting("input", "grey scale of each image: all alike (none), as the particles have it (input), or found "
                                           "together with its coordinates (optimal)", choices=("none", "input", "optimal"))
    noise_control: bool = setting(
        True, "repeat the analysis on images of the mean map and noise, to tell how many modes are real; doubles the time")
    frames: int = setting(10, "maps of the movie along each mode; 0: no movies", minimum=0, maximum=1000)
    movie_percentile: float = setting(3.0, "movies and windows begin at this percentile of the particles' coordinates and end as far "
                                           "from the other end", unit="%", minimum=0.0, maximum=49.0)
    intermediates: int = setting(0, "reconstructions along intermediate_mode, each from the particles in a window around its place; "
                                    "windows overlap, and go over into one another", minimum=0, maximum=100)
    intermediate_mode: int = setting(1, "the mode along which intermediates are reconstructed", minimum=1)
    clusters: int = setting(0, "clusters of the particles by their coordinates on the real modes, each with particles and maps", minimum=0,
                            maximum=100)
    half_precision: bool = setting(False, "keep the prepared images as 16-bit floats: half the memory")


JOB = Job(
    name="variability",
    summary="Continuous motion and other variability of particles with known poses, as linear modes",
    teaches="3D variability analysis: every image is described as the mean map plus a few modes, times coordinates of its own, by "
    "expectation-maximisation with CTF, noise and the uncertainty of every coordinate. Use it after a refinement, for motion that goes "
    "in all stages from one end to the other; for states that one can count, use classify-fixed. Symmetry-expanded particles are welcome, "
    "with a mask over one asymmetric unit: a mode then is what one protomer does by itself. The mean map is reconstructed first, from "
    "these particles. Each half-set finds modes by itself; these are turned into one basis, and their FSC says how fine a mode is. A "
    "control without variability (noise_control) says how many modes are real: look at that first. "
    "Writes mode_1.mrc ... (what one standard deviation of the particles changes), mode_1/volume.h5 with the halves' modes and "
    "mode_1/frame_000.mrc ... along it, particles.h5 and variability.csv with coordinates and their errors, the mean map with FSC, and on "
    "request cluster_1/ ... and mode_1/window_1/ ... . "
    "Example: protomer variability --particles expanded --mask protomer_mask --set modes=3 --set filter_resolution=8A --output moves",
    inputs=(
        Input("particles", "particles.h5 with poses, or a job folder; symmetry-expanded ones too", file="particles.h5", required=True),
        Input("mask", "mask in which the particle may vary, .mrc; unset: a sphere", file="mask.mrc", alternatives=(".map",)),
    ),
    settings=VariabilitySettings,
    entry="protomer.jobs.variability",
    ranks=True,
    cuda=True,
)
