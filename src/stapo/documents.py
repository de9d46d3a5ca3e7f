"""JSON and YAML from files and servers of others: a value, or one `ValueError` that says why not, within seconds.

The parsers of the libraries raise half a dozen kinds of error and can be made to hang; what is read from outside is
read here. What the value should be (a mapping, a list of rows) is the caller's to check.
"""

from __future__ import annotations

import json
from typing import Any

import yaml

MOST_YAML_NODES = 20_000
"""Values in a YAML document once aliases are followed; a configuration has a few hundred."""

_DEEPEST = 100


def parse_json(text: str | bytes) -> Any:
    """Read one JSON document.

    Raises:
        ValueError: it is not UTF-8, not JSON, or nested too deep to be read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    except UnicodeDecodeError as err:
        raise ValueError(f"not UTF-8: byte {err.object[err.start]:#04x} at offset {err.start}") from None
    except json.JSONDecodeError as err:
        raise ValueError(f"not JSON: {err.msg} at line {err.lineno} column {err.colno}") from None
    # An integer of thousands of digits is a ValueError of Python's own, and says so.


def parse_yaml(text: str) -> Any:
    """Read one YAML document with plain values only (PyYAML's safe loader).

    Raises:
        ValueError: it is not YAML, nested too deep, larger than any configuration once its aliases are followed,
            contains itself, or has a value that is not what it looks like (`2024-13-45`, `!!int abc`).
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            return None
        _count_nodes(root)
        return _construct(root)
    except RecursionError:
        raise ValueError("nested too deep") from None
    except yaml.MarkedYAMLError as err:
        where = f" at line {err.problem_mark.line + 1} column {err.problem_mark.column + 1}" if err.problem_mark else ""
        raise ValueError(f"not YAML: {err.problem or err.context or 'unreadable'}{where}") from None
    except yaml.YAMLError as err:
        raise ValueError(f"not YAML: {' '.join(str(err).split())}") from None
    except (TypeError, OverflowError, AttributeError, KeyError, IndexError) as err:
        # The constructors of scalars raise what their conversion raises.
        raise ValueError(f"a value that cannot be read: {err}") from None


def _construct(root: yaml.Node) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(root)
    finally:
        loader.dispose()


def _count_nodes(root: yaml.Node) -> int:
    """Values below a node, aliases followed; each node is visited once, however often it is named."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: yaml.Node, depth: int) -> int:
        key = id(node)
        if key in sizes:
            return sizes[key]
        if key in open_nodes:
            raise ValueError("a value contains itself through an alias")
        if depth > _DEEPEST:
            raise ValueError("nested too deep")
        open_nodes.add(key)
        total = 1
        if isinstance(node, yaml.MappingNode):
            total += sum(size(k, depth + 1) + size(v, depth + 1) for k, v in node.value)
        elif isinstance(node, yaml.SequenceNode):
            total += sum(size(item, depth + 1) for item in node.value)
        open_nodes.discard(key)
        if total > MOST_YAML_NODES:
            raise ValueError(f"aliases unfold it to more than {MOST_YAML_NODES:,} values")
        sizes[key] = total
        return total

    return size(root, 0)
