"""What a local refinement leaves where it is: the density outside its mask, each half's own."""

from __future__ import annotations

import numpy as np

from protomer.computing.arithmetic import Arithmetic
from protomer.declarations.local_refine import LocalRefineSettings
from protomer.engine.local_alignment import Rest
from protomer.local.start import centre_of_mass_px, halves_in_frame
from protomer.maps.volumes import Halves, MapRecord, Volume
from protomer.running.events import Events
from protomer.subtraction.maps import split_density
from protomer_kernels.fourier import low_pass
from protomer_kernels.half_plane import largest_radius
from protomer_kernels.slices import transform_volume


def rest_of(record: MapRecord, mask: Volume, settings: LocalRefineSettings, arithmetic: Arithmetic, events: Events) -> Rest:
    """The rest, as `subtract` would take it where it is to be taken from the images. Raises InputError where there is nothing to take."""
    if settings.subtract_on_the_fly:
        density = split_density(record, mask, None, mask.box, events)
        kept, outside = density.kept, density.removed
    else:
        kept, outside = _about(record, mask)
    radius, workers = largest_radius(mask.box), arithmetic.threads
    a, b = outside.map(lambda data: transform_volume(arithmetic.here(data.astype(np.float32)), radius, workers=workers))
    # signal alone is common to both halves; noise would make the rest, the larger, heavier than it is
    mass, part = np.maximum(outside.a * outside.b, 0.0), float(np.sum(kept.a * kept.b, dtype=np.float64))
    mobility = min(1.0, max(part, 0.0) / max(float(mass.sum(dtype=np.float64)), 1e-30))  # the whole's pose is between theirs, by power
    return Rest((a, b), centre_of_mass_px(mass), mobility, arithmetic)


def _about(record: MapRecord, mask: Volume) -> tuple[Halves[np.ndarray], Halves[np.ndarray]]:
    """Each half map in the mask and outside it, low-passed where the two agree; nothing need lie outside."""
    finest_A = record.fsc.resolution_A_at("corrected") if record.fsc is not None else np.inf
    shells = min(mask.box * mask.voxel_size_A / finest_A if np.isfinite(finest_A) else np.inf, largest_radius(mask.box))
    known = halves_in_frame(record, mask).map(lambda half: low_pass(half.data, shells, 2.0))
    return known.map(lambda data: data * mask.data), known.map(lambda data: data * (1.0 - mask.data))
