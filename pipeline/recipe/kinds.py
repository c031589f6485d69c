"""Sections of a recipe that come in kinds, and can be added to: in a file of the house, or by an installed package.

A kind is a frozen :class:`Spec` whose `kind` (or `policy`) is a literal. Those of the house stand in one folder, a file
each, and are found there. Others come through an entry point whose name is the kind and whose value is the class; it is
imported when a recipe names it, never before.
"""

from __future__ import annotations

import pkgutil
import typing
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, Generic, TypeVar, cast

from pydantic import GetCoreSchemaHandler, ValidationInfo, ValidatorFunctionWrapHandler
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError, PydanticKnownError, SchemaValidator, core_schema

from pipeline.recipe.base import Spec

S = TypeVar("S", bound=Spec)


class Kinds(Generic[S]):
    """All kinds of one section. As metadata of a type, ``Annotated[Base, KINDS]``, it validates and writes them.

    Parameters
    ----------
    group : str
        Entry-point group of kinds from outside.
    base : type
        What every kind inherits.
    package : str
        The folder of the house's kinds, as a module name.
    key : str
        The field that names the kind.
    default : str, optional
        The kind where none is named.
    """

    def __init__(
        self, group: str, base: type[S], package: str, *, key: str = "kind", default: str | None = None
    ) -> None:
        self.group, self.base, self.package, self.key, self.default = group, base, package, key, default
        self._loaded: dict[EntryPoint, type[S]] = {}

    @cached_property
    def own(self) -> Mapping[str, type[S]]:
        """Kind -> class, of the house's own, in the order of their files."""
        load_modules(self.package)
        return {kind: spec for spec in subclasses(self.base) if self._is_own(spec) for kind in kinds_of(spec, self.key)}

    @property
    def outside(self) -> Mapping[str, EntryPoint]:
        """Kind -> entry point, of installed packages; nothing is imported."""
        return {point.name: point for point in entry_points(group=self.group) if point.name not in self.own}

    @property
    def names(self) -> tuple[str, ...]:
        """Every kind that a recipe may name."""
        return (*self.own, *self.outside)

    @property
    def known(self) -> tuple[type[S], ...]:
        """Classes of all kinds that are imported: the house's own, and what recipes have named from outside."""
        return tuple(dict.fromkeys((*self.own.values(), *self._loaded.values())))

    def load(self, kind: str) -> type[S]:
        """Return the class of a kind that an installed package brings.

        Raises
        ------
        PydanticCustomError
            If the package does not bring it.
        """
        point = self.outside[kind]
        if point not in self._loaded:
            self._loaded[point] = self._imported(kind, point)
        return self._loaded[point]

    def _imported(self, kind: str, point: EntryPoint) -> type[S]:
        try:
            spec = point.load()
        except Exception as err:  # whatever an installed package raises when it is imported
            problem = f"importing it raised {type(err).__name__}: {err}"
        else:
            if isinstance(spec, type) and issubclass(spec, self.base) and kind in kinds_of(spec, self.key):
                return spec
            problem = f"it is no {self.base.__name__} whose {self.key} is {kind!r}"
        raise PydanticCustomError(
            "broken_kind",
            "expected the entry point {point} ({group}) to give a section of a recipe, found that {problem}; "
            "mend or remove the package that brings it",
            {"point": point.value, "group": self.group, "problem": problem},
        )

    def _is_own(self, spec: type[Spec]) -> bool:
        return spec.__module__.startswith(f"{self.package}.")

    def _validate(self, value: Any, own: ValidatorFunctionWrapHandler, info: ValidationInfo) -> S:
        if isinstance(value, self.base):
            return value
        if not isinstance(value, Mapping):
            return cast(S, own(value))
        content = dict(value)
        if self.key not in content and self.default is not None:
            content[self.key] = self.default
        kind = content.get(self.key)
        if not isinstance(kind, str) or kind in self.own:
            return cast(S, own(content))
        if kind not in self.outside:
            names = ", ".join(f"'{name}'" for name in self.names)
            tag = {"discriminator": f"'{self.key}'", "tag": kind, "expected_tags": names}
            raise PydanticKnownError("union_tag_invalid", tag)
        union = core_schema.tagged_union_schema({kind: self.load(kind).__pydantic_core_schema__}, self.key)
        return cast(S, SchemaValidator(union).validate_python(content, context=info.context))

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Validate by the kind's own class, and write every field of it."""
        as_it_is = core_schema.wrap_serializer_function_ser_schema(
            lambda value, write: write(value), schema=core_schema.any_schema()
        )
        choices = {kind: handler.generate_schema(spec) for kind, spec in self.own.items()}
        return core_schema.with_info_wrap_validator_function(
            self._validate, core_schema.tagged_union_schema(choices, self.key), serialization=as_it_is
        )


def kinds_of(spec: type[Spec], key: str) -> tuple[str, ...]:
    """Return the kinds that a class stands for: the values of its literal."""
    annotation = spec.model_fields[key].annotation if key in spec.model_fields else None
    return typing.get_args(annotation) if typing.get_origin(annotation) is typing.Literal else ()


def whole_type(info: FieldInfo) -> Any:
    """Return a field's type with the kinds that pydantic took off it."""
    found = [item for item in info.metadata if isinstance(item, Kinds)]
    return Annotated[info.annotation, found[0]] if found else info.annotation


def kinds_in(annotation: Any) -> Kinds[Any] | None:
    """Return the kinds that stand at a type, or None."""
    return next((item for item in getattr(annotation, "__metadata__", ()) if isinstance(item, Kinds)), None)


def subclasses(base: type[S]) -> Iterator[type[S]]:
    """Walk all classes below `base`, in the order of their definition."""
    for spec in base.__subclasses__():
        yield spec
        yield from subclasses(spec)


def load_modules(package: str) -> None:
    """Import every module of a folder, by name: what they hold is then registered."""
    for module in sorted(pkgutil.iter_modules(import_module(package).__path__), key=lambda m: m.name):
        import_module(f"{package}.{module.name}")
