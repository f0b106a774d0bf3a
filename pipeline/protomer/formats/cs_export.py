"""Particles to a cryoSPARC .cs file: fields of an imported file come back bit for bit where nobody changed what they say."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np

from protomer.formats.cs_aberrations import CsAberrations
from protomer.formats.cs_fields import NUMBERS, poses_from_rotation, rotation_from_poses, stack_name
from protomer.formats.cs_table import Fields, write_fields
from protomer.formats.stack_names import keeps_name, new_names
from protomer.formats.star_columns import same, same_rows
from protomer.formats.star_export import stack_pixel_size_A
from protomer.randomness import combine
from protomer.tables.particles import DEFAULTS, Particles

_ALWAYS = ("ctf/df1_A", "ctf/df2_A", "ctf/df_angle_rad", "ctf/phase_shift_rad", "ctf/scale", "ctf/bfactor")


def write_cs_particles(path: str | os.PathLike[str], particles: Particles, project_folder: Path | None = None) -> None:
    """Write particles as one .cs file (particles and passthrough in one), atomically; new stack paths as in `write_star_particles`.

    Raises StorageError where the disk refuses.
    """
    write_fields(path, cs_fields(path, particles, project_folder))


def cs_fields(path: str | os.PathLike[str], particles: Particles, project_folder: Path | None = None) -> Fields:
    """What `write_cs_particles` writes to `path`: a field of n values for each row's identity, image, CTF and pose."""
    fields: Fields = {name: column for name, column in particles.extra.items() if name == "uid" or "/" in name}
    fields["uid"] = _uids(particles, fields)
    is_new = "blob/path" not in fields and len(particles) > 0
    if is_new or "blob/path" in fields:
        _put_images(Path(path), fields, particles, project_folder)
    if is_new:
        _put_optics(fields, particles)
    for number in NUMBERS:
        ours = particles.columns[number.column]
        old = fields.get(number.field)
        if old is not None:
            fields[number.field] = np.where(same(number.ours(old), ours), old, number.theirs(ours)).astype(old.dtype)
        elif (is_new and number.field in _ALWAYS) or not (same(ours, DEFAULTS.get(number.column, 0)).all() or (ours < 0).all()):
            fields[number.field] = number.theirs(ours)
    if particles.is_expanded and "sym_expand/src_uid" not in fields:
        fields["sym_expand/src_uid"] = particles.extra.get("uid", particles.image_uid)
    if particles.has_poses:
        _put_poses(fields, particles)
    return fields


def _uids(particles: Particles, fields: Fields) -> np.ndarray:
    """The imported uids; new ones for symmetry copies (which must differ) and for particles that never had any."""
    if "uid" in fields and len(np.unique(fields["uid"])) == len(particles):
        return fields["uid"]
    own = fields.get("uid", particles.image_uid)
    return np.where(particles.copy > 0, combine(own, particles.copy.astype(np.uint64)), own) if len(particles) else np.zeros(0, np.uint64)


def _put_images(path: Path, fields: Fields, particles: Particles, project_folder: Path | None) -> None:
    names = new_names(particles, project_folder)
    texts, old = np.array([names[i] for i in particles.stack.tolist()], "S"), fields.get("blob/path")
    if old is not None and len(old):
        texts = np.where(keeps_name(particles, [stack_name(name) for name in old.tolist()], path, project_folder), old, texts)
    fields["blob/path"] = texts
    fields["blob/idx"] = particles.stack_index.astype("<u4")
    pixel = np.array([stack_pixel_size_A(particles, i) for i in range(len(particles.optics_groups))])[particles.optics].astype("<f4")
    if "alignments3D/psize_A" in fields and "blob/psize_A" in fields:
        ratio = np.where(pixel == fields["blob/psize_A"], np.float32(1), pixel / fields["blob/psize_A"])
        fields["alignments3D/psize_A"] = (fields["alignments3D/psize_A"] * ratio).astype("<f4")
    box = np.array([s.box for s in particles.stacks])[particles.stack]
    if "blob/shape" in fields:
        box = np.where(box == 0, fields["blob/shape"][:, 0], box)
    fields["blob/shape"] = np.repeat(box[:, None], 2, axis=1).astype("<u4")
    fields["blob/psize_A"] = pixel
    fields["blob/sign"] = np.where(particles.grey_gain < 0, np.float32(-1), np.float32(1))


def _put_optics(fields: Fields, particles: Particles) -> None:
    rows = particles.optics
    fields["ctf/type"] = np.full(len(particles), b"imported")
    fields["ctf/exp_group_id"] = rows.astype("<u4")
    for name, values in {"ctf/accel_kv": [g.voltage_V / 1e3 for g in particles.optics_groups],
                         "ctf/cs_mm": [g.spherical_aberration_A / 1e7 for g in particles.optics_groups],
                         "ctf/amp_contrast": [g.amplitude_contrast for g in particles.optics_groups]}.items():
        fields[name] = np.array(values, "<f4")[rows]
    found = [CsAberrations.of(group) for group in particles.optics_groups]
    for name in ("tilt_A", "trefoil_A", "tetra_A"):
        fields[f"ctf/{name}"] = np.array([getattr(lengths, name) for lengths, _ in found], "<f4")[rows]
    lost = [group.name for group, (_, is_whole) in zip(particles.optics_groups, found, strict=True) if not is_whole]
    if lost:
        warnings.warn(f"the aberrations of {', '.join(lost)} have terms that a .cs file has no field for (Zernike terms of order 0 to 2, "
                      "spherical aberration among them, or above 4): they are left out; export STAR to keep them", stacklevel=3)
    fields["ctf/anisomag"] = np.array([np.subtract(g.magnification, (1, 0, 0, 1)) for g in particles.optics_groups], "<f4")[rows]


def _put_poses(fields: Fields, particles: Particles) -> None:
    """Rotation vectors, and shifts in pixels of alignments3D/psize_A, which is written beside them."""
    pixel = fields.setdefault("alignments3D/psize_A", fields.get("blob/psize_A", np.zeros(0, "<f4"))).astype(np.float64)[:, None]
    poses, shifts = poses_from_rotation(particles.rotation), (particles.shift_A / pixel).astype("<f4")
    if "alignments3D/pose" in fields:
        old_pose, old_shift = fields["alignments3D/pose"], fields["alignments3D/shift"]
        poses = np.where(same_rows(rotation_from_poses(old_pose), particles.rotation)[:, None], old_pose, poses)
        shifts = np.where(same_rows(old_shift.astype(np.float64) * pixel, particles.shift_A)[:, None], old_shift, shifts)
    fields["alignments3D/pose"], fields["alignments3D/shift"] = poses, shifts
