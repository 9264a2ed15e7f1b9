"""YAML as every verb reads it: no key twice, no file that grows when it is read."""

from pathlib import Path
from typing import Any

import yaml

from histotransfer_pl.errors import ConfigError

MOST_NODES, MOST_LEVELS = 100_000, 64
"""A study of hundreds of encoders has thousands of nodes on eight levels."""

# The loader in C, where PyYAML has it: 1,000 configurations take 3 s instead of 40 s.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class YamlError(ConfigError, yaml.YAMLError):
    """YAML that cannot be read, or that says two things at once."""


def read_yaml(path: Path) -> Any:
    """Read a file as plain Python values.

    Raises:
        OSError: It cannot be opened.
        YamlError: It is no YAML in UTF-8, has a key twice, or grows without bounds.
    """
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except YamlError as error:
        raise YamlError(f"{path}, {error}") from error
    except UnicodeDecodeError as error:
        raise YamlError(f"{path} is not text in UTF-8: save it as UTF-8") from error


def parse_yaml(text: str) -> Any:
    """What a text says, as plain Python values."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        _refuse_ambiguous(node)
        return None if node is None else loader.construct_document(node)
    except YamlError:
        raise
    except (yaml.YAMLError, ValueError) as error:  # ValueError: the 32nd of January
        raise YamlError(_in_one_line(error)) from error
    finally:
        loader.dispose()


def check_yaml(text: str) -> None:
    """Refuse what ``parse_yaml`` refuses, for a parser that makes its own values of a text."""
    loader = _Loader(text)
    try:
        _refuse_ambiguous(loader.get_single_node())
    except YamlError:
        raise
    except yaml.YAMLError as error:
        raise YamlError(_in_one_line(error)) from error
    finally:
        loader.dispose()


def _refuse_ambiguous(root: yaml.Node | None) -> None:
    sizes: dict[int, int] = {}
    """Nodes that a node stands for when its aliases are written out; 0 while it is counted."""

    def size_of(node: yaml.Node, level: int) -> int:
        key = id(node)
        if key not in sizes:
            sizes[key] = 0
            if level > MOST_LEVELS:
                raise YamlError(f"{_line(node)}: more than {MOST_LEVELS} levels: nest it less")
            sizes[key] = 1 + sum(size_of(child, level + 1) for child in _children(node))
        if sizes[key] == 0:
            raise YamlError(f"{_line(node)}: an anchor that holds itself: write it out")
        if sizes[key] > MOST_NODES:
            raise YamlError(
                f"{_line(node)}: more than {MOST_NODES:,} values once its aliases are written out"
            )
        return sizes[key]

    if root is not None:
        size_of(root, 1)


def _children(node: yaml.Node) -> list[yaml.Node]:
    """What a node holds; a mapping with a key twice is refused."""
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if not isinstance(node, yaml.MappingNode):
        return []
    first: dict[tuple[str, str], str] = {}
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            name = (key.tag, key.value)
            if name in first:
                raise YamlError(
                    f"{_line(key)}: {key.value!r} is there a second time, first in {first[name]}: "
                    "take one of them out"
                )
            first[name] = _line(key)
    return [child for pair in node.value for child in pair]


def _line(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}"


def _in_one_line(error: Exception) -> str:
    """The parser's reason behind the line that it names."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None)
    reason = " ".join(str(problem or error).split())
    return f"line {mark.line + 1}: {reason}" if mark is not None else reason
