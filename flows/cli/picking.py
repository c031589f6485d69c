"""Which dataset and which features a question is about: the options, and what they mean when left out."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pipeline import FeatureStore
from pipeline.errors import NotFoundError
from pipeline.names import did_you_mean

DatasetOption = Annotated[
    str | None, typer.Option("--dataset", show_default="the only one", help="Which dataset of the store.")
]
WhereOption = Annotated[
    str | None,
    typer.Option("--where", show_default="all videos", help="SQL condition over the catalogue: \"label = 'run'\"."),
]
FeaturesOption = Annotated[
    str | None,
    typer.Option(
        "--features", metavar="CROPS/FEATURE_SET", show_default="all, or the only ones", help="Which features."
    ),
]


def pick_dataset(store: FeatureStore, name: str | None) -> Any:
    """Return the named dataset, or the only one.

    Raises
    ------
    NotFoundError
        If there is none, or several and no name was given.
    """
    if name is not None:
        return store.dataset(name)
    names = store.datasets()
    if len(names) != 1:
        raise NotFoundError(
            f"expected --dataset to say which one, found {len(names)} in {store.url}: {', '.join(names) or 'none'}"
        )
    return store.dataset(names[0])


def pick_features(dataset: Any, text: str | None) -> tuple[str, str]:
    """Return (crop set, feature set) from ``crops/feature_set``, or the only one there is."""
    known = [(crops, fs) for crops in dataset.crop_sets() for fs in dataset.feature_sets(crops)]
    listed = ", ".join(f"{c}/{f}" for c, f in known) or "none"
    if text is None:
        if len(known) == 1:
            return known[0]
        raise NotFoundError(f"expected --features CROPS/FEATURE_SET, found several or none: {listed}")
    crops, slash, feature_set = text.partition("/")
    if not slash or (crops, feature_set) not in known:
        raise NotFoundError(
            f"expected --features to be one of {listed}; found {text!r}"
            f"{did_you_mean(text, [f'{c}/{f}' for c, f in known])}"
        )
    return crops, feature_set
