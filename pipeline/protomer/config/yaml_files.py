"""Reading YAML that people write: safe tags only; a key given twice is an error, and so is a document that unfolds beyond all measure."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from protomer.errors import InputError

LARGEST_BYTES = 1 << 22
MOST_NODES, DEEPEST = 100_000, 40


class _StrictLoader(yaml.SafeLoader):
    """The safe loader, which refuses a repeated key."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys all differ."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):  # the others are refused below
                if key in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
                seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """A whole number of at most 64 bits: a longer one cannot even be printed."""
        value: int = super().construct_yaml_int(node)
        if abs(value) >= 1 << 64:
            raise yaml.constructor.ConstructorError(None, None, "a whole number of more than 64 bits", node.start_mark)
        return value


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _StrictLoader.construct_yaml_int)


def _unfolded(node: yaml.Node, known: dict[int, int], depth: int = 0) -> int:
    """How many nodes the document has once every alias stands for what it names. Raises YAMLError where that is too many or too deep."""
    if depth > DEEPEST:
        raise yaml.YAMLError(f"nested more than {DEEPEST} deep, or an alias inside what it names")
    if id(node) not in known:
        parts = [part for item in node.value for part in (item if isinstance(item, tuple) else (item,))] if isinstance(
            node, yaml.CollectionNode) else []
        known[id(node)] = 1 + sum(_unfolded(part, known, depth + 1) for part in parts)
        if known[id(node)] > MOST_NODES:
            raise yaml.YAMLError(f"more than {MOST_NODES} entries once its aliases are filled in")
    return known[id(node)]


def _parse(text: str) -> Any:
    """The document, measured before it is built."""
    loader = _StrictLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _unfolded(node, {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


def read_yaml_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises InputError for a missing file, bad YAML, tags that build objects, and repeated keys."""
    try:
        with open(path, "rb") as handle:
            raw = handle.read(LARGEST_BYTES + 1)
        if len(raw) > LARGEST_BYTES:
            raise InputError(f"{path} is larger than {LARGEST_BYTES} bytes", "a file of settings or a chain",
                             "check that it is the right file")
        document = _parse(raw.decode("utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})", "a YAML file", "check the path") from error
    except RecursionError as error:
        raise InputError(f"{path}: nested too deep", "plain YAML: names, numbers, text, lists", "mend the brackets") from error
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:  # the last: of tagged values
        raise InputError(f"{path}: {error}", "plain YAML: names, numbers, text, lists", "mend that line") from error
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise InputError(f"{path} holds {type(document).__name__}", "a mapping of names to values, one `name: value` a line",
                         "write the file in that form")
    return document
