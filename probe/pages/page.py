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

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

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
    """Return the text of a file in ``probe/templates``."""
    return (files("probe.pages") / "templates" / name).read_text(encoding="utf-8")


def csp_hash(text: str) -> str:
    """Return the source expression of an inline style or script: ``'sha256-...'``."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def environment() -> Environment:
    """Return the template environment: everything is escaped, a misspelt name is an error."""
    env = Environment(
        loader=FunctionLoader(asset), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    env.globals.update(key=charts.key, interval_plot=charts.interval_plot)
    env.filters.update(percent=percent, short=short, plain=number)
    return env


def render_page(template: str, **values: Any) -> str:
    """Render a template with the shared style and script.

    Parameters
    ----------
    template : str
        A file of ``probe/templates`` that extends ``base.html.j2``.
    **values
        What the template names.
    """
    style, script = asset("style.css"), asset("page.js")
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


def percent(share: float | None) -> str:
    """Write a share as per cent: ``68.1 %``; a dash for None."""
    return "–" if share is None else f"{share * 100:.1f} %"


def short(digest: str, length: int = 12) -> str:
    """Return the first characters of a hash."""
    return digest[:length]


def number(value: object) -> str:
    """Write a figure without needless digits."""
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def points(difference: float | None) -> str:
    """Write a difference of two shares in points, with its sign: ``+3.5``; nothing for None."""
    return "" if difference is None else f"{difference * 100:+.1f}".replace("-", "\N{MINUS SIGN}")


def p_text(p_value: float) -> str:
    """Write a p-value: three digits, or ``< 0.001``."""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"
