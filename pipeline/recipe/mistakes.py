"""What is wrong with a recipe, in the words of whoever wrote it: one line a mistake, with what is known instead."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from pipeline.names import did_you_mean
from pipeline.recipe.kinds import kinds_in, whole_type
from pipeline.recipe.recipe_text import RecipeText

MAX_LISTED = 20
MAX_SHOWN_CHARS = 80
_TYPES = {
    "int_parsing": "a whole number", "int_type": "a whole number", "int_from_float": "a whole number",
    "int_parsing_size": "a whole number of reasonable size", "float_parsing": "a number", "float_type": "a number",
    "finite_number": "a finite number", "string_type": "text", "bool_parsing": "true or false",
    "bool_type": "true or false", "model_type": "a mapping of keys", "model_attributes_type": "a mapping of keys",
    "dict_type": "a mapping of names", "tuple_type": "a list", "list_type": "a list",
}  # fmt: skip
_LIMITS = {
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "too_short": "at least {min_length} of them",
    "too_long": "at most {max_length} of them",
    "string_pattern_mismatch": "text of the form {pattern}",
}


def explain(err: ValidationError, model: type[BaseModel], text: RecipeText, source: str) -> str:
    """Return the message for a recipe that does not validate.

    Parameters
    ----------
    err : ValidationError
    model : type
        What was validated against.
    text : RecipeText
        Where the lines are; without any when the recipe did not come as text.
    source : str
        Its file.
    """
    items = err.errors(include_url=False)
    absent = {item["loc"] for item in items if item["type"] == "missing"}
    mistakes: dict[str, _Mistake] = {}
    for item in items:
        found, line = text.locate(item["loc"])
        place = ".".join(str(part) for part in found) or "(top level)"
        if item["type"] == "extra_forbidden":
            mistakes[place] = _Mistake(line, [_unknown_key(model, item["loc"], absent)], "")
        elif item["type"] != "missing":
            expected, value = _expected(item)
            mistake = mistakes.setdefault(place, _Mistake(line, [], value))
            if expected not in mistake.expected:
                mistake.expected.append(expected)
    for loc in absent:  # but for those that an unknown key is a misspelling of
        found, line = text.locate(loc)
        place = ".".join(str(part) for part in (*found, loc[-1]))
        mistakes[place] = _Mistake(line, ["expected a value, found none; add this key"], "")
    for place in list(mistakes):  # a list with bad items counts as too short, too
        if any(other.startswith(f"{place}.") for other in mistakes):
            del mistakes[place]
    listed = [
        f"  {f'line {mistake.line}: ' if mistake.line else ''}{place}: {' or '.join(mistake.expected)}{mistake.found}"
        for place, mistake in mistakes.items()
    ]
    more = [f"  ... and {len(listed) - MAX_LISTED} more"] if len(listed) > MAX_LISTED else []
    return "\n".join([f"{source}: {len(listed)} problem(s) in the recipe:", *listed[:MAX_LISTED], *more])


@dataclass
class _Mistake:
    line: int | None
    expected: list[str]
    found: str


def _unknown_key(model: type[BaseModel], loc: tuple[Any, ...], absent: set[tuple[Any, ...]]) -> str:
    """Say what was meant by an unknown key; a key that is absent beside it is no second mistake then."""
    siblings = _fields_at(model, loc[:-1])
    beside = [other for other in absent if other[:-1] == loc[:-1]]
    for other in beside:
        if meant := did_you_mean(str(loc[-1]), [str(other[-1])]):
            absent.discard(other)
            return f"unknown key{meant}"
    if not siblings:  # one of several forms, and keys of two of them
        return "expected either this key or those beside it, found both; leave one out"
    return f"unknown key{did_you_mean(str(loc[-1]), siblings) or f'; known here: {shown_list(siblings)}'}"


def shown(value: Any) -> str:
    """Return a value as its writer would know it again, and no longer than a line."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__} too large to be shown"
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}..."


def shown_list(words: Sequence[str]) -> str:
    """Return words with commas, or that there are none."""
    return ", ".join(words) or "none"


def _expected(item: Any) -> tuple[str, str]:
    """Return what was expected, and what was found instead, for one of pydantic's errors."""
    kind, context, value = item["type"], item.get("ctx", {}), item.get("input")
    found = "" if isinstance(value, dict) else f", found {shown(value)}"
    if kind.startswith("union_tag"):
        name = str(context["discriminator"]).split("|")[-1].strip("' ")  # 'source' | 'from': the recipe says from
        if kind == "union_tag_not_found":
            return f"expected a mapping with `{name}`, which says what this is", found
        known = [word.strip("' ") for word in str(context["expected_tags"]).split(",")]
        tag = str(context["tag"])
        return f"expected `{name}` out of {', '.join(known)}", f", found {shown(tag)}{did_you_mean(tag, known)}"
    if kind == "literal_error":
        known = [word for word in str(context["expected"]).replace(" or ", ", ").replace("'", "").split(", ") if word]
        meant = did_you_mean(value, known) if isinstance(value, str) else ""
        return f"expected one of {', '.join(known)}", f"{found}{meant}"
    if kind == "value_error":
        return str(context.get("error", item["msg"])), ""
    if kind in _LIMITS:
        return f"expected {_LIMITS[kind].format(**context)}", found
    return f"expected {_TYPES[kind]}" if kind in _TYPES else item["msg"][:300], found


def _fields_at(model: type[BaseModel], place: tuple[Any, ...]) -> list[str]:
    """Return the keys that may stand at a place, by the names a recipe uses."""
    here: list[Any] = [model]
    for part in place:
        further = [inner for kind in here for inner in _inside(kind, part)]
        here = further or [kind for kind in here if _is_called(kind, str(part))] or here
    return list(
        dict.fromkeys(
            info.alias or name for kind in here if _is_model(kind) for name, info in kind.model_fields.items()
        )
    )


def _inside(kind: Any, part: Any) -> list[Any]:
    if _is_model(kind):
        named = {info.alias or name: whole_type(info) for name, info in kind.model_fields.items()}
        return list(_alternatives(named[part])) if part in named else []
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is dict:
        return list(_alternatives(arguments[1]))
    if typing.get_origin(kind) in (tuple, list) and isinstance(part, int):
        return list(_alternatives(arguments[0]))
    return []


def _alternatives(annotation: Any) -> Iterator[Any]:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if (kinds := kinds_in(annotation)) is not None:
        yield from kinds.known
    elif origin is typing.Annotated:
        yield from _alternatives(arguments[0])
    elif origin in (typing.Union, types.UnionType):
        for argument in arguments:
            yield from _alternatives(argument)
    else:
        yield annotation


def _is_called(kind: Any, tag: str) -> bool:
    """Whether a model is the alternative of this name: its class, or what its `kind`, `policy` or `from` says."""
    if not _is_model(kind):
        return False
    words = [
        word
        for info in kind.model_fields.values()
        if typing.get_origin(info.annotation) is typing.Literal
        for word in typing.get_args(info.annotation)
    ]
    return kind.__name__ == tag or tag in words


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
