"""cryoSPARC .cs files: both kinds of file, conventions, round trips, and refusal to unpickle."""

from __future__ import annotations

import base64
import io
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from protomer.errors import InputError
from protomer.formats import hdf5
from protomer.formats.cs import read_cs_particles, write_cs_particles
from protomer.formats.cs_table import read_fields, write_fields
from protomer.formats.mrc import write_stack
from protomer.formats.star import read_star_particles, write_star_particles
from protomer_kernels.aberrations import zernike_sum
from stack_files import BOX, noise_images, plain_rows, write_data_set

FILES = ["oracles/cs/cryosparc_P12_J24_001_particles.cs", "oracles/cs/4k_dataset.cs",
         "real_particles/empiar10076_50S_320_7/empiar_10076_7.cs"]
#: three particles as cryosparc-tools 5.0.3 writes them in its compressed stream
STREAM = base64.b64decode(
    "lUNTREFULgEAAHsibGVuZ3RoIjogMywgImR0eXBlIjogW1sidWlkIiwgIjx1OCJdLCBbImJsb2IvcGF0aCIsICJ8TyJdLCBbImJsb2IvaWR4IiwgIjx1NCJdLCBbImJs"
    "b2Ivc2hhcGUiLCAiPHU0IiwgWzJdXSwgWyJibG9iL3BzaXplX0EiLCAiPGY0Il0sIFsiY3RmL2RmMV9BIiwgIjxmNCJdLCBbImN0Zi90eXBlIiwgInxPIl1dLCAiY29t"
    "cHJlc3Npb24iOiAibHo0IiwgImNvbXByZXNzZWRfZmllbGRzIjogWyJibG9iL3BhdGgiLCAiYmxvYi9pZHgiLCAiYmxvYi9zaGFwZSIsICJibG9iL3BzaXplX0EiLCAi"
    "Y3RmL2RmMV9BIiwgImN0Zi90eXBlIl19GAAAAAsAAAAAAAAADAAAAAAAAAABAAAAAAAAgBoAAADwCQEAAAAAAAAACgAAAAAAAAABAAAAAAAAAA0AAADAAAAAAAQAAAAC"
    "AAAAGgAAAPAJEAAAABAAAAAQAAAAEAAAABAAAAAQAAAADQAAAMAAAMA/AADAPwAAwD8NAAAAwABAHEYA4CtGAIA7RhoAAADwCRQAAAAAAAAAFAAAAAAAAAAUAAAAAAAA"
    "AABTMS9hLm1yYwA+SjIvYi5tcmMAaW1wb3J0ZWQA")


def some_fields(**changed: Any) -> dict[str, np.ndarray]:
    """Fields of four particles of images.mrcs, with poses whose pixel is twice the image's."""
    n = 4
    random = np.random.default_rng(8)
    fields = {"uid": np.arange(n, dtype="u8") + 100, "blob/path": np.full(n, b">images.mrcs"), "blob/idx": np.arange(n, dtype="u4"),
              "blob/shape": np.full((n, 2), BOX, "u4"), "blob/psize_A": np.full(n, 1.5, "f4"), "blob/sign": np.full(n, -1, "f4"),
              "ctf/exp_group_id": np.full(n, 7, "u4"), "ctf/accel_kv": np.full(n, 300, "f4"), "ctf/cs_mm": np.full(n, 2.7, "f4"),
              "ctf/amp_contrast": np.full(n, 0.1, "f4"), "ctf/df1_A": np.linspace(1e4, 2e4, n, dtype="f4"),
              "ctf/df2_A": np.linspace(1e4, 2e4, n, dtype="f4") - 50, "ctf/df_angle_rad": np.full(n, 0.3, "f4"),
              "alignments3D/split": np.arange(n, dtype="u4") % 2, "alignments3D/shift": random.normal(size=(n, 2)).astype("f4"),
              "alignments3D/pose": random.normal(size=(n, 3)).astype("f4"), "alignments3D/psize_A": np.full(n, 3.0, "f4"),
              "alignments3D/class": np.full(n, 2, "u4"), "my/unknown": random.normal(size=(n, 3)).astype("f4")}
    return {**fields, **changed}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_stack(tmp_path / "images.mrcs", noise_images(4), 1.5)
    return tmp_path


def write_and_read(folder: Path, fields: dict[str, np.ndarray], **options: Any) -> Any:
    write_fields(folder / "particles.cs", fields)
    return read_cs_particles(folder / "particles.cs", **options)


@pytest.mark.parametrize("name", FILES)
def test_an_oracle_file_comes_back_bit_for_bit_through_particles_h5(name: str, shared_data: Path, tmp_path: Path) -> None:
    particles = read_cs_particles(shared_data / name, require_stacks=False, project_folder=tmp_path)
    hdf5.write_particles(tmp_path / "p.h5", particles)
    write_cs_particles(tmp_path / "out.cs", hdf5.read_particles(tmp_path / "p.h5"))
    mine, theirs = np.load(tmp_path / "out.cs", allow_pickle=False), np.load(shared_data / name, allow_pickle=False)
    assert mine.dtype == theirs.dtype
    assert mine.tobytes() == theirs.tobytes()


class _ArraysOnly(pickle.Unpickler):
    """Builds NumPy arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def test_poses_agree_with_what_another_program_derived(shared_data: Path) -> None:
    rotations, shifts = _ArraysOnly(io.BytesIO((shared_data / "oracles/cs/pose.cs.pkl").read_bytes())).load()
    particles = read_cs_particles(shared_data / FILES[0], require_stacks=False)
    np.testing.assert_allclose(Rotation.from_quat(particles.rotation).as_matrix(), rotations.transpose(0, 2, 1), atol=1e-6)
    np.testing.assert_allclose(particles.shift_A, shifts * 180 * 2.95, atol=1e-4)  # that program keeps fractions of the box


def test_the_same_seven_images_read_alike_from_star_and_cs(shared_data: Path) -> None:
    folder = shared_data / "real_particles" / "empiar10076_50S_320_7"
    a, b = read_star_particles(folder / "empiar_10076_7.star"), read_cs_particles(folder / "empiar_10076_7.cs")
    order = np.argsort(b.stack_index)
    np.testing.assert_array_equal(a.image_uid, b.image_uid[order])
    for name, tolerance in (("defocus_u_A", 1e-3), ("defocus_v_A", 1e-3), ("defocus_angle_rad", 1e-7), ("phase_shift_rad", 0)):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name)[order], atol=tolerance)
    for name in ("voltage_V", "spherical_aberration_A", "amplitude_contrast", "pixel_size_A", "box"):
        assert getattr(a.optics_groups[0], name) == pytest.approx(getattr(b.optics_groups[0], name), rel=1e-6)


def test_the_compressed_stream_reads_as_what_was_put_in(tmp_path: Path) -> None:
    (tmp_path / "s.cs").write_bytes(STREAM)
    fields = read_fields(tmp_path / "s.cs")
    assert fields["uid"].tolist() == [11, 12, 2**63 + 1] and fields["blob/idx"].tolist() == [0, 4, 2]
    assert fields["blob/path"].tolist() == [b"S1/a.mrc", b">J2/b.mrc", b"S1/a.mrc"] and fields["ctf/type"].tolist() == [b"imported"] * 3
    assert fields["blob/shape"].tolist() == [[16, 16]] * 3 and fields["ctf/df1_A"].tolist() == [1e4, 1.1e4, 1.2e4]


@pytest.mark.parametrize("length", [6, 12, 100, 330, 400, len(STREAM) - 40])
def test_a_truncated_stream_is_refused(tmp_path: Path, length: int) -> None:
    (tmp_path / "s.cs").write_bytes(STREAM[:length])
    with pytest.raises(InputError):
        read_fields(tmp_path / "s.cs")


def test_lengths_that_lie_ask_for_no_memory(tmp_path: Path) -> None:
    lying = STREAM.replace(b'"length": 3', b'"length": 9' + b"9" * 12)
    (tmp_path / "s.cs").write_bytes(lying[:6] + (0x12E + 12).to_bytes(4, "little") + lying[10:])
    with pytest.raises(InputError, match="instead of 79999999999992"):
        read_fields(tmp_path / "s.cs")
    write_fields(tmp_path / "n.cs", {"uid": np.arange(3, dtype="u8"), "x/y": np.zeros(3, "f4")})
    content = (tmp_path / "n.cs").read_bytes().replace(b"(3,)", b"(10000000000000,)").replace(b" " * 13 + b"\n", b"\n")
    (tmp_path / "n.cs").write_bytes(content)
    with pytest.raises(InputError, match="rows of 12 bytes announced"):
        read_fields(tmp_path / "n.cs")


def test_python_objects_are_never_unpickled(tmp_path: Path) -> None:
    table = np.zeros(1, [("uid", "u8"), ("blob/path", "O")])
    with open(tmp_path / "o.cs", "wb") as handle:
        np.save(handle, table, allow_pickle=True)
    with pytest.raises(InputError, match="no objects"):
        read_fields(tmp_path / "o.cs")


def test_values_arrive_in_our_units_and_signs(folder: Path) -> None:
    fields = some_fields()
    p = write_and_read(folder, fields)
    np.testing.assert_allclose(p.shift_A, fields["alignments3D/shift"] * 3.0)  # in pixels of alignments3D/psize_A, not of blob/psize_A
    np.testing.assert_allclose(Rotation.from_quat(p.rotation).as_matrix(),
                               Rotation.from_rotvec(fields["alignments3D/pose"].astype(float)).as_matrix(), atol=1e-12)
    assert p.half.tolist() == [0, 1, 0, 1] and p.class_number.tolist() == [3] * 4 and p.grey_gain.tolist() == [-1] * 4
    assert p.optics_groups[0].name == "exp_group_7" and p.optics_groups[0].voltage_V == 3e5
    assert p.stacks[0].path == str(folder / "images.mrcs")


def test_coordinates_are_fractions_of_the_micrograph_counted_from_its_bottom(folder: Path) -> None:
    shape = np.tile(np.array([100, 400], "u4"), (4, 1))  # rows, columns
    p = write_and_read(folder, some_fields(**{"location/micrograph_shape": shape, "location/center_x_frac": np.full(4, 0.25, "f4"),
                                              "location/center_y_frac": np.full(4, 0.25, "f4")}))
    np.testing.assert_allclose(p.coordinate_px, [[100, 75]] * 4)


def test_the_pixel_size_travels_with_the_shift_into_star_and_back(folder: Path) -> None:
    p = write_and_read(folder, some_fields())
    write_star_particles(folder / "out.star", p)
    q = read_star_particles(folder / "out.star")
    np.testing.assert_allclose(q.shift_A, p.shift_A, atol=1e-6)
    write_cs_particles(folder / "back.cs", q)
    back = read_cs_particles(folder / "back.cs")
    np.testing.assert_allclose(back.shift_A, p.shift_A, atol=1e-5)
    np.testing.assert_allclose(np.abs((back.rotation * p.rotation).sum(axis=1)), 1.0, atol=1e-7)
    np.testing.assert_array_equal(back.half, p.half)
    np.testing.assert_array_equal(back.image_uid, p.image_uid)
    np.testing.assert_allclose(back.defocus_u_A, p.defocus_u_A, atol=0.01)


def test_changed_shifts_are_written_in_the_pixels_of_the_alignment(folder: Path) -> None:
    p = write_and_read(folder, some_fields())
    write_cs_particles(folder / "out.cs", p.with_columns(shift_A=p.shift_A + 6.0))
    np.testing.assert_allclose(read_fields(folder / "out.cs")["alignments3D/shift"], some_fields()["alignments3D/shift"] + 2.0, atol=1e-6)


def test_a_given_pixel_size_scales_shifts(folder: Path) -> None:
    fields = some_fields()
    p = write_and_read(folder, fields, pixel_size_A=3.0)
    np.testing.assert_allclose(p.shift_A, fields["alignments3D/shift"] * 6.0)
    write_cs_particles(folder / "out.cs", p)
    np.testing.assert_allclose(read_cs_particles(folder / "out.cs").shift_A, p.shift_A, atol=1e-5)


def test_passthrough_fields_are_joined_by_uid(folder: Path) -> None:
    fields = some_fields()
    main = {k: v for k, v in fields.items() if not k.startswith(("blob", "ctf"))}
    other = {k: v[::-1] for k, v in fields.items() if k == "uid" or k.startswith(("blob", "ctf"))}
    write_fields(folder / "pass.cs", other)
    with pytest.raises(InputError, match="passthrough"):
        write_and_read(folder, main)
    p = read_cs_particles(folder / "particles.cs", folder / "pass.cs")
    assert p.stack_index.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(p.extra["ctf/df1_A"], fields["ctf/df1_A"])
    write_fields(folder / "pass.cs", {k: v[1:] for k, v in other.items()})
    with pytest.raises(InputError, match="1 of 4 particles"):
        read_cs_particles(folder / "particles.cs", folder / "pass.cs")


def test_symmetry_copies_share_their_image_and_get_new_uids_on_export(folder: Path) -> None:
    fields = some_fields(**{"blob/idx": np.array([0, 0, 1, 1], "u4"), "sym_expand/idx": np.array([0, 1, 0, 1], "u4"),
                            "alignments3D/split": np.array([0, 0, 1, 1], "u4")})
    p = write_and_read(folder, fields)
    assert p.copy.tolist() == [0, 1, 0, 1] and p.image_uid[0] == p.image_uid[1] != p.image_uid[2]
    doubled = p.take(np.array([0, 0])).with_columns(copy=np.array([0, 1]))
    write_cs_particles(folder / "out.cs", doubled)
    assert len(set(read_fields(folder / "out.cs")["uid"].tolist())) == 2


def test_rows_past_the_end_of_a_stack_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="row 4 wants image 5"):
        write_and_read(folder, some_fields(**{"blob/idx": np.array([0, 1, 2, 4], "u4")}))


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.cs").write_bytes(b"PK\3\4 something else")
    for name in ("x.cs", "absent.cs"):
        with pytest.raises(InputError):
            read_fields(tmp_path / name)


def test_tilt_trefoil_tetrafoil_and_magnification_become_aberrations_of_their_optics_group(folder: Path) -> None:
    fields = some_fields(**{"ctf/tilt_A": np.array([[5400.0, -2700.0]] * 3 + [[0, 0]], "f4"),
                            "ctf/trefoil_A": np.array([[900.0, -600.0]] * 3 + [[0, 0]], "f4"),
                            "ctf/tetra_A": np.array([[2e4, 1e4, -3e4, 5e4]] * 3 + [[0] * 4], "f4"),
                            "ctf/anisomag": np.array([[0.01, 0.002, 0.003, -0.01]] * 3 + [[0] * 4], "f4")})
    with pytest.warns(UserWarning, match="tilt, trefoil and tetrafoil are applied"):
        particles = write_and_read(folder, fields)
    bare, group = particles.optics_groups
    assert particles.optics.tolist() == [1, 1, 1, 0]
    assert (bare.beam_tilt_rad, bare.odd_zernike, bare.even_zernike, bare.magnification) == ((0, 0), (), (), (1, 0, 0, 1))
    np.testing.assert_allclose(np.sin(group.beam_tilt_rad), [2e-4, -1e-4], rtol=1e-6)
    np.testing.assert_allclose(group.magnification, (1.01, 0.002, 0.003, 0.99), rtol=1e-6)
    wavelength_A, angle, s = 0.0196874, np.linspace(-3, 3, 41), 0.25
    x, y = s * np.cos(angle), s * np.sin(angle)
    chi = -2 * np.pi / 3 * wavelength_A**2 * s**3 * (900 * np.cos(3 * angle) - 600 * np.sin(3 * angle))
    np.testing.assert_allclose(zernike_sum(group.odd_zernike, True, x, y), chi, atol=2e-5)
    fourfold = -3e4 * np.cos(4 * angle) + 5e4 * np.sin(4 * angle)
    gamma = np.pi / 2 * wavelength_A**3 * s**4 * (4 * (2e4 * np.cos(2 * angle) + 1e4 * np.sin(2 * angle)) + fourfold)
    np.testing.assert_allclose(zernike_sum(group.even_zernike, False, x, y), gamma, atol=2e-5)


def test_a_coma_without_spherical_aberration_is_kept_as_zernike_terms(folder: Path) -> None:
    fields = some_fields(**{"ctf/cs_mm": np.zeros(4, "f4"), "ctf/tilt_A": np.array([[5400.0, -2700.0]] * 4, "f4")})
    with pytest.warns(UserWarning, match="are applied"):
        group = write_and_read(folder, fields).optics_groups[0]
    assert group.beam_tilt_rad == (0.0, 0.0)
    x, y = np.random.default_rng(2).uniform(-0.3, 0.3, (2, 20))
    chi = -2 * np.pi * 0.0196874**2 * (x**2 + y**2) * (5400 * x - 2700 * y)
    np.testing.assert_allclose(zernike_sum(group.odd_zernike, True, x, y), chi, atol=2e-5)


@pytest.mark.filterwarnings("ignore:.*(are applied|anisomag).*")
def test_aberrations_go_from_star_to_cs_and_back_and_what_has_no_field_is_said(tmp_path: Path) -> None:
    aberrated = {"rlnOpticsGroup": 1, "rlnOpticsGroupName": "g", "rlnVoltage": 300, "rlnSphericalAberration": 2.7,
                 "rlnAmplitudeContrast": 0.1, "rlnImagePixelSize": 2, "rlnBeamTiltX": 0.3, "rlnBeamTiltY": -0.2,
                 "rlnOddZernike": "[0,0,1.5,0,0,-2.5]",
                 "rlnEvenZernike": "[0,3,0,6,4,1,0,2,5]", "rlnMagMat00": 1.01, "rlnMagMat01": 0.02, "rlnMagMat10": 0.03,
                 "rlnMagMat11": 0.99}
    particles = read_star_particles(write_data_set(tmp_path, plain_rows(3), noise_images(3), [aberrated]))
    write_cs_particles(tmp_path / "out.cs", particles)
    before, after = particles.optics_groups[0], read_cs_particles(tmp_path / "out.cs").optics_groups[0]
    for name in ("beam_tilt_rad", "odd_zernike", "even_zernike", "magnification"):
        np.testing.assert_allclose(getattr(after, name), getattr(before, name), rtol=1e-6, atol=1e-9)
    more = replace(before, even_zernike=(1.0, *before.even_zernike[1:]))
    with pytest.warns(UserWarning, match="the aberrations of g have terms"):
        write_cs_particles(tmp_path / "more.cs", replace(particles, optics_groups=(more,)))
