"""The criteria by which rows of a particle table are asked one by one, from the settings and inputs of the job select.

Raises InputError and SettingsError where a criterion cannot mean anything for a table: a class that no row has, a name that matches
nothing, a likelihood that no job has computed, another set that shares no image.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from protomer.declarations.select import SelectSettings
from protomer.errors import InputError, SettingsError
from protomer.formats.hdf5 import read_particles
from protomer.running.events import Events
from protomer.running.job_run import Inputs
from protomer.symmetry.point_groups import operators
from protomer.tables.particle_matching import is_of_copies, row_keys, rows_of, turns_rad
from protomer.tables.particles import Particles
from protomer.tables.selection import Criterion

MOST_NAMED = 8  # names or classes that an error lists
MOST_INDEX = 100_000


def criteria_of(particles: Particles, inputs: Inputs, settings: SelectSettings, events: Events) -> list[Criterion]:
    """All that are asked for, in the order in which they are applied."""
    return [*_of_classes(particles, inputs, settings, events), *_of_origin(particles, settings, events), *_of_numbers(particles, settings),
            *_of_changes(particles, inputs, settings, events), *_of_sets(particles, inputs, settings)]


def _of_classes(particles: Particles, inputs: Inputs, settings: SelectSettings, events: Events) -> Iterator[Criterion]:
    """class, min_posterior, min_pose_posterior."""
    texts = [text for text in inputs.values["class"] if text is not None]
    if texts:
        column, wanted = particles.class_number, read_indices("class", ",".join(texts), 1)
        if not column.any():
            raise InputError(f"--class {','.join(texts)}, and no row has a class", "particles of a classification, ours or imported",
                             "leave out --class, or classify the particles first")
        yield Criterion.of("class", f"class {','.join(map(str, wanted))}", _among(column, wanted, "class", events))
    for name, source, label in (("min_posterior", "class_posterior", "probability of the class"),
                                ("min_pose_posterior", "pose_posterior", "probability that the pose is right")):
        least, values = getattr(settings, name), particles.columns[source]
        if least is None:
            continue
        if (values == 1).all():
            events.warn("posterior_unknown", f"{name} = {least:g}, but every row has {source} 1: no job has measured it, and all pass")
        yield Criterion.between(name, values, label, least, None)


def _of_origin(particles: Particles, settings: SelectSettings, events: Events) -> Iterator[Criterion]:
    """half, copy, optics, micrograph."""
    if settings.half is not None:
        if (particles.half < 0).all():
            raise InputError(f"half = {settings.half}, and no row has a half-set", "particles with half-sets", "import them with half-sets")
        yield Criterion.of("half", f"half {settings.half}", particles.half == "ab".index(settings.half))
    if settings.copy is not None:
        wanted = read_indices("copy", settings.copy, 0)
        yield Criterion.of("copy", f"copy {','.join(map(str, wanted))}", _among(particles.columns["copy"], wanted, "copy", events))
    if settings.optics is not None:
        names = [group.name for group in particles.optics_groups]
        fits = _fitting("optics", settings.optics, names)
        yield Criterion.of("optics", f"optics group {settings.optics}", np.array([name in fits for name in names], bool)[particles.optics])
    if settings.micrograph is not None:
        listed = particles.micrograph.tolist()
        fits = _fitting("micrograph", settings.micrograph, sorted(set(listed)))
        passes = np.fromiter((name in fits for name in listed), bool, len(listed))
        yield Criterion.of("micrograph", f"micrograph {settings.micrograph}", passes)


def _of_numbers(particles: Particles, settings: SelectSettings) -> Iterator[Criterion]:
    """Ranges of defocus and log-likelihood."""
    low, high = _range("defocus", settings.defocus_min, settings.defocus_max)
    if low is not None or high is not None:
        yield Criterion.between("defocus", (particles.defocus_u_A + particles.defocus_v_A) / 2, "defocus (Å)", low, high)
    low, high = _range("log-likelihood", settings.min_log_likelihood, settings.max_log_likelihood)
    if low is not None or high is not None or settings.keep_best is not None:
        values = particles.log_likelihood
        if len(values) and (values == values[0]).all():
            raise InputError(f"a criterion on log-likelihood, and every row has {values[0]:g}", "log-likelihoods that a refinement found",
                             "give the particles.h5 of a refinement, or select by something else")
    if low is not None or high is not None:
        yield Criterion.between("log_likelihood", particles.log_likelihood, "log-likelihood", low, high)


def _range(what: str, low: float | None, high: float | None) -> tuple[float | None, float | None]:
    if low is not None and high is not None and low > high:
        raise SettingsError(f"{what} from {low:g} to {high:g}", "a range whose lower end is below its upper end", "exchange the two")
    return low, high


def _of_changes(particles: Particles, inputs: Inputs, settings: SelectSettings, events: Events) -> Iterator[Criterion]:
    """max_rotation_change and max_shift_change against the reference; rows that it has not got do not pass."""
    most_deg, most_A = settings.max_rotation_change, settings.max_shift_change
    if most_deg is None and inputs.symmetry != "C1" and not settings.rebalance:
        raise SettingsError(f"--symmetry {inputs.symmetry}, and no largest change of rotation", "max_rotation_change, which counts to the "
                            "nearest mate of that group, or rebalance", "add for example --max-rotation-change 10deg, or leave it out")
    if most_deg is None and most_A is None:
        if inputs.reference is not None:
            raise SettingsError("--reference, and nothing that is compared with it", "max_rotation_change, max_shift_change, or both",
                                "add for example --max-rotation-change 10deg, or leave out --reference (--with keeps what is in a set)")
        return
    if inputs.reference is None:
        raise SettingsError("a largest change of pose, and no --reference to compare with", "the same particles at other poses",
                            "add --reference and the particles of an earlier job")
    before = read_particles(inputs.reference)
    for table, name in ((particles, inputs.particles), (before, inputs.reference)):
        if not table.has_poses:
            raise InputError(f"{name}: these particles have no poses", "poses on both sides of the comparison", "refine them first")
    keys, known = row_keys([particles, before], True)
    if len(np.unique(known)) < len(known):
        raise InputError(f"{inputs.reference} has several rows of one image and copy", "one, to compare with",
                         "give the set that the particles came from")
    row = rows_of(keys, known)
    is_known = row >= 0
    _require_some(is_known, inputs.reference)
    if not is_known.all():
        events.warn("not_in_reference", f"{int((~is_known).sum())} of {len(row)} rows are not in {inputs.reference}: they do not pass")
    if most_deg is not None:
        turn_deg = np.rad2deg(turns_rad(before.rotation[row], particles.rotation, operators(inputs.symmetry, inputs.axes)))
        yield Criterion.between("max_rotation_change", np.where(is_known, turn_deg, np.nan), "change of rotation (degrees)", None, most_deg)
    if most_A is not None:
        moved_A = np.linalg.norm(particles.shift_A - before.shift_A[row], axis=1)
        yield Criterion.between("max_shift_change", np.where(is_known, moved_A, np.nan), "change of shift (Å)", None, most_A)


def _of_sets(particles: Particles, inputs: Inputs, settings: SelectSettings) -> Iterator[Criterion]:
    """with and without."""
    for name, keeps in (("with", True), ("without", False)):
        for path in inputs.values[name]:
            if path is None:
                continue
            other = read_particles(path)
            by_copy = settings.match == "copy" or (settings.match == "auto" and is_of_copies(particles) and is_of_copies(other))
            found = rows_of(*row_keys([particles, other], by_copy)) >= 0
            if keeps:
                _require_some(found, path)
            what = "image and copy" if by_copy else "image"
            yield Criterion.of(name, f"{what} {'' if keeps else 'not '}in {path}", found if keeps else ~found)


def _require_some(found: np.ndarray, path: Path) -> None:
    if len(found) and not found.any():
        raise InputError(f"{path} shares no image with the particles", "a set that comes from the same import",
                         "compare sets of one import: an image is known by its stack's content and its place in it")


def _among(column: np.ndarray, wanted: Sequence[int], what: str, events: Events) -> np.ndarray:
    """bool (n,). Raises InputError where no row has any of the wanted numbers; warns of those that none has."""
    there, count = np.unique(column, return_counts=True)
    absent = ", ".join(str(number) for number in wanted if number not in there)
    listed = ", ".join(f"{number} ({rows} rows)" for number, rows in list(zip(there.tolist(), count.tolist(), strict=True))[:MOST_NAMED])
    passes = np.isin(column, wanted)
    if not passes.any():
        raise InputError(f"no row has {what} {absent}", f"one of {listed}",
                         "check the numbers: classes count from 1 (0: none was given), copies from 0")
    if absent:
        events.warn("absent", f"no row has {what} {absent}; there are {listed}")
    return np.asarray(passes)


def _fitting(what: str, patterns: str, names: Sequence[str]) -> set[str]:
    """The names that one of the patterns fits, whole or by their last part. Raises InputError for a pattern that fits none."""
    fits: set[str] = set()
    for pattern in (part.strip() for part in patterns.split(",")):
        found = {name for name in names if any(fnmatch.fnmatchcase(part, pattern) for part in (name, name.rpartition("/")[2]))}
        if not found:
            listed = ", ".join(repr(name) for name in names[:MOST_NAMED]) + (", ..." if len(names) > MOST_NAMED else "")
            raise InputError(f"no {what} is called {pattern!r}", f"a name or a pattern that fits one of {listed}",
                             f"write the name as above, or with * for what may be anything: {what}=*NAME*")
        fits |= found
    return fits


def read_indices(name: str, text: str, lowest: int) -> list[int]:
    """Whole numbers and ranges with commas between them, such as 1,3 or 2-4, in order. Raises SettingsError."""
    wanted: set[int] = set()
    for part in text.split(","):
        ends = [end.strip() for end in part.split("-")]
        if len(ends) > 2 or not all(end.isdecimal() and len(end) < 7 for end in ends):
            raise SettingsError(f"{name} {text!r}", "whole numbers and ranges with commas between", f"write for example {name}=1,3 or 2-4")
        first, last = int(ends[0]), int(ends[-1])
        if not lowest <= first <= last <= MOST_INDEX:
            raise SettingsError(f"{name} {part.strip()}", f"from {lowest} up, lower ends first", f"write for example {name}=1-3")
        wanted |= set(range(first, last + 1))
    return sorted(wanted)
