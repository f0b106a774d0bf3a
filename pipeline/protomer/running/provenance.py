"""Where results come from: digests of inputs and outputs, and the identity of a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from protomer.errors import InputError


def file_digest(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal; InputError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})", "a readable file", "check the path and its permissions") from error


def describe_file(path: Path, with_digest: bool) -> dict[str, Any]:
    """A file's absolute path and size, with its SHA-256 or, for stacks that import digests itself, its time of change."""
    status = path.stat()
    described: dict[str, Any] = {"path": str(path.absolute()), "size_bytes": status.st_size}
    return {**described, "sha256": file_digest(path)} if with_digest else {**described, "mtime_ns": status.st_mtime_ns}


def digest_of(value: Any) -> str:
    """The SHA-256 of a value that JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def differences(found: Any, asked: Any, name: str = "") -> list[str]:
    """Where two nested mappings differ, one line each: 'settings.seed: 0 there, 1 asked'."""
    if isinstance(found, Mapping) and isinstance(asked, Mapping):
        keys = [*found, *(key for key in asked if key not in found)]
        return [line for key in keys for line in differences(found.get(key), asked.get(key), f"{name}.{key}".lstrip("."))]
    return [] if found == asked else [f"{name}: {found!r} there, {asked!r} asked"]
