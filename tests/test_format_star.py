"""RELION STAR files: what is read, what comes back, what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from protomer.errors import InputError
from protomer.formats import hdf5
from protomer.formats.mrc import write_stack
from protomer.formats.star import read_star_particles, write_star_particles
from protomer.formats.star_text import Columns, read_blocks
from protomer.tables.particles import Particles, Stack
from stack_files import BOX, PIXEL_A, noise_images, plain_rows, star_text, write_data_set

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:protomer", "ignore:.*(MAP identifier|machine stamp|rlnCtfBfactor|is taken).*")

ORACLES = ["relion_3.0.star", "relion_3.1_optics2.star", "relion31.6opticsgroups.star", "relion5.star",
           "FinalRefinement-OriginalParticles-PfCRT.star"]
WITH_STACKS = ["real_particles/ribosome_tilts_64_220/sta_testing_bin8.star", "real_particles/helical_256_5/relion31.star",
               "real_particles/helical_256_5/relion31.v2.star", "real_particles/empiar10076_50S_320_7/empiar_10076_7.star",
               "oracles/relion_project_70S/rln_proj_65_shifted.star", "oracles/relion_project_70S/rln_proj_65_centered.star"]


def through_hdf5(particles: Particles, folder: Path) -> Particles:
    hdf5.write_particles(folder / "through.h5", particles)
    return hdf5.read_particles(folder / "through.h5")


def tables(path: Path) -> tuple[Columns, Columns]:
    """The optics and the particle table of a file, whatever the latter is called."""
    blocks = read_blocks(path)
    return blocks.pop("optics", {}), next(iter(blocks.values()))


def assert_same_table(mine: Columns, theirs: Columns) -> None:
    assert list(mine) == list(theirs)
    for tag in theirs:
        assert mine[tag].tolist() == theirs[tag].tolist(), tag


@pytest.mark.parametrize("name", ORACLES)
def test_an_oracle_file_comes_back_to_the_letter_through_particles_h5(name: str, shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "oracles" / "star" / name
    particles = through_hdf5(read_star_particles(source, require_stacks=False), tmp_path)
    write_star_particles(tmp_path / "out.star", particles)
    for mine, theirs in zip(tables(tmp_path / "out.star"), tables(source), strict=True):
        assert_same_table(mine, theirs)


@pytest.mark.parametrize("name", WITH_STACKS)
def test_a_file_beside_its_stack_comes_back_to_the_letter(name: str, shared_data: Path, tmp_path: Path) -> None:
    for source in (shared_data / name).parent.iterdir():
        shutil.copy(source, tmp_path)
    source = tmp_path / Path(name).name
    write_star_particles(tmp_path / "out.star", through_hdf5(read_star_particles(source), tmp_path))
    for mine, theirs in zip(tables(tmp_path / "out.star"), tables(source), strict=True):
        assert_same_table(mine, theirs)


def test_values_arrive_in_our_units(tmp_path: Path) -> None:
    rows = [{"rlnImageName": "000003@images.mrcs", "rlnDefocusU": 15000, "rlnDefocusV": 14000, "rlnDefocusAngle": 30, "rlnPhaseShift": 90,
             "rlnCtfBfactor": 20, "rlnCtfScalefactor": 0.5, "rlnAngleRot": 10, "rlnAngleTilt": 20, "rlnAnglePsi": 30, "rlnOriginXAngst": 3,
             "rlnOriginYAngst": -4, "rlnRandomSubset": 2, "rlnClassNumber": 3, "rlnHelicalTubeID": 7, "rlnMicrographName": "a/b.mrc",
             "rlnCoordinateX": 11, "rlnCoordinateY": 12, "rlnOpticsGroup": 4}]
    optics = [{"rlnOpticsGroup": 4, "rlnOpticsGroupName": "g", "rlnVoltage": 200, "rlnSphericalAberration": 2, "rlnAmplitudeContrast": 0.07,
               "rlnImagePixelSize": 2, "rlnBeamTiltX": 1.5, "rlnBeamTiltY": -0.5, "rlnOddZernike": "[1,2]", "rlnMagMat00": 1.01,
               "rlnMagMat01": 0.02, "rlnMagMat10": 0.03, "rlnMagMat11": 0.99}]
    p = read_star_particles(write_data_set(tmp_path, rows, noise_images(3), optics))
    assert p.stack_index[0] == 2 and p.half[0] == 1 and p.class_number[0] == 3 and p.filament[0] == 7 and p.micrograph[0] == "a/b.mrc"
    matrix = Rotation.from_euler("ZYZ", [10, 20, 30], degrees=True).as_matrix()
    np.testing.assert_allclose(Rotation.from_quat(p.rotation[0]).as_matrix(), matrix, atol=1e-12)
    np.testing.assert_array_equal(p.shift_A, [[3, -4]])
    np.testing.assert_array_equal(p.coordinate_px, [[11, 12]])
    np.testing.assert_allclose([p.defocus_angle_rad[0], p.phase_shift_rad[0]], np.radians([30, 90]))
    assert (p.defocus_u_A[0], p.defocus_v_A[0], p.ctf_bfactor_A2[0], p.scale[0]) == (15000, 14000, 20, 0.5)
    group = p.optics_groups[0]
    assert (group.voltage_V, group.spherical_aberration_A, group.amplitude_contrast) == (2e5, 2e7, 0.07)
    assert (group.pixel_size_A, group.box, group.odd_zernike, group.magnification) == (2.0, BOX, (1.0, 2.0), (1.01, 0.02, 0.03, 0.99))
    np.testing.assert_allclose(group.beam_tilt_rad, (1.5e-3, -0.5e-3))


def test_origins_in_pixels_and_a_pixel_size_from_the_magnification_are_read_in_old_files(shared_data: Path) -> None:
    p = read_star_particles(shared_data / "oracles" / "star" / "FinalRefinement-OriginalParticles-PfCRT.star", require_stacks=False)
    assert p.optics_groups[0].pixel_size_A == pytest.approx(1.035)
    np.testing.assert_allclose(p.shift_A[0], np.array([-0.14063, -0.04688]) * 1.035)


def test_a_given_pixel_size_scales_origins_and_is_what_comes_out(tmp_path: Path) -> None:
    pose = {"rlnAngleRot": 1, "rlnAngleTilt": 2, "rlnAnglePsi": 3, "rlnOriginXAngst": 4.0, "rlnOriginYAngst": 0}
    rows = [{**row, **pose} for row in plain_rows(2)]
    p = read_star_particles(write_data_set(tmp_path, rows, noise_images(2)), pixel_size_A=3 * PIXEL_A)
    assert p.optics_groups[0].pixel_size_A == 3 * PIXEL_A and p.shift_A[0, 0] == 12.0
    write_star_particles(tmp_path / "out.star", p)
    again = read_star_particles(tmp_path / "out.star")
    assert again.optics_groups[0].pixel_size_A == 3 * PIXEL_A and again.shift_A[0, 0] == 12.0


def test_only_what_changed_is_written_anew(tmp_path: Path) -> None:
    rows = [{**row, "rlnAngleRot": f"{10 * i}.5000", "rlnAngleTilt": "20.25000", "rlnAnglePsi": "-170.0"}
            for i, row in enumerate(plain_rows(3))]
    source = write_data_set(tmp_path, rows, noise_images(3))
    p = read_star_particles(source)
    rotation = p.rotation.copy()
    rotation[1] = Rotation.from_euler("ZYZ", [50, 60, 70], degrees=True).as_quat()
    write_star_particles(tmp_path / "out.star", p.with_columns(rotation=rotation))
    _, mine = tables(tmp_path / "out.star")
    assert mine["rlnAngleRot"].tolist() == [b"0.5000", b"50.000000", b"20.5000"]
    assert mine["rlnAnglePsi"].tolist() == [b"-170.0", b"70.000000", b"-170.0"]


def test_binning_leaves_the_pixel_size_of_the_stack_in_the_exported_file(tmp_path: Path) -> None:
    from protomer.jobs.import_particles import binned

    p = binned(read_star_particles(write_data_set(tmp_path, plain_rows(2), noise_images(2))), 2.0)
    assert (p.optics_groups[0].box, p.optics_groups[0].pixel_size_A) == (BOX // 2, 2 * PIXEL_A)
    write_star_particles(tmp_path / "out.star", p)
    optics, _ = tables(tmp_path / "out.star")
    assert optics["rlnImagePixelSize"].tolist() == [b"2.0"] and optics["rlnImageSize"].tolist() == [b"16"]


def test_rows_moved_to_another_stack_name_that_stack(tmp_path: Path) -> None:
    p = read_star_particles(write_data_set(tmp_path, plain_rows(2), noise_images(2)))
    other = tmp_path / "other" / "images.mrcs"  # as a subtraction would: same base name, other content, image_uid kept
    other.parent.mkdir()
    write_stack(other, noise_images(2, seed=9), PIXEL_A)
    moved = Particles(p.columns, p.optics_groups, (Stack(str(other), 2, BOX, 1, 1, "another digest"),), extra=p.extra)
    write_star_particles(tmp_path / "out.star", moved)
    assert tables(tmp_path / "out.star")[1]["rlnImageName"].tolist() == [b"000001@" + str(other).encode(), b"000002@" + str(other).encode()]


def test_names_that_would_not_lead_to_the_stack_from_the_new_place_become_absolute(tmp_path: Path) -> None:
    (tmp_path / "far" / "a" / "b" / "c" / "d" / "e").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    p = read_star_particles(write_data_set(tmp_path / "here", plain_rows(2), noise_images(2)))
    far = tmp_path / "far" / "a" / "b" / "c" / "d" / "e" / "out.star"
    write_star_particles(far, p)
    np.testing.assert_array_equal(read_star_particles(far).image_uid, p.image_uid)
    write_star_particles(tmp_path / "rel.star", p, project_folder=tmp_path)
    assert tables(tmp_path / "rel.star")[1]["rlnImageName"].tolist() == [b"000001@here/images.mrcs", b"000002@here/images.mrcs"]


def test_names_with_spaces_and_quotes_survive(tmp_path: Path) -> None:
    rows = [{**row, "rlnMicrographName": '"my micrograph.mrc"', "rlnGroupName": "it's"} for row in plain_rows(2)]
    source = write_data_set(tmp_path, rows, noise_images(2))
    write_star_particles(tmp_path / "out.star", read_star_particles(source))
    _, table = tables(tmp_path / "out.star")
    assert table["rlnMicrographName"].tolist() == [b"my micrograph.mrc"] * 2 and table["rlnGroupName"].tolist() == [b"it's"] * 2


def test_stacks_are_found_in_the_project_folder_above_the_table(tmp_path: Path) -> None:
    (tmp_path / "Extract").mkdir()
    (tmp_path / "Refine3D" / "job001").mkdir(parents=True)
    write_stack(tmp_path / "Extract" / "images.mrcs", noise_images(2), PIXEL_A)
    table = tmp_path / "Refine3D" / "job001" / "run_data.star"
    table.write_text(star_text(plain_rows(2, "Extract/images.mrcs")))
    assert read_star_particles(table).stacks[0].path == str(tmp_path / "Extract" / "images.mrcs")


def test_a_stack_that_does_not_exist_is_named_with_the_folders_tried(tmp_path: Path) -> None:
    table = write_data_set(tmp_path, plain_rows(2, "gone.mrcs"), noise_images(2))
    with pytest.raises(InputError, match=r"gone\.mrcs.*tried") as error:
        read_star_particles(table)
    assert str(tmp_path) in str(error.value)


def test_rows_past_the_end_of_a_stack_are_refused_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"1 rows .* row 3 wants image 3 of .*images\.mrcs, which holds 2"):
        read_star_particles(write_data_set(tmp_path, plain_rows(3), noise_images(2)))


@pytest.mark.parametrize(("change", "message"), [
    ({"rlnImageName": "0@images.mrcs"}, "N from 1"), ({"rlnImageName": "x@images.mrcs"}, "N from 1"), ({"rlnDefocusU": "abc"}, "a number"),
    ({"rlnOpticsGroup": 2}, "optics groups")])
def test_a_wrong_value_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    rows = plain_rows(2)
    rows[1] = {**rows[1], **change}
    with pytest.raises(InputError, match=message):
        read_star_particles(write_data_set(tmp_path, rows, noise_images(2)))


@pytest.mark.parametrize("text", ["", "loop_\n_a\n1\n", "data_x\nloop_\n_rlnImageName\n", "data_x\n_a 1\n", "\x00\xff"])
def test_what_is_no_particle_table_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.star").write_text(text, encoding="latin-1")
    with pytest.raises(InputError):
        read_star_particles(tmp_path / "x.star")


def test_image_sizes_that_differ_within_an_optics_group_are_refused(tmp_path: Path) -> None:
    table = write_data_set(tmp_path, [*plain_rows(2), *plain_rows(2, "small.mrcs")], noise_images(2))
    write_stack(tmp_path / "small.mrcs", noise_images(2, 8), PIXEL_A)
    with pytest.raises(InputError, match="image sizes 8, 16"):
        read_star_particles(table)


def test_subtomograms_and_premultiplied_images_are_refused(tmp_path: Path) -> None:
    optics = [{"rlnOpticsGroup": 1, "rlnVoltage": 300, "rlnSphericalAberration": 2.7, "rlnImagePixelSize": 2,
               "rlnCtfDataAreCtfPremultiplied": 1}]
    with pytest.raises(InputError, match="premultiplied"):
        read_star_particles(write_data_set(tmp_path, plain_rows(2), noise_images(2), optics))


def test_a_defocus_without_a_voltage_is_refused(tmp_path: Path) -> None:
    optics = [{"rlnOpticsGroup": 1, "rlnSphericalAberration": 2.7, "rlnImagePixelSize": 2}]
    with pytest.raises(InputError, match="no rlnVoltage"):
        read_star_particles(write_data_set(tmp_path, plain_rows(2), noise_images(2), optics))


def optics_row(**more: object) -> dict[str, object]:
    return {"rlnOpticsGroup": 1, "rlnOpticsGroupName": "first", "rlnVoltage": 300, "rlnSphericalAberration": 2.7,
            "rlnAmplitudeContrast": 0.1, "rlnImagePixelSize": PIXEL_A, "rlnImageSize": BOX, "rlnImageDimensionality": 2, **more}


def test_an_optics_group_without_particles_and_lists_without_numbers_are_kept(tmp_path: Path) -> None:
    optics = [optics_row(rlnOddZernike="[]", rlnEvenZernike="[0.5]"),
              optics_row(rlnOpticsGroup=2, rlnOpticsGroupName="unused", rlnOddZernike="[1,2]", rlnEvenZernike="[]")]
    source = write_data_set(tmp_path, plain_rows(3), noise_images(3), optics)
    p = through_hdf5(read_star_particles(source), tmp_path)
    assert [(g.odd_zernike, g.even_zernike) for g in p.optics_groups] == [((), (0.5,)), ((1.0, 2.0), ())]
    assert p.optics.tolist() == [0, 0, 0]
    write_star_particles(tmp_path / "out.star", p)
    for mine, theirs in zip(tables(tmp_path / "out.star"), tables(source), strict=True):
        assert_same_table(mine, theirs)


@pytest.mark.parametrize(("column", "text", "said"), [
    ("rlnOddZernike", "[1,2,3]", "3 odd Zernike coefficients"),
    ("rlnEvenZernike", "[1,2,3,4,5]", "5 even Zernike coefficients"),
    ("rlnEvenZernike", "[1,2,,4]", "numbers as in"),
    ("rlnOddZernike", "[1,nan]", "coefficients as in"),
    ("rlnBeamTiltX", "inf", "no finite numbers"),
    ("rlnMagMat00", "0", "which stretches by"),
])
def test_aberrations_that_make_no_sense_are_refused(tmp_path: Path, column: str, text: str, said: str) -> None:
    source = write_data_set(tmp_path, plain_rows(2), noise_images(2), [optics_row(**{column: text})])
    with pytest.raises(InputError, match=said):
        read_star_particles(source)
