"""Where the images that subtract writes are centred, how large they are, and the way back to the whole ones."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from protomer.declarations.import_particles import JOB as IMPORT
from protomer.errors import InputError
from protomer.formats.hdf5 import read_particles, write_particles
from protomer.formats.mrc import read_volume
from protomer.formats.star import write_star_particles
from protomer.running.job_run import RunOptions, run_job
from protomer.subtraction.table import BEFORE, ORIGINAL
from protomer_kernels.rotations import matrices_from_quaternions
from protomer_kernels.shells import fourier_shell_correlation
from reconstructions import rebuilt
from two_parts import BOX, PIXEL_A, codes, data_set, images, mask_around, parts, read_summary, subtract, subtracted

NUMBER = 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return subtracted(tmp_path_factory.mktemp("subtract"), NUMBER)


def test_recentred_and_cut_images_give_the_kept_part_moved_to_the_centre(folder: Path) -> None:
    """The map from moved and cut images is the map from images left where they were, moved by whole voxels and cut."""
    summary = subtract(folder, "moved", recentre=True, recrop="36")
    moved, still = read_particles(folder / "moved/particles.h5"), read_particles(folder / "out/particles.h5")
    centre = np.array(summary["centre_voxel"]) - BOX // 2
    assert np.linalg.norm(centre * PIXEL_A - parts()[0].positions_A.mean(axis=0)) < 2 * PIXEL_A and centre[0] > 8
    assert np.abs(moved.shift_A).max() <= PIXEL_A / 2 + 1e-9 and moved.optics_groups[0].box == 36
    z, y, x = (np.arange(36) - 18 + BOX // 2 + c for c in centre[::-1])
    expected = [half.take(z, 0, mode="clip").take(y, 1, mode="clip").take(x, 2, mode="clip") for half in rebuilt(still)[0]]
    mask = read_volume(folder / "moved/mask.mrc")
    assert mask.box == 36 and abs(mask.data[16:21, 16:21, 16:21].mean() - 1) < 0.1
    for one, other in zip(rebuilt(moved)[0], expected, strict=True):
        curve = fourier_shell_correlation(one * mask.data, other * mask.data)
        assert curve[1:9].min() > 0.97, curve  # the CTF spreads finer detail beyond so small a box
    assert "crop_loses_detail" in codes(summary) and "crop_cuts_mask" in codes(subtract(folder, "only_cut", recrop="24"))
    whole = subtract(folder, "only_moved", recentre=True)
    assert whole["box"] == BOX
    only = rebuilt(read_particles(folder / "only_moved/particles.h5"))[0]
    around = mask_around(parts()[0]).data
    for one, other in zip(only, rebuilt(still)[0], strict=True):
        here = np.roll(one, centre[::-1], axis=(0, 1, 2)) * around
        assert fourier_shell_correlation(here, other * around)[1:16].min() > 0.99


def test_poses_about_the_new_centre_are_right_in_stretched_images_too(tmp_path: Path) -> None:
    shown = images(120, 0.25, False, magnification=(1.04, 0.02, 0.02, 0.97))
    data_set(tmp_path, shown)
    centre = np.array(subtract(tmp_path, "out", recentre=True)["centre_voxel"]) - BOX // 2
    moved, around = rebuilt(read_particles(tmp_path / "out/particles.h5"))[1], mask_around(parts()[0]).data
    here, truth = np.roll(moved, centre[::-1], axis=(0, 1, 2)) * around, shown.data.volume.data * around
    assert fourier_shell_correlation(here, truth)[1:15].min() > 0.97


@pytest.mark.skipif(shutil.which("relion_reconstruct") is None, reason="relion_reconstruct is not installed")
def test_relion_reconstructs_the_kept_part_from_moved_and_cut_images(tmp_path: Path) -> None:
    shown = images(300, 0.25, False)
    data_set(tmp_path, shown)
    summary = subtract(tmp_path, "out", recentre=True, recrop="40")
    assert "other_images" not in codes(summary) and max(map(abs, summary["amplitude_after"])) < 0.05
    write_star_particles(tmp_path / "out.star", read_particles(tmp_path / "out/particles.h5"))
    command = ["relion_reconstruct", "--i", "out.star", "--o", "theirs.mrc", "--ctf"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=200)
    theirs, mask = read_volume(tmp_path / "theirs.mrc", PIXEL_A).data, read_volume(tmp_path / "out/mask.mrc").data
    voxel = [np.arange(40) - 20 + c for c in summary["centre_voxel"][::-1]]
    truth = shown.data.volume.data
    for axis, index in enumerate(voxel):
        truth = truth.take(index, axis, mode="clip")
    assert fourier_shell_correlation(theirs * mask, truth * mask)[1:17].min() > 0.99


def test_revert_leads_back_to_the_images_with_the_poses_of_today(folder: Path) -> None:
    subtract(folder, "to_revert", recentre=True, recrop="40")
    table = read_particles(folder / "to_revert/particles.h5")
    nudge = np.array([0.3, -0.2])
    write_particles(folder / "nudged.h5", table.with_columns(shift_A=table.shift_A + nudge))
    given = {"particles": "nudged.h5", "volume": "", "mask": ""}
    summary = subtract(folder, "reverted", given, revert=True)
    before, after = read_particles(folder / "particles.h5"), read_particles(folder / "reverted/particles.h5")
    assert after.stacks == before.stacks and after.optics_groups == before.optics_groups and codes(summary) == {"frame_stays"}
    for name in ("stack", "stack_index", "grey_offset", "grey_gain", "image_uid", "half", "rotation"):
        np.testing.assert_array_equal(after.columns[name], before.columns[name], err_msg=name)
    assert ORIGINAL not in after.extra and BEFORE not in after.extra
    centre_A = (np.array(read_summary(folder / "to_revert")["centre_voxel"]) - BOX // 2) * PIXEL_A
    seen = np.einsum("nji,j->ni", matrices_from_quaternions(after.rotation), centre_A)[:, :2]
    np.testing.assert_allclose(after.shift_A, before.shift_A - seen + nudge, atol=1e-9)
    with pytest.raises(InputError, match="nothing was ever taken"):
        subtract(folder, "refused", {"particles": "particles.h5", "volume": "", "mask": ""}, revert=True)
    write_star_particles(folder / "elsewhere.star", table)
    run_job(IMPORT, {"star": str(folder / "elsewhere.star")}, {}, RunOptions(folder / "elsewhere", threads=1))
    with pytest.raises(InputError, match="exported and imported since"):
        subtract(folder, "refused", {"particles": "elsewhere/particles.h5", "volume": "", "mask": ""}, revert=True)
