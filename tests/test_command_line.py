"""The command line: precedence, spelling of names, exit codes, and how soon --help answers."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

import counting_job
from protomer.catalogue import JOB_NAMES, declaration
from protomer.command_line import exit_code, invoke, job_command, jobs, report_error
from protomer.config.yaml_files import read_yaml_mapping
from protomer.environment import kernel_digest, use_kernel_cache
from protomer.errors import InputError, Stopped, StorageError
from protomer.running.job_run import plan_job
from protomer.running.run_folder import read_record

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture
def environment() -> dict[str, str]:
    """An environment in which child processes find the packages and the counting job."""
    roots = [str(PROJECT / "pipeline"), str(PROJECT / "kernels"), str(PROJECT / "tests")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(roots)}


@pytest.fixture
def numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in with a file of numbers; thread counts set by a command are taken back."""
    monkeypatch.chdir(tmp_path)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "NUMBA_CACHE_DIR"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    (tmp_path / "numbers.txt").write_text("1\n2\n3\n")
    return tmp_path / "numbers.txt"


def counting(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Call the counting job's command in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["protomer-counting", *words])
    return invoke(job_command(counting_job.JOB), "protomer-counting")


def settings_of(folder: str) -> dict[str, Any]:
    record = read_record(Path(folder))
    assert record is not None
    return dict(record.settings)


def test_flags_win_over_set_and_set_over_config(numbers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("given.yaml").write_text("numbers: numbers.txt\nsteps: 1\nwidth: 2A\nsettings: {seed: 1, limit: 5}\n")
    assert counting(monkeypatch, "--config", "given.yaml", "--set", "width=3", "--set", "seed=2", "--seed", "3", "--output", "out") == 0
    found = settings_of("out")
    assert (found["steps"], found["width"], found["seed"], found["limit"]) == (1, 3.0, 3, 5.0)


def test_the_saved_settings_repeat_the_run(numbers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert counting(monkeypatch, "--numbers", "numbers.txt", "--width", "2 Å", "--sharpen", "--limit", "none", "--output", "a") == 0
    assert counting(monkeypatch, "--config", "a/settings.yaml", "--output", "b") == 0
    assert settings_of("a") == settings_of("b") and settings_of("a")["sharpen"] is True
    assert Path("a/sum.txt").read_bytes() == Path("b/sum.txt").read_bytes()


def test_switches_and_names_may_be_spelt_in_every_usual_way(numbers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert counting(monkeypatch, "--numbers=numbers.txt", "--sharpen", "off", "--dry_run") == 0
    assert counting(monkeypatch, "--numbers", "numbers.txt", "--sharpen=yes", "--output", "out", "--set", "sharpen=no") == 0
    assert settings_of("out")["sharpen"] is True


@pytest.mark.parametrize(("words", "said"), [
    (["--widht", "3"], "--width"), (["--set", "widht=3"], "did you mean 'width'"), (["--set", "width"], "--set name=value"),
    (["--width", "3deg"], "unit 'deg'"), (["--helical", "1"], "not available in this version"), (["--steps"], "requires an argument"),
    (["--threads", "0"], "--threads"), (["--config", "absent.yaml"], "cannot be read"), (["--backend", "tpu"], "auto, cpu, cuda"),
    (["--backend", "cuda"], "no CUDA device is at hand"), (["surplus"], "surplus")])
def test_bad_command_lines_exit_with_2_and_write_nothing(words: list[str], said: str, numbers: Path, monkeypatch: pytest.MonkeyPatch,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    assert counting(monkeypatch, "--numbers", "numbers.txt", "--output", "out", *words) == 2
    errors = capsys.readouterr().err
    assert said in errors and "Traceback" not in errors
    assert not Path("out").exists()


def test_a_command_without_output_is_refused_and_a_dry_run_needs_none(numbers: Path, monkeypatch: pytest.MonkeyPatch,
                                                                      capsys: pytest.CaptureFixture[str]) -> None:
    assert counting(monkeypatch, "--numbers", "numbers.txt") == 2
    assert "no --output" in capsys.readouterr().err
    assert counting(monkeypatch, "--numbers", "numbers.txt", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "memory" in said and "a note" in said
    assert {path.name for path in Path().iterdir()} == {"numbers.txt"}


def test_a_dry_run_refuses_what_the_run_itself_would_refuse(numbers: Path, monkeypatch: pytest.MonkeyPatch,
                                                            capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in ((["--backend", "cuda"], "no CUDA device is at hand"), (["--width", "wide"], "width"),
                        (["--mask", "absent.txt"], "no such file")):
        assert counting(monkeypatch, "--numbers", "numbers.txt", "--dry-run", *words) == 2
        shown = capsys.readouterr()
        assert said in shown.err and "memory" not in shown.out
    with pytest.raises(InputError, match="started on 2 ranks"):
        plan_job(declaration("mask"), {}, {}, 2, 1)


@pytest.mark.parametrize("text", ["!!python/object/apply:os.system ['touch hacked']", "steps: !!python/name:os.system",
                                  "steps: 1\nsteps: 2", "- steps", "steps: [", "steps: 1\n? {a: 1}\n: 2"])
def test_yaml_that_builds_objects_repeats_keys_or_is_no_mapping_is_refused(text: str, tmp_path: Path,
                                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text(text)
    with pytest.raises(InputError, match=r"bad\.yaml"):
        read_yaml_mapping(Path("bad.yaml"))
    assert not Path("hacked").exists()


def test_a_config_of_another_job_is_refused(numbers: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Path("given.yaml").write_text(yaml.safe_dump({"job": "refine", "steps": 3}))
    assert counting(monkeypatch, "--config", "given.yaml", "--output", "out") == 2
    assert "protomer refine" in capsys.readouterr().err


def test_an_interrupted_run_says_how_to_go_on_and_not_that_it_is_a_fault(capsys: pytest.CaptureFixture[str]) -> None:
    report_error(KeyboardInterrupt())
    said = capsys.readouterr().err
    assert "interrupted" in said and "--resume" in said and "fault" not in said and exit_code(KeyboardInterrupt()) == 130


def test_every_kind_of_error_has_its_exit_code() -> None:
    assert [exit_code(error) for error in (InputError("a", "b", "c"), Stopped("s"), StorageError("d"), ValueError("v"))] == [2, 75, 1, 1]


def test_a_fault_is_one_short_message_and_a_traceback_only_when_asked_for(numbers: Path, monkeypatch: pytest.MonkeyPatch,
                                                                         capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--numbers", "numbers.txt", "--trouble", "fault", "--output", "out")
    assert counting(monkeypatch, *words) == 1
    said = capsys.readouterr().err
    assert "ZeroDivisionError: a fault on every rank" in said and "Traceback" not in said and len(said.splitlines()) == 2
    monkeypatch.setenv("PROTOMER_DEBUG", "1")
    assert counting(monkeypatch, *words, "--resume") == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_unknown_job_suggests_the_nearest(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["protomer", "refnie"])
    assert invoke(jobs, "protomer") == 2
    assert "did you mean 'refine'" in capsys.readouterr().err


def test_the_stop_signal_of_a_real_process_gives_75(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "numbers.txt").write_text("1\n")
    script = f"""
import os, threading, sys, time
sys.argv = ["protomer-counting", "--numbers", "numbers.txt", "--output", "out", "--steps", "100", "--pause", "0.05"]
import runpy
def stop_once_it_runs():
    while not os.path.exists("out/steps.txt"):
        time.sleep(0.02)
    os.kill(os.getpid(), 10)
threading.Thread(target=stop_once_it_runs).start()
runpy.run_path({str(PROJECT / "tests" / "counting_job.py")!r}, run_name="__main__")
"""
    result = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert result.returncode == 75 and "--resume goes on" in result.stderr


@pytest.mark.parametrize("words", [["--help"], ["refine", "--help"]])
def test_help_answers_soon_and_imports_no_numerics(words: list[str], environment: dict[str, str]) -> None:
    code = ("import sys; sys.argv = ['protomer', *sys.argv[1:]]\nfrom protomer.command_line import main\n"
            "try: main()\nexcept SystemExit: pass\n"
            "print('HEAVY', sorted({'numpy', 'numba', 'scipy', 'mpi4py', 'h5py', 'rich', 'jsonschema'} & set(sys.modules)))")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run([sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "HEAVY []" in result.stdout and "Usage: protomer" in result.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_help_lists_every_job_and_every_job_lists_every_setting(monkeypatch: pytest.MonkeyPatch,
                                                                capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["protomer", "--help"])
    assert invoke(jobs, "protomer") == 0
    listed = capsys.readouterr().out
    assert all(re.search(rf"^  {name} ", listed, re.MULTILINE) for name in JOB_NAMES)
    for name in JOB_NAMES:
        monkeypatch.setattr(sys, "argv", ["protomer", name, "--help"])
        assert invoke(jobs, "protomer") == 0
        said = capsys.readouterr().out
        job = declaration(name)
        flags = [*job.settings.fields(), *(given.name for given in job.inputs if not given.positional)]
        assert all(f"--{flag.replace('_', '-')}" in said for flag in flags)


def test_every_job_has_its_own_console_script() -> None:
    text = (PROJECT / "setup.cfg").read_text()
    assert all(f"protomer-{name} = protomer.command_line:job_main" in text for name in JOB_NAMES)


def test_the_kernel_cache_is_keyed_by_the_sources_and_moves_where_it_cannot_be_written(tmp_path: Path,
                                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    use_kernel_cache()
    assert os.environ["NUMBA_CACHE_DIR"] == str(tmp_path / "cache" / kernel_digest())
    use_kernel_cache()
    assert os.environ["NUMBA_CACHE_DIR"] == str(tmp_path / "cache" / kernel_digest())
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file"))
    use_kernel_cache()
    assert Path(os.environ["NUMBA_CACHE_DIR"]).is_dir() and tmp_path not in Path(os.environ["NUMBA_CACHE_DIR"]).parents


def test_threads_are_set_before_numpy_is_imported(tmp_path: Path, environment: dict[str, str]) -> None:
    code = ("import os, sys; from protomer.command_line import under_one_roof\nfrom protomer.environment import prepare_environment\n"
            "assert 'numpy' not in sys.modules\nprepare_environment(1)\nassert 'numpy' not in sys.modules\n"
            "import numpy, numba; assert os.environ['OMP_NUM_THREADS'] == '1' and numba.config.NUMBA_NUM_THREADS == 1")
    subprocess.run([sys.executable, "-c", code], env={**environment, "NUMBA_CACHE_DIR": str(tmp_path)}, check=True)


def test_errors_name_the_rank_that_met_them(capsys: pytest.CaptureFixture[str]) -> None:
    report_error(ValueError("odd"), "rank 3: ")
    assert "rank 3: fault: ValueError: odd" in capsys.readouterr().err


def test_the_example_commands_of_a_help_text_keep_a_line_each() -> None:
    lines = [line.strip() for line in CliRunner().invoke(jobs, ["export", "--help"]).output.splitlines()]
    assert [line for line in lines if line.startswith("protomer export ")] == [line for line in lines if "protomer export " in line]
    assert sum(line.startswith("protomer export ") for line in lines) == 3
