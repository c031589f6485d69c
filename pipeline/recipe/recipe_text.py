"""The text of a recipe: YAML read in bounded time and memory, where every mistake has a line.

Files of strangers are read here. A hundred bytes of aliases can stand for gigabytes, a tag can name a class, a key can
be given twice. So the text is looked through event by event, without recursion, before anything is built from it; and
only what a recipe can need is let through: mappings with distinct words as keys, lists, words and numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from pipeline.errors import RecipeError

MAX_VALUES = 100_000
"""Values in a recipe, every alias counted as what it stands for."""
MAX_DEPTH = 40
MAX_NUMBER_CHARS = 64
_TAG = "tag:yaml.org,2002:"
_KNOWN_TAGS = frozenset(_TAG + name for name in ("str", "int", "float", "bool", "null", "map", "seq", "merge"))


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # one of the two, by the build
    """A date is a word here: `name: 2020-99-99` is a name."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if tag != f"{_TAG}timestamp"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


@dataclass(frozen=True)
class RecipeText:
    """A recipe's content, and on which line each part of it stands."""

    content: Any
    root: yaml.Node | None

    def locate(self, place: tuple[str | int, ...]) -> tuple[tuple[str | int, ...], int | None]:
        """Return the part of `place` that the text has, and its line (from 1).

        Parameters
        ----------
        place : tuple
            Keys and positions; those that the text does not have, such as names of alternatives, are passed over.
        """
        found: list[str | int] = []
        line = None
        content, node = self.content, self.root
        for part in place:
            inside = isinstance(content, dict) and part in content
            if not inside and not (isinstance(content, list) and isinstance(part, int) and part < len(content)):
                continue
            found.append(part)
            content = content[part]
            key, node = _step(node, part)
            if node is not None:
                line = (key or node).start_mark.line + 1
        return tuple(found), line


def read_text(text: str, *, source: str) -> RecipeText:
    """Parse a recipe's text.

    Parameters
    ----------
    text : str
    source : str
        Named in messages.

    Raises
    ------
    RecipeError
        If it is not YAML, stands for more than a recipe can hold, gives a key twice, or uses tags or dates of its own.
    """
    try:
        _check_size(text, source)
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            if root is None:
                return RecipeText(None, None)
            for node in _nodes(root):
                _check_node(node, source)
            return RecipeText(loader.construct_document(root), root)
        finally:
            loader.dispose()
    except yaml.YAMLError as err:
        raise RecipeError(_what_is_wrong(err, source)) from err
    except RecipeError:
        raise
    except (ValueError, OverflowError, RecursionError) as err:
        raise RecipeError(f"{source}: expected YAML, found a value that cannot be read: {err}") from err


def odd_words(content: Any) -> Iterator[str]:
    """Yield the words that no path, query or file can hold: with NUL, or halves of characters."""
    pending = [content]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            pending.extend((*value, *value.values()))
        elif isinstance(value, list | tuple):
            pending.extend(value)
        elif isinstance(value, str) and ("\0" in value or any("\ud800" <= char <= "\udfff" for char in value)):
            yield value


def _check_size(text: str, source: str) -> None:
    """Count values, aliases included, and depth; nothing is built."""
    sizes: list[int] = [0]
    anchors: list[str | None] = [None]
    known: dict[str, int] = {}
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in anchors:
                raise RecipeError(f"{source}, line {line}: the alias *{event.anchor} stands inside what it names")
            sizes[-1] += known.get(event.anchor or "", 1)
        elif isinstance(event, yaml.ScalarEvent):
            sizes[-1] += 1
            if event.anchor:
                known[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            sizes.append(1)
            anchors.append(event.anchor)
            if len(sizes) > MAX_DEPTH:
                raise RecipeError(
                    f"{source}, line {line}: expected at most {MAX_DEPTH} levels of lists and mappings, found more"
                )
        elif isinstance(event, yaml.CollectionEndEvent):
            size, anchor = sizes.pop(), anchors.pop()
            sizes[-1] += size
            if anchor:
                known[anchor] = size
        if sizes[-1] > MAX_VALUES:
            raise RecipeError(
                f"{source}, line {line}: expected at most {MAX_VALUES:,} values, found more (an alias counts as all "
                "that it stands for); give long lists in a CSV file"
            )


def _nodes(root: yaml.Node) -> Iterator[yaml.Node]:
    """Yield every node once, however often it is named."""
    pending, seen = [root], set()
    while pending:
        node = pending.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if isinstance(node, yaml.MappingNode):
            pending.extend(part for pair in node.value for part in pair)
        elif isinstance(node, yaml.SequenceNode):
            pending.extend(node.value)


def _check_node(node: yaml.Node, source: str) -> None:
    where = f"{source}, line {node.start_mark.line + 1}"
    if node.tag not in _KNOWN_TAGS:
        shown = node.tag.removeprefix(_TAG)[:60]
        raise RecipeError(f"{where}: expected words, numbers, lists and mappings, found the tag {shown!r}")
    if isinstance(node, yaml.ScalarNode):
        if node.tag in (f"{_TAG}int", f"{_TAG}float") and len(node.value) > MAX_NUMBER_CHARS:
            raise RecipeError(
                f"{where}: expected a number of at most {MAX_NUMBER_CHARS} characters, found {len(node.value)}"
            )
    elif isinstance(node, yaml.MappingNode):
        _check_keys(node, source)


def _check_keys(node: yaml.MappingNode, source: str) -> None:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise RecipeError(f"{source}, line {line}: expected a word as a key, found a list or mapping")
        if key.value in lines and key.tag != f"{_TAG}merge":
            raise RecipeError(
                f"{source}, line {line}: the key {key.value[:60]!r} stands here again, first in line "
                f"{lines[key.value]}; keep one of them"
            )
        lines[key.value] = line


def _step(node: yaml.Node | None, part: str | int) -> tuple[yaml.Node | None, yaml.Node | None]:
    """Return key and value of one part of a place; (None, None) where the text has no such part."""
    if isinstance(node, yaml.MappingNode):
        return next(((k, v) for k, v in node.value if k.value == str(part)), (None, None))
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return None, node.value[part]
    return None, None


def _what_is_wrong(err: yaml.YAMLError, source: str) -> str:
    mark = getattr(err, "problem_mark", None) or getattr(err, "context_mark", None)
    place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    problem = getattr(err, "problem", None) or getattr(err, "reason", None) or str(err).splitlines()[0]
    context = getattr(err, "context", None)
    return (
        f"{source}{place}: expected YAML, found something else: {problem}{f' ({context})' if context else ''}; look "
        "for a bracket or quote that is not closed, or a line that is not indented like its neighbours"
    )
