"""One self-contained HTML file from a template: styles, script and pictures inside, nothing fetched.

A content security policy with the hashes of our own style and script is part
of every page: no request leaves it, and no script but ours runs, even if
something unescaped slipped into the markup.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader
from markupsafe import Markup

from pipeline.look.pages import look_script, look_style, page_environment
from probe.pages import charts

Frames = Callable[[int], Sequence[bytes]]
"""Row -> JPEG or PNG files of frames in the order of time; empty where the video is gone."""

MAX_FRAME_BYTES = 1 << 20
_IMAGE_TYPES = ((b"\xff\xd8\xff", "jpeg"), (b"\x89PNG\r\n\x1a\n", "png"))


def data_uri(image: bytes) -> str | None:
    """Return a ``data:`` address of a JPEG or PNG; None for anything else, and for files over 1 MiB."""
    for magic, kind in _IMAGE_TYPES:
        if image.startswith(magic) and len(image) <= MAX_FRAME_BYTES:
            return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
    return None


def asset(name: str) -> str:
    """Return the text of a file in ``probe/pages/templates``."""
    return (files("probe.pages") / "templates" / name).read_text(encoding="utf-8")


def csp_hash(text: str) -> str:
    """Return the source expression of an inline style or script: ``'sha256-...'``."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def environment() -> Environment:
    """Return the templates, with charts."""
    env = page_environment(FunctionLoader(asset))
    env.globals.update(key=charts.key, interval_plot=charts.interval_plot)
    return env


def render_page(template: str, **values: Any) -> str:
    """Render a template with the shared style and script.

    Parameters
    ----------
    template : str
        A file of ``probe/pages/templates`` that extends ``base.html.j2``.
    **values
        What the template names.
    """
    style, script = look_style(), look_script() + asset("page.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src {csp_hash(style)}; script-src {csp_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    # Both are our own files, and must arrive byte for byte for their hashes to hold.
    return (
        environment()
        .get_template(template)
        .render(
            style=Markup(style),  # noqa: S704
            script=Markup(script),  # noqa: S704
            policy=policy,
            **values,
        )
    )
