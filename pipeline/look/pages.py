"""What every page is rendered with: escaped templates, the shared style and script."""

from __future__ import annotations

from importlib.resources import files

from jinja2 import BaseLoader, ChoiceLoader, Environment, FunctionLoader, PrefixLoader, StrictUndefined

from pipeline.look.colours import colour_css
from pipeline.look.figures import human_bytes, human_seconds, number, percent, short


def look_file(name: str) -> str:
    """Return the text of a file in ``pipeline/look/templates``."""
    return (files("pipeline.look") / "templates" / name).read_text(encoding="utf-8")


def look_style() -> str:
    """Return the style sheet of every page: its colours, then its rules."""
    return colour_css() + look_file("style.css")


def look_script() -> str:
    """Return the script of every page: the choice between light and dark."""
    return look_file("theme.js")


def page_environment(loader: BaseLoader) -> Environment:
    """Return templates that escape everything, in which a misspelt name is an error.

    Parameters
    ----------
    loader : jinja2.BaseLoader
        Of the pages; they include and import the shared parts as ``look/...``.
    """
    env = Environment(
        loader=ChoiceLoader([PrefixLoader({"look": FunctionLoader(look_file)}), loader]),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    env.filters.update(percent=percent, short=short, plain=number, size=human_bytes, seconds=human_seconds)
    return env
