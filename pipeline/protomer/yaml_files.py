"""Reading YAML that people write: safe tags only, and a key given twice is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from protomer.errors import InputError


class _StrictLoader(yaml.SafeLoader):
    """The safe loader, which refuses a repeated key."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys all differ."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", node.value[number][0].start_mark)
        return super().construct_mapping(node, deep)


def read_yaml_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises InputError for a missing file, bad YAML, tags that build objects, and repeated keys."""
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})", "a YAML file", "check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError, TypeError) as error:
        raise InputError(f"{path}: {error}", "plain YAML: names, numbers, text, lists", "mend that line") from error
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise InputError(f"{path} holds {type(document).__name__}", "a mapping of names to values, one `name: value` a line",
                         "write the file in that form")
    return document
