"""What a job is asked: settings as a frozen dataclass, inputs, and the declaration of a job.

Command-line flags, the schema of a chain, --help, the table of the documentation and the saved settings.yaml all come from the same
fields. Nothing heavy is imported here: `protomer --help` reads every declaration.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from protomer.config.setting_values import read_value
from protomer.errors import NotYetError, SettingsError


def setting(default: Any, text: str, *, unit: str = "", choices: tuple[str, ...] = (), later: bool = False,
            minimum: float | None = None, maximum: float | None = None) -> Any:
    """A field of a settings class.

    text: one line for --help. unit: of the number as users write it (A, deg, px, kV, mm, ...). choices: the words allowed.
    later: documented, but only its default works in this version. minimum, maximum: inclusive bounds.
    """
    return field(default=default, metadata={"text": text, "unit": unit, "choices": choices, "later": later, "minimum": minimum,
                                            "maximum": maximum})


@dataclass(frozen=True)
class SettingField:
    """What is known about one setting of a settings class."""

    name: str
    annotation: Any
    default: Any
    text: str
    unit: str
    choices: tuple[str, ...]
    later: bool
    minimum: float | None
    maximum: float | None

    def read(self, value: Any) -> Any:
        """The value in its declared type, checked; SettingsError or NotYetError where it cannot be used."""
        result = read_value(self.name, value, self.annotation, self.unit, self.choices)
        if self.later and result != self.default:
            raise NotYetError(f"setting {self.name} = {result}")
        if result is not None and self.minimum is not None and result < self.minimum:
            raise SettingsError(f"setting {self.name} = {result}", f"at least {self.minimum} {self.unit}".rstrip(), "choose a larger value")
        if result is not None and self.maximum is not None and result > self.maximum:
            raise SettingsError(f"setting {self.name} = {result}", f"at most {self.maximum} {self.unit}".rstrip(), "choose a smaller value")
        return result

    def describe_default(self) -> str:
        """The default as a person writes it."""
        words = {None: "unset", True: "on", False: "off"}
        return words[self.default] if self.default is None or self.annotation is bool else str(self.default)


@dataclass(frozen=True)
class Settings:
    """A frozen set of named values; subclasses add fields made by `setting`."""

    @classmethod
    @functools.cache
    def fields(cls) -> Mapping[str, SettingField]:
        """Every setting of this class by name: its own, then those that it shares with other jobs, the seed last."""
        hints, line = typing.get_type_hints(cls), cls.mro()
        known = {f.name: SettingField(f.name, hints[f.name], f.default, **f.metadata) for f in dataclasses.fields(cls)}

        def shared(name: str) -> int:
            return min(at for at, base in enumerate(line) if name in vars(base).get("__annotations__", {}))

        return {name: known[name] for name in sorted(known, key=shared)}

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """Settings from names (dashes or underscores) and values as YAML or a command line gives them; the rest at their defaults.

        Raises SettingsError for an unknown name (suggesting the nearest) or an impossible value, NotYetError for later work.
        """
        known, values = cls.fields(), {}
        for name, value in mapping.items():
            plain = str(name).replace("-", "_")
            if plain not in known:
                raise unknown_name("setting", plain, known)
            values[plain] = known[plain].read(value)
        return cls(**values)

    def to_mapping(self) -> dict[str, Any]:
        """Every setting by name, as plain values that YAML and JSON can hold; from_mapping gives the same settings back."""
        return {name: getattr(self, name) for name in self.fields()}


@dataclass(frozen=True)
class JobSettings(Settings):
    """Settings that every job has; each job's own class adds its fields."""

    seed: int = setting(0, "seed of all random numbers", minimum=0, maximum=2**63 - 1)


def unknown_name(what: str, name: str, known: Iterable[str]) -> SettingsError:
    """The error for an unknown name, with the nearest known one as its remedy."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    remedy = f"did you mean {near[0]!r}?" if near else "look at --help of the job for all names"
    return SettingsError(f"unknown {what} {name!r}", f"one of {', '.join(known)}", remedy)


@dataclass(frozen=True)
class Input:
    """A file, a folder of a job, or a choice that a job takes.

    file: the file meant when a job's folder is given; None: the value is text (a point group, a file to be written).
    alternatives: other endings that are accepted. repeatable: may be given several times, `none` for a gap. default: used where the
    input is not given. digest: whether the file's SHA-256 is recorded when the run opens (False for image stacks, which import digests).
    positional: may be given without its flag. shipped: may be the name of a model that comes with Protomer, where there is no such file.
    words: what may stand in a file's place, alone or before a colon, such as sphere:120; such a value is text.
    """

    name: str
    text: str
    file: str | None = None
    alternatives: tuple[str, ...] = ()
    required: bool = False
    repeatable: bool = False
    default: str | None = None
    digest: bool = True
    positional: bool = False
    shipped: bool = False
    words: tuple[str, ...] = ()

    def is_word(self, value: str) -> bool:
        """Whether a value is one of the words that may stand in a file's place."""
        return value.partition(":")[0].strip().lower() in self.words


@dataclass(frozen=True)
class Job:
    """The declaration of a job: what it takes, and the module whose `run` and `plan` carry it out.

    ranks: runs under mpiexec. keeps_folder: writes a run folder; where False the module has `execute(inputs, settings, call)` instead.
    passes_on: hands what stands after `--` to another program. cuda: has work that a CUDA device can do.
    """

    name: str
    summary: str
    teaches: str
    inputs: tuple[Input, ...]
    settings: type[JobSettings]
    entry: str
    ranks: bool = False
    keeps_folder: bool = True
    passes_on: bool = False
    cuda: bool = False

    reserved: ClassVar[tuple[str, ...]] = ("output", "config", "set", "backend", "resume", "overwrite", "threads", "cache", "dry_run",
                                           "help", "settings", "job", "provenance", "resources")

    def __post_init__(self) -> None:
        names = [given.name for given in self.inputs] + list(self.settings.fields())
        repeated = {name for name in names if names.count(name) > 1 or name in self.reserved}
        if repeated:
            raise TypeError(f"job {self.name}: names used twice: {', '.join(sorted(repeated))}")

    def input(self, name: str) -> Input | None:
        """The input of that name (dashes or underscores), if there is one."""
        return next((given for given in self.inputs if given.name.replace("-", "_") == name.replace("-", "_")), None)
