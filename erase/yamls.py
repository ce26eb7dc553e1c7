"""YAML from outside: read without building objects, with limits on size, depth and what aliases expand to."""

from __future__ import annotations

from collections import Counter
from typing import Any

import yaml

NODES = 100_000  # values that a file may expand to; the largest shipped one has some hundred
DEPTH = 50


def parse_yaml(text: str) -> Any:
    """The value of one YAML document. Raises ValueError saying in one line what is wrong with it."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {}, 0)
        return loader.construct_document(node)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, OverflowError) as error:
        raise ValueError(" ".join(str(error).split())[:300]) from None
    finally:
        loader.dispose()


def _count(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """Values under ``node``, an alias counted as all it stands for. Raises ValueError for too many, and for repeats.

    A key twice in one section is an error: YAML forbids it, and PyYAML would silently drop the first.
    """
    if known.get(id(node)) == 0 or depth > DEPTH:
        raise ValueError("it is nested too deeply, or holds itself")
    if id(node) in known:
        return known[id(node)]
    known[id(node)], total = 0, 1  # 0 while it is being counted
    if isinstance(node, yaml.MappingNode):
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        if twice:
            raise ValueError(f"the key {twice[0]!r} is there twice in one section")
        total += sum(_count(part, known, depth + 1) for pair in node.value for part in pair)
    elif isinstance(node, yaml.SequenceNode):
        total += sum(_count(part, known, depth + 1) for part in node.value)
    if total > NODES:
        raise ValueError(f"it expands to more than {NODES:,} values")
    known[id(node)] = total
    return total
