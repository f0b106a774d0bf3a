"""The chains in workflow/examples: each can be planned, and the one from a homodimer to its protomers keeps its promises."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protomer.config.chain import Step, read_chain
from protomer.engine.alignment import IDENTITY
from protomer.errors import InputError
from protomer.formats.hdf5 import read_map_record, read_particles
from protomer.jobs.run import describe_chain
from protomer.running.job_run import RunOptions, run_job
from protomer.simulation.files import read_truth
from protomer.simulation.truth import pose_errors
from protomer.symmetry.point_groups import operators
from protomer_kernels.rotations import matrices_from_quaternions, rotation_errors
from protomer_kernels.shells import fourier_shell_correlation
from refinement_runs import PROJECT

EXAMPLES = PROJECT / "workflow/examples"
#: what makes the chain small enough for a test: fewer, clearer images, coarse frequencies alone
SMALLER: dict[str, dict[str, Any]] = {
    "simulated": {"number": 160, "box": 32, "pixel_size": "3.6A", "snr": 0.8, "seed": 1},
    "without": {"max_alignment_resolution": "11A", "rehearse": False},
    "with_c2": {"max_alignment_resolution": "11A", "rehearse": False}}
#: of the other chain, which goes on to local refinement
SMALLER_PROTOMER: dict[str, dict[str, Any]] = {
    "simulated": {"number": 400, "box": 40, "pixel_size": "3A", "snr": 0.8, "seed": 2},
    "whole": {"max_alignment_resolution": "9A", "rehearse": False},
    **{name: {"rehearse": False, "noise_control": False} for name in ("flexible", "on_the_fly", "of_subtracted")}}
LOOKED_AT_ONLY = "symmetry"  # ranks all groups, which takes long and changes nothing; symmetry-find has tests of its own


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.yaml")))
def test_every_example_is_planned(name: str) -> None:
    said = describe_chain(read_chain(EXAMPLES / name), EXAMPLES / name, 2)
    assert all(f"  {step.name}: {step.job.name}" in said for step in read_chain(EXAMPLES / name).steps)


def run_step(step: Step, folder: Path, smaller: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One step of a chain in its folder, smaller than it stands there."""
    inputs = {name: [str(folder / path) for path in paths if path is not None] for name, paths in step.files.items()} | dict(step.texts)
    return run_job(step.job, inputs, {**step.settings, **smaller.get(step.name, {})}, RunOptions(folder / step.name, threads=1))


@pytest.fixture(scope="module")
def homodimer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, dict[str, Any]]]]:
    """The chain's folder, and the summary of each step."""
    folder = tmp_path_factory.mktemp("homodimer")
    chain = read_chain(EXAMPLES / "homodimer.yaml")
    yield folder, {step.name: run_step(step, folder, SMALLER) for step in chain.steps if step.name != LOOKED_AT_ONLY}


Ran = tuple[Path, dict[str, dict[str, Any]]]


def test_the_axis_is_found_where_the_start_map_was_tilted_to(homodimer: Ran) -> None:
    folder, said = homodimer
    truth = read_truth(folder / "simulated/truth.h5")

    def tilt_deg(name: str) -> float:
        """Angle between z and the true two-fold axis, which is z in the truth's frame, in the frame of a step's poses."""
        particles = read_particles(folder / name / "particles.h5")
        rows = particles.stack_index
        errors = pose_errors(particles.rotation, particles.shift_A, truth.rotation[rows], truth.shift_A[rows], operators("C2"))
        return float(np.rad2deg(np.arccos(min(1.0, abs(errors.frame.rotation[2, 2])))))

    assert tilt_deg("without") > 20 and tilt_deg("on_axis") < 1.0 and tilt_deg("with_c2") < 1.0
    assert said["on_axis"]["residual_angle_deg"] < 1.0 and said["on_axis"]["angle_deg"] > 20
    assert said["on_axis"]["is_carried"] and said["on_axis"]["group"] == "C2"


def test_imposing_the_group_does_not_cost_resolution(homodimer: Ran) -> None:
    without, with_c2 = (homodimer[1][name]["resolution_A"]["corrected"] for name in ("without", "with_c2"))
    assert with_c2 <= without < 20


def test_the_map_without_symmetry_does_not_pass_the_gate_and_the_one_on_its_axes_does(homodimer: Ran, tmp_path: Path) -> None:
    folder, said = homodimer
    step = next(step for step in read_chain(EXAMPLES / "homodimer.yaml").steps if step.name == "copies")
    off_axis = {name: str(folder / "without") for name in ("particles", "volume")} | {"symmetry": "C2"}
    with pytest.raises(InputError) as caught:
        run_job(step.job, off_axis, {}, RunOptions(tmp_path / "copies", threads=1))
    assert "symmetry-find" in caught.value.remedy and not (tmp_path / "copies/particles.h5").exists()
    assert said["copies"]["axis_error_deg"] < 0.2 and said["copies"]["forced"] is False


def test_every_image_is_there_twice_in_its_own_half_set(homodimer: Ran) -> None:
    folder, said = homodimer
    images, copies = (read_particles(folder / name / "particles.h5") for name in ("with_c2", "copies"))
    assert len(copies) == said["copies"]["rows"] == 2 * len(images) == 320
    half = dict(zip(images.image_uid.tolist(), images.half.tolist(), strict=True))
    assert [half[uid] for uid in copies.image_uid.tolist()] == copies.half.tolist()


def test_the_copies_without_symmetry_give_the_map_that_the_images_give_with_it(homodimer: Ran) -> None:
    folder, said = homodimer
    copied, imposed = (read_map_record(folder / name / "volume.h5").half_maps for name in ("check", "imposed"))
    for one, other in zip(copied, imposed, strict=True):
        curve = fourier_shell_correlation(one.data, other.data)
        assert len(curve) == 17 and curve.min() > 0.999
    assert said["check"]["agreement"]["lowest"] > 0.999
    assert "lowest of all shells" in (folder / "check/report.html").read_text()
    plain = read_map_record(folder / "without/volume.h5").half_maps  # before it was moved: a check that can fail
    assert fourier_shell_correlation(plain.a.data, imposed.a.data)[1:].min() < 0.9


@pytest.mark.slow
def test_the_chain_goes_on_to_one_protomer_that_moves_with_and_without_subtraction(tmp_path: Path) -> None:
    steps = [step for step in read_chain(EXAMPLES / "protomer.yaml").steps if step.name != "rigid"]
    (tmp_path / "rigid").mkdir()
    said = {}
    for step in steps:
        if "rigid" in str(step.files.get("beside")):
            step = replace(step, files={**step.files, "beside": tuple(p for p in step.files["beside"] if "rigid" not in str(p))})
        said[step.name] = run_step(step, tmp_path, SMALLER_PROTOMER)
    truth = read_truth(tmp_path / "simulated/truth.h5").take(read_particles(tmp_path / "copies/particles.h5").stack_index)
    bodies = [matrices_from_quaternions(truth.body_rotation[:, body]) for body in (0, 1)]

    def median_error_deg(name: str) -> float:
        """Of the protomer in the mask, whichever it is: in the pose of the image it is one body, in its mate's the other."""
        found = matrices_from_quaternions(read_particles(tmp_path / name / "particles.h5").rotation)
        whole = [np.linalg.norm(rotation_errors(g @ truth.rotation_matrix, found, IDENTITY), axis=1) for g in operators("C2")]
        mate = np.argmin(whole, axis=0)
        error = [[np.linalg.norm(rotation_errors(g @ body, found, IDENTITY), axis=1) for g in operators("C2")] for body in bodies]
        return min(float(np.rad2deg(np.median(np.where(mate == 0, error[b][0], error[1 - b][1])))) for b in (0, 1))

    errors = {name: median_error_deg(name) for name in ("copies", "flexible", "on_the_fly", "of_subtracted")}
    print({name: round(error, 2) for name, error in errors.items()})
    assert errors["flexible"] < 0.9 * errors["copies"]
    assert max(errors["on_the_fly"], errors["of_subtracted"]) < 1.05 * errors["flexible"]
    assert list(said["of_subtracted"]["beside_A"]) == ["flexible", "on_the_fly"]
    assert said["copies"]["rows"] == len(read_particles(tmp_path / "centred/particles.h5")) == 800
