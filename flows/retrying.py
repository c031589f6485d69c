"""Videos of some statuses done again, with the recipes that their features remember."""

from __future__ import annotations

from collections.abc import Sequence

from flows.runner import RunReport, run_recipe
from pipeline import Dataset, FeatureStore
from pipeline.errors import InvalidInputError
from pipeline.events import OnEvent, ignore
from pipeline.names import did_you_mean
from pipeline.query.holdings import remembered_recipes
from pipeline.recipe import parse_recipe
from pipeline.settings import Settings
from pipeline.status import VideoStatus


def check_statuses(wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the statuses if each is one that a failed video has.

    Raises
    ------
    InvalidInputError
        If one is not; names those that are.
    """
    known = [status.value for status in VideoStatus if status is not VideoStatus.OK]
    if unknown := sorted(set(wanted) - set(known)):
        raise InvalidInputError(
            f"expected --status out of {', '.join(known)}; found {', '.join(unknown)}{did_you_mean(unknown[0], known)}"
        )
    return tuple(wanted)


def retry_videos(
    store: FeatureStore, dataset: Dataset, statuses: Sequence[str], settings: Settings, on_event: OnEvent = ignore
) -> list[RunReport]:
    """Extract the videos with these statuses again, in every feature set; one report a recipe.

    Parameters
    ----------
    store : FeatureStore
        Open for writing.
    dataset : Dataset
    statuses : sequence of str
        See :func:`check_statuses`.
    settings : Settings
    on_event : callable

    Raises
    ------
    NoDataError
        If no features remember their recipe.
    """
    retry = check_statuses(statuses)
    recipes = [parse_recipe(content, source=f"recipe in {store.url}") for content in remembered_recipes(dataset)]
    return [
        run_recipe(recipe, store, settings, stages=["extract"], on_event=on_event, retry=retry) for recipe in recipes
    ]
