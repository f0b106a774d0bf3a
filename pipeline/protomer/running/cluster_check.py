"""What can be said about a SLURM profile before anything is queued: its partition, and whether srun and MPI understand each other."""

from __future__ import annotations

import difflib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from protomer.config.yaml_files import read_yaml_mapping
from protomer.errors import InputError

#: what an MPI library, by the beginning of its version, can be started through; others are not judged
SPOKEN = {"MPICH": ("pmi2", "cray_shasta"), "Open MPI": ("pmix",)}
_COMMAND_S = 60.0


def check_profile(profile: Path, has_ranks: bool) -> None:
    """Check the profile in a folder, where it submits to SLURM. has_ranks: whether any step runs under MPI. Raises InputError."""
    content = read_yaml_mapping(profile / "config.yaml")
    if content.get("executor") != "slurm":
        return
    resources = default_resources(content, profile)
    if shutil.which("sbatch") is None:
        raise InputError(f"--profile {profile}: this machine has no sbatch", "a login node of a cluster with SLURM",
                         "log in there, or give --profile local")
    check_partition(resources.get("slurm_partition"), profile)
    launcher = shlex.split(resources.get("launcher", "srun").strip("'\""))
    if has_ranks and launcher and Path(launcher[0]).name == "srun":
        check_launcher(launcher, profile)


def default_resources(content: dict[str, Any], profile: Path) -> dict[str, str]:
    """The default resources of a profile by name. Raises InputError where they have another form."""
    given = content.get("default-resources") or []
    if isinstance(given, dict):
        return {str(name): str(value) for name, value in given.items()}
    words = [str(word).partition("=") for word in given] if isinstance(given, list) else []
    if not isinstance(given, list) or any(not separator for _, separator, _ in words):
        raise InputError(f"{profile / 'config.yaml'}: default-resources: {given!r}", "a list of name=value",
                         "see cluster/slurm/config.yaml")
    return {name.strip(): value.strip() for name, _, value in words}


def check_partition(wanted: str | None, profile: Path) -> None:
    """InputError where the partition is not one of this SLURM's, or none is named and there is no default."""
    known = {name.strip("*"): name.endswith("*") for name in _ask(["sinfo", "--noheader", "--format=%P"]).split()}
    if wanted is None:
        if not any(known.values()):
            raise InputError(f"{profile / 'config.yaml'} names no partition, and this SLURM has no default", f"one of {', '.join(known)}",
                             "copy the folder, add `- slurm_partition=NAME` to its default-resources, and give --profile FOLDER")
        return
    names = wanted.strip("'\"").split(",")
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, list(known), n=1)
            raise InputError(f"{profile / 'config.yaml'}: slurm_partition={name}: there is no such partition", f"one of {', '.join(known)}",
                             f"did you mean {near[0]!r}?" if near else "change it in the profile")


def check_launcher(launcher: list[str], profile: Path) -> None:
    """InputError where the --mpi of srun is not one that this SLURM has, or not one that mpi4py's library speaks."""
    chosen = next((word.partition("=")[2] for word in launcher if word.startswith("--mpi=")), None)
    if chosen is None:
        return
    types = set(re.findall(r"\b(?:pmi\w*|none|openmpi|cray_\w+)\b", _ask(["srun", "--mpi=list"])))
    if types and chosen not in types:
        raise InputError(f"{profile / 'config.yaml'}: srun --mpi={chosen}: this SLURM has no such type",
                         f"one of {', '.join(sorted(types))}",
                         "change `launcher` in the profile")
    library = mpi_library()
    spoken = next((types for name, types in SPOKEN.items() if library.startswith(name)), None)
    if spoken is not None and not chosen.startswith(spoken):
        raise InputError(f"{profile / 'config.yaml'}: srun --mpi={chosen}, but mpi4py uses {library}, which does not speak it: every rank "
                         "would believe that it is alone", f"--mpi={spoken[0]}", "change `launcher` in the profile")


def mpi_library() -> str:
    """The first words of the version of the MPI library that mpi4py loads here, found in a process of its own; empty where that fails."""
    code = "import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI; print(MPI.Get_library_version())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=_COMMAND_S).stdout
    return " ".join(said.split()[:3])


def _ask(words: list[str]) -> str:
    """What a command of SLURM says. Raises InputError where SLURM does not answer."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_COMMAND_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"`{' '.join(words)}`: {error}", "an answer of SLURM", "try that command by hand") from error
    if done.returncode:
        raise InputError(f"`{' '.join(words)}`: {done.stderr.strip()}", "an answer of SLURM", "try that command by hand")
    return done.stdout + done.stderr
