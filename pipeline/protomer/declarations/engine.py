"""Settings that all refinements share."""

from __future__ import annotations

from dataclasses import dataclass

from protomer.config.settings import JobSettings, setting


@dataclass(frozen=True)
class EngineSettings(JobSettings):
    """What every refinement, global or local, lets one choose of the engine."""

    marginalise: bool = setting(True, "insert each image at all modes of its posterior, by weight; off: at the best alone")
    rehearse: bool = setting(
        True, "at the end, search images made from the map, whose poses are known, and state posteriors and covariances as far as these "
        "were right"
    )
    particle_scale: bool = setting(False, "refine a grey scale per particle, for thick ice or much spread in contrast (column scale)")
    extra_passes: int = setting(0, "iterations after convergence", minimum=0)
    cross_fit_folds: int | None = setting(
        None,
        "an image is compared with a map from the other folds of its half; 1: with the whole half; unset: 4 where a half has fewer than "
        "20,000 images and the maps fit into 4 GB, else 1",
        minimum=1,
    )
    half_precision: bool = setting(False, "keep the prepared images as 16-bit floats: half the memory")
    non_uniform: bool = setting(
        False, "filter references, and the final map, at each place as far as the two half maps agree there: for particles part of which "
        "is disordered, such as membrane proteins in micelles, and for small ones"
    )
    nu_window_factor: float = setting(3.0, "width of the window in which half maps are compared, in wavelengths", minimum=1.0, maximum=20.0)
    nu_filter_order: int = setting(8, "order of the Butterworth filters", minimum=1, maximum=32)
