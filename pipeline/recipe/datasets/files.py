"""Videos given by globs or by a manifest."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from pipeline.recipe.dataset import DatasetSpec


class FilesDataset(DatasetSpec):
    """Videos by globs below the data folder, or by a manifest: what a recipe means that names no kind."""

    kind: Literal["files"] = "files"

    @model_serializer(mode="wrap")
    def _leave_out(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what recipes did not say before there were kinds: those in stores stay as they are."""
        content: dict[str, Any] = dump(self)
        for name, usual in (("kind", "files"), ("ignore", []), ("image_fps", 30.0)):
            if content.get(name) == usual:
                del content[name]
        for name in ("splits",):
            if isinstance(content.get(name), dict) and content[name].get("values") is None:
                content[name].pop("values", None)
        return content
