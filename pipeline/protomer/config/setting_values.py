"""Reading one setting's value from what a person wrote: numbers with units, switches, choices."""

from __future__ import annotations

import math
import re
import sys
import types
import typing
from collections.abc import Sequence
from typing import Any

from protomer.errors import SettingsError

_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(.*)", re.DOTALL)
_SPELLINGS = {"angstrom": "A", "angstroms": "A", "degree": "deg", "degrees": "deg", "pixel": "px", "pixels": "px",
              "volt": "V", "volts": "V", "second": "s", "seconds": "s"}
_SWITCHES = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_UNSET = ("none", "unset", "off", "")


def plain_unit(text: str) -> str:
    """One spelling for a unit: 'Å', 'Angstrom' and 'A' become 'A', '°' becomes 'deg', 'Å²' and 'A^2' become 'A2'."""
    text = text.strip()
    for mark, plain in (("Å", "A"), ("\u212b", "A"), ("°", "deg"), ("²", "2"), ("³", "3"), ("^", ""), ("µ", "u")):
        text = text.replace(mark, plain)
    return _SPELLINGS.get(text.lower(), text)


def base_type(annotation: Any) -> tuple[type, bool]:
    """The type that a setting's annotation names, and whether it may also be None (`float | None`)."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        members = [member for member in typing.get_args(annotation) if member is not type(None)]
        if len(members) != 1:
            raise TypeError(f"a setting has one type, or one type and None; found {annotation}")
        return members[0], True
    return annotation, False


def read_value(name: str, value: Any, annotation: Any, unit: str, choices: Sequence[str]) -> Any:
    """The value of setting `name` in its declared type.

    Accepts what YAML and command lines give: numbers, strings with or without the setting's unit ("5deg", "30 Å"), switches (on, off,
    yes, no, true, false), and none/unset/off where the setting may be unset. Raises SettingsError.
    """
    kind, may_be_unset = base_type(annotation)
    if may_be_unset and value not in choices and (value is None or (value is False and kind is not bool) or _says_unset(value)):
        return None
    if kind is bool:
        return _read_switch(name, value)
    if kind in (int, float):
        return _read_number(name, value, kind, unit)
    return _read_text(name, value, choices)


def _says_unset(value: Any) -> bool:
    return isinstance(value, str) and value.strip().lower() in _UNSET


def _read_switch(name: str, value: Any) -> bool:
    switch = _SWITCHES.get(str(value).strip().lower())
    if switch is None:
        raise SettingsError(f"setting {name}: {value!r}", "true or false (yes, no, on, off)", f"write {name}=true or {name}=false")
    return switch


def _read_number(name: str, value: Any, kind: type, unit: str) -> int | float:
    described = f"{'a whole number' if kind is int else 'a number'}{f' in {unit}' if unit else ''}"
    example = f"write for example {name}={'3' if kind is int else '5'}{unit}"
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise SettingsError(f"setting {name}: {value!r}", described, example)
    if isinstance(value, str):
        match = _NUMBER.fullmatch(value.strip())
        if match is None:
            raise SettingsError(f"setting {name}: {value!r}", described, example)
        if match.group(2) and plain_unit(match.group(2)) != plain_unit(unit):
            raise SettingsError(f"setting {name}: {value!r} has the unit {match.group(2)!r}", described, example)
        value = float(match.group(1))
    if abs(value) > sys.float_info.max or not math.isfinite(value) or (kind is int and value != int(value)):
        raise SettingsError(f"setting {name}: {value!r}", described, example)
    return int(value) if kind is int else float(value)


def _read_text(name: str, value: Any, choices: Sequence[str]) -> str:
    if isinstance(value, bool):  # YAML reads an unquoted on/off or yes/no as a switch
        value = next((word for word in (("on", "yes") if value else ("off", "no", "none")) if word in choices), value)
    if isinstance(value, (list, tuple)) and all(isinstance(part, (int, float)) and not isinstance(part, bool) for part in value):
        value = ",".join(str(part) for part in value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str) and f"+{value.strip()}" in choices:  # YAML reads +1 as the number 1
        value = f"+{value.strip()}"
    if not isinstance(value, str):
        raise SettingsError(f"setting {name}: {value!r}", "a word or text", f"write {name}=WORD")
    if choices and value not in choices:
        raise SettingsError(f"setting {name}: {value!r}", "one of " + ", ".join(choices), f"write for example {name}={choices[0]}")
    return value


def read_numbers(name: str, text: str, counts: Sequence[int], unit: str = "") -> list[float]:
    """Numbers with commas between them, each with its unit or without, in text that a setting holds. Raises SettingsError.

    counts: how many there may be.
    """
    parts = [_NUMBER.fullmatch(part.strip()) for part in text.split(",")]
    values = [float(part.group(1)) for part in parts if part is not None and plain_unit(part.group(2)) in ("", plain_unit(unit))]
    if len(values) != len(parts) or len(values) not in counts or not all(math.isfinite(value) for value in values):
        many = f"{' or '.join(map(str, counts))} numbers with commas between"
        raise SettingsError(f"setting {name}: {text!r}", "one number" if list(counts) == [1] else many,
                            f"write {name}={','.join(['50'] * counts[0])}")
    return values
