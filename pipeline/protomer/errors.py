"""Errors that say what was found, what was expected and what to do; each knows its exit code."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager


class ProtomerError(Exception):
    """Base of all errors that Protomer raises on purpose."""

    exit_code = 1

    def __reduce__(self) -> tuple[Callable[..., ProtomerError], tuple[object, ...]]:
        """So that an error travels between ranks whatever its constructor takes."""
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[ProtomerError], arguments: tuple[object, ...], attributes: Mapping[str, object]) -> ProtomerError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(attributes)
    return error


_LONGEST = 2000


def _shortened(text: str) -> str:
    """Its two ends, where a text quotes more of a file than anyone reads."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST * 3 // 4]} [...] {text[-_LONGEST // 4:]}"


class InputError(ProtomerError):
    """A file, an argument or a setting that cannot be used; nothing has been written."""

    exit_code = 2

    def __init__(self, found: str, expected: str, remedy: str) -> None:
        found, expected, remedy = (_shortened(text) for text in (found, expected, remedy))
        super().__init__(f"{found}\n  expected: {expected}\n  what to do: {remedy}")
        self.found, self.expected, self.remedy = found, expected, remedy

    def within(self, path: object) -> InputError:
        """The same error, of the same class, that names the file in which the fault lies."""
        if str(path) in self.found:
            return self
        error = type(self).__new__(type(self))
        InputError.__init__(error, f"{path}: {self.found}", self.expected, self.remedy)
        return error


class SettingsError(InputError):
    """A setting with an unknown name or an impossible value."""


class NotYetError(InputError):
    """A setting that is documented but whose work is not in this version."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is not available in this version", "a setting that this version can carry out",
                         "leave the setting at its default, or watch CHANGELOG.md for it")


class Stopped(ProtomerError):
    """A signal asked the job to stop; --resume continues from its last checkpoint, if there was one yet."""

    exit_code = 75


class DeviceLost(ProtomerError):
    """A CUDA device failed, or ran out of memory, in the middle of a run; --resume continues from its last checkpoint, if there was one."""

    exit_code = 75


class StorageError(ProtomerError):
    """The disk refused a write (full, or no permission); no half-written output was left."""


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """An InputError that is raised inside says which file it is about."""
    try:
        yield
    except InputError as error:
        raise error.within(path) from error
