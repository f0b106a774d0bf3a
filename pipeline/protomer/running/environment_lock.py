"""protomer.lock: the environment that results depend on, written once and compared later. YAML, to be kept beside a chain."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

import protomer
from protomer import __version__
from protomer.config.yaml_files import read_yaml_mapping
from protomer.errors import InputError
from protomer.running.output import writing_atomically
from protomer.running.provenance import differences
from protomer.running.ranks import mpi_library

LOCK_NAME = "protomer.lock"
_PARTS = ("protomer", "python", "packages", "machine", "mpi")
_HEADING = """\
# The environment in which results were made, by `protomer lock`. `protomer run` compares it with the one it finds and says what differs
# before anything starts; `protomer lock --check FILE` compares it by hand.
"""


def environment_now() -> dict[str, Any]:
    """What this process would compute with: program, Python, packages, machine and MPI library."""
    return {"protomer": {"version": __version__, "commit": _commit(), "sources": sources_digest()},
            "python": {"version": platform.python_version(), "implementation": platform.python_implementation()},
            "packages": dict(sorted(_packages())),
            "machine": {"architecture": platform.machine(), "cpu": _cpu(), "threads": len(os.sched_getaffinity(0)),
                        "libc": " ".join(platform.libc_ver()), "gpus": _gpus()},
            "mpi": mpi_library()}


def write_lock(path: Path) -> dict[str, Any]:
    """Write this environment; returns it. Raises StorageError where the disk refuses."""
    found = environment_now()
    with writing_atomically(path) as temporary:
        temporary.write_text(_HEADING + yaml.safe_dump(found, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return found


def read_lock(path: Path) -> dict[str, Any]:
    """The environment in a lock file. Raises InputError where it is none."""
    document = read_yaml_mapping(path)
    missing = [part for part in _PARTS if part not in document]
    if missing or not isinstance(document["packages"], Mapping):
        raise InputError(f"{path} has no {' and no '.join(missing) or 'list of packages'}", "a file that `protomer lock` wrote",
                         "write it again in the environment it should stand for, or remove it")
    return document


def lock_differences(locked: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Every difference, one line each. Another commit of the same sources is none."""
    one, other = ({**document, "protomer": dict(document["protomer"])} for document in (locked, now))
    if one["protomer"].get("sources") == other["protomer"].get("sources"):
        one["protomer"].pop("commit", None)
        other["protomer"].pop("commit", None)
    return [line.replace(" there, ", " in the lock, ").replace(" asked", " here") for line in differences(one, other)]


def lock_beside(chain_file: Path) -> Path | None:
    """The lock file beside a chain, if there is one."""
    path = chain_file.absolute().parent / LOCK_NAME
    return path if path.is_file() else None


def sources_digest() -> str:
    """16 hexadecimal digits that change with any source of Protomer and of its kernels."""
    import protomer_kernels
    digest = hashlib.sha256()
    for package in (protomer, protomer_kernels):
        folder = Path(str(package.__file__)).parent
        for source in sorted(folder.rglob("*.py")):
            digest.update(str(source.relative_to(folder)).encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


def _commit() -> str | None:
    """The commit of a checkout, with + where files have been changed since; None for an installation without one."""
    root = Path(protomer.__file__).absolute().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        answers = [subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=20).stdout.strip()
                   for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))]
    except (OSError, subprocess.SubprocessError):
        return None
    return answers[0] + ("+" if answers[1] else "")


def _packages() -> Iterator[tuple[str, str]]:
    """Name and version of what Protomer needs, and what that needs; of all that is installed where Protomer itself is not."""
    installed = {_plain(found.metadata["Name"]): found for found in metadata.distributions() if found.metadata["Name"]}
    waiting, seen = (["protomer"] if "protomer" in installed else list(installed)), set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in installed:
            continue
        seen.add(name)
        if name != "protomer":
            yield name, installed[name].version
        for needed in installed[name].requires or ():
            if not re.search(r";.*\bextra\b", needed):
                waiting.append(_plain(re.split(r"[^A-Za-z0-9._-]", needed.strip(), maxsplit=1)[0]))


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _cpu() -> str:
    """The model of the CPU, as the kernel names it."""
    for line in _text("/proc/cpuinfo").splitlines():
        if line.lower().startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _gpus() -> list[str]:
    """Models of NVIDIA devices, as the driver names them; [] where there is none."""
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    return [line.partition(":")[2].strip() for file in files for line in _text(str(file)).splitlines() if line.startswith("Model:")]


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
