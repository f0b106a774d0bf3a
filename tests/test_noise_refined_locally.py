"""Copies of pure noise, refined locally against maps of pure noise: the half maps do not come to agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from protomer.formats.hdf5 import read_map_record, write_map_record, write_particles
from protomer.formats.mrc import write_volume
from protomer.maps.volumes import MapRecord, Volume
from protomer.symmetry.expansion import expanded
from protomer.symmetry.operator_sets import OperatorSet
from protomer_kernels.masks import sphere_mask
from reconstructions import rebuilt
from refinement_runs import protomer
from test_expanded_maps import in_bands, noise_particles

BOX, PIXEL_A = 32, 4.0


@pytest.mark.slow
def test_copies_of_noise_refined_from_maps_of_noise_agree_no_more_than_by_chance(tmp_path: Path) -> None:
    """In units of the band that chance and dependent copies allow. Halves share nothing but the poses' fulcrum and the mask."""
    operators = OperatorSet.of_group("D2")
    seen = []
    for seed in range(3):
        folder = tmp_path / str(seed)
        folder.mkdir()
        copies = expanded(noise_particles(folder, 120, seed), operators)
        write_particles(folder / "copies.h5", copies)
        half_maps, together = rebuilt(copies)
        write_map_record(folder / "volume.h5", MapRecord(half_maps.map(lambda half: Volume(half, PIXEL_A)), Volume(together, PIXEL_A)))
        write_volume(folder / "mask.mrc", Volume(sphere_mask(BOX, 11.0, 3.0), PIXEL_A))
        protomer("local-refine", "--particles", folder / "copies.h5", "--volume", folder / "volume.h5", "--mask", folder / "mask.mrc",
                 "--output", folder / "local", "--set", "rotation_prior=5deg", "--set", "shift_prior=2A", "--set", "initial_low_pass=20A")
        record = read_map_record(folder / "local/volume.h5")
        assert record.fsc is not None
        assert record.fsc.shell_at("corrected", 0.143) <= 8  # the start's low-pass is shell 6.4
        seen.append(in_bands(record.half_maps.map(lambda half: half.data), len(operators)))
    print("rms of the FSC over the band of chance:", np.round(seen, 2))
    assert float(np.sqrt(np.mean(np.square(seen)))) < 1.2
