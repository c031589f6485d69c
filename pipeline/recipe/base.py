"""The base of every recipe model: frozen, and a typing error in a key is an error."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from pipeline.names import check_name

Name = Annotated[str, AfterValidator(check_name)]
"""A word that may be a folder of the store; see :func:`pipeline.names.check_name`."""


class Later:
    """Marks a field that came after stores were written: its default stands in no dump and no fingerprint.

    So ``Annotated[str, LATER] = "x"`` changes neither the fingerprints nor the stored recipes of those who do not
    use it, and whoever reads a recipe that lacks it gets the default.
    """


LATER = Later()


class Spec(BaseModel):
    """Frozen pydantic model that refuses unknown keys, NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        for name, info in type(self).model_fields.items():
            is_later = any(isinstance(mark, Later) for mark in info.metadata)
            if is_later and getattr(self, name) == info.get_default(call_default_factory=True):
                content.pop(info.alias or name, None)
                content.pop(name, None)
        return content
