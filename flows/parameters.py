"""What the flows take, as pydantic models: the Prefect UI turns them into forms with descriptions and choices."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from prefect import runtime
from pydantic import BaseModel, ConfigDict, Field

from flows.before_work import check_before
from pipeline import FeatureStore
from pipeline.errors import StoreNotFoundError
from pipeline.recipe import Recipe, load_recipe
from pipeline.settings import Settings

RECIPES_DIR = Path(__file__).resolve().parent / "recipes"

DEFAULT_SHARDS_PER_TASK = 4


def _at(position: int) -> dict[str, Any]:
    return {"json_schema_extra": {"position": position}}


RecipeName = Annotated[
    str, Field(description="Recipe: a path on the worker, or the name of a shipped one (demo, jhmdb12_mobilenet)")
]


class Where(BaseModel):
    """Where a run takes place. What is left empty comes from the worker's environment (`SCALE_STORE` and so on)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # Empty texts, not None: a form then shows a plain field. Postgres sorts JSON keys; `position` keeps this order.
    store: str = Field("", description="Feature store: folder, or s3:// gs:// az:// address", **_at(0))
    data: str = Field("", description="Folder that the recipe's video paths start from", **_at(1))
    weights: str = Field("", description="Folder searched first for weights files", **_at(2))
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where the backbone runs; auto: the worker's SCALE_DEVICE, else a GPU where there is one",
        **_at(3),
    )  # fmt: skip
    workers: int = Field(0, ge=0, description="Decoding workers; 0: SCALE_WORKERS, else by cores", **_at(4))

    def settings(self, **more: Any) -> Settings:
        """Return the settings of a run here: what is given, and the worker's environment for the rest.

        Raises
        ------
        InvalidInputError
            If the worker is confined (`SCALE_ROOTS`) and something lies elsewhere.
        """
        given = {name: value for name, value in self.model_dump().items() if value not in ("", "auto", 0)}
        settings = Settings(**given, **more)
        settings.check_places()
        if settings.hosts is None:  # whoever starts runs here must not make the worker fetch what it alone can reach
            settings = settings.model_copy(update={"hosts": ""})
        return settings


class ExtractOptions(BaseModel):
    """Which shards, and on which engine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    shards: list[int] = Field(
        default_factory=list, description="Only these shards, counted from 0; empty: all that are missing", **_at(0)
    )
    retry_statuses: list[Literal["unreadable", "partial", "damaged", "missing", "non_finite", "too_short"]] = Field(
        default_factory=list, description="Redo videos with these statuses as well", **_at(1)
    )
    shards_per_task: int = Field(
        DEFAULT_SHARDS_PER_TASK, ge=1, le=1024, description="Shards that one Prefect task extracts", **_at(2)
    )
    dask: str = Field(
        "", description="Dask scheduler address, or a number of local workers to start; empty: this process", **_at(3)
    )


def open_run(recipe: str, where: Where, *, dask: str = "") -> tuple[Recipe, FeatureStore, Settings]:
    """Load the recipe, settle where to run, and open (or make) the store.

    Parameters
    ----------
    recipe : str
        Path of a recipe file, or the name of a shipped one (``demo``).
    where : Where
    dask : str, optional

    Returns
    -------
    tuple of Recipe, FeatureStore, Settings
    """
    path = find_recipe(recipe)
    settings = where.settings(recipe_dir=path.resolve().parent, **({"dask": dask} if dask else {}))
    settings.check_places(path if path.parent != RECIPES_DIR else None)
    loaded = load_recipe(path)
    try:
        return loaded, FeatureStore.open(settings.store, mode="a"), settings
    except StoreNotFoundError:  # what would stop the run must not leave an empty store behind
        check_before(loaded, settings, ("catalog", "extract"))
        return loaded, FeatureStore.open_or_create(settings.store), settings


def find_recipe(recipe: str) -> Path:
    """Return the path of a recipe: a file, or the name of a shipped one."""
    shipped = RECIPES_DIR / f"{recipe}.yaml"
    if not Path(recipe).is_file() and Path(recipe).name == recipe and shipped.is_file():
        return shipped
    return Path(recipe)


def run_name() -> str:
    """Name a flow run after its flow and recipe, without folders: ``extract-demo``."""
    flow, recipe = runtime.flow_run.get_flow_name(), runtime.flow_run.get_parameters().get("recipe", "")
    return f"{flow}-{Path(str(recipe)).stem}" if recipe else str(flow)
