"""Write docs/recipe.md from the recipe models, so that the page cannot disagree with the code.

Run ``python docs/generate_recipe_reference.py`` after a change of a model; a test compares.
"""

from __future__ import annotations

import typing
from pathlib import Path
from types import NoneType, UnionType
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pipeline.recipe import Recipe
from pipeline.recipe.kinds import kinds_in, whole_type

PAGE = Path(__file__).resolve().parent / "recipe.md"
HEAD = """# Recipe reference

One YAML file is one complete, named run: *what* is done. *Where* it is done (store, data folder, device, workers) comes
from flags or `SCALE_...` variables. Unknown keys are errors. This page is generated from the models in
`pipeline/recipe/`; complete examples are in `flows/recipes/`.
"""


def render() -> str:
    """Return the page's text."""
    parts = [HEAD]
    seen: list[type[BaseModel]] = []
    _collect(Recipe, seen)
    parts += [_section(model) for model in seen]
    return "\n".join(parts)


def _collect(model: type[BaseModel], seen: list[type[BaseModel]]) -> None:
    if model in seen:
        return
    seen.append(model)
    for info in model.model_fields.values():
        for inner in _models_in(whole_type(info)):
            _collect(inner, seen)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if (kinds := kinds_in(annotation)) is not None:
        return list(dict.fromkeys(kinds.own.values()))
    return [model for argument in typing.get_args(annotation) for model in _models_in(argument)]


def _section(model: type[BaseModel]) -> str:
    doc = " ".join((model.__doc__ or "").split())
    lines = [f"## {model.__name__}", "", doc, "", "| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name, info in model.model_fields.items():
        key = info.alias or name
        meaning = " ".join((info.description or "").split())
        lines.append(f"| `{key}` | {_type(whole_type(info))} | {_default(info)} | {meaning} |".replace("|  |", "| |"))
    return "\n".join(lines) + "\n"


def _type(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if (kinds := kinds_in(annotation)) is not None:
        return " or ".join(_type(model) for model in dict.fromkeys(kinds.own.values()))
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, UnionType):
        return " or ".join("none" if a is NoneType else _type(a) for a in arguments)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return f"list of {_type(arguments[0])}"
        return f"[{', '.join(_type(a) for a in arguments)}]"
    if origin is list:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"name: {_type(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    return {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}.get(
        getattr(annotation, "__name__", ""), str(annotation)
    )


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.default
    if value is PydanticUndefined or isinstance(value, BaseModel):
        return "its defaults" if isinstance(value, BaseModel) and len(type(value).model_fields) > 1 else "none"
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{list(value) if isinstance(value, tuple) else value}`"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
