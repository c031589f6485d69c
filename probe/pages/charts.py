"""Charts as inline SVG: no script, no font, no request; colours come from the page's style sheet.

Every function returns markup in which all given text is escaped. A chart has
one `aria-label` that says in words what it shows; the numbers themselves stand
in a table beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

NUM_COLOURS = 8
NUM_SHAPES = 4
DASHES = ("", "7 4", "2 4", "9 4 2 4")

Scale = Literal["linear", "log"]


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclass(frozen=True)
class Point:
    """One mark of a map."""

    x: float
    y: float
    group: int
    """Colour and shape: `group % 8` and `group // 8 % 4`."""
    filled: bool
    title: str


def marker(shape: int, x: float, y: float, radius: float, css: str) -> Markup:
    """Return one of four marks (disc, square, triangle, diamond) around a point."""
    r = radius
    if shape % NUM_SHAPES == 0:
        return Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{:.1f}"/>').format(css, x, y, r)
    corners = {
        1: ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
        2: ((0, -1.2), (1.1, 0.8), (-1.1, 0.8)),
        3: ((0, -1.3), (1.1, 0), (0, 1.3), (-1.1, 0)),
    }[shape % NUM_SHAPES]
    points = " ".join(f"{x + dx * r:.1f},{y + dy * r:.1f}" for dx, dy in corners)
    return Markup('<polygon class="{}" points="{}"/>').format(css, points)


def key(index: int, *, line: bool = False) -> Markup:
    """Return the small sample of a series or class for a legend."""
    colour, shape = index % NUM_COLOURS, (index if line else index // NUM_COLOURS) % NUM_SHAPES
    inner = marker(shape, 13, 7, 4.4, f"mark f{colour}")
    if line:
        stroke = Markup('<line class="line s{}" x1="1" x2="25" y1="7" y2="7" stroke-dasharray="{}"/>').format(
            colour, DASHES[index % len(DASHES)]
        )
        inner = stroke + inner
    return Markup('<svg class="key" viewBox="0 0 26 14" width="26" height="14" aria-hidden="true">{}</svg>').format(
        inner
    )


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round tick values that cover `low` to `high`, about `count` of them."""
    if not high - low > abs(low) * 1e-9:
        high = low + max(1.0, abs(low) * 1e-3)
    raw = (high - low) / max(count, 1)
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def number_text(value: float) -> str:
    """Write a tick: 20, 0.5, 1e-05 without trailing zeros."""
    return f"{value:g}"


WIDTH, HEIGHT = 440, 280
LEFT, RIGHT, TOP, BOTTOM = 68, 14, 14, 48
BAR_LIMIT = 8
"""Up to so many points intervals are drawn as bars side by side; bands of several series would hide each other."""
BAR_OFFSET = 3.5
LARGEST = 1e30


def line_chart(
    series: Sequence[Series],
    *,
    label: str,
    x_label: str,
    y_label: str,
    x_scale: Scale = "linear",
    percent: bool = True,
    reference: tuple[float, str] | None = None,
) -> Markup:
    """Draw lines with 95 % bands.

    Parameters
    ----------
    series : sequence of Series
        Shares 0 to 1 when `percent`. Points that are not finite are left out.
    label : str
        The text alternative.
    x_label, y_label : str
        Axis titles.
    x_scale : {"linear", "log"}
    percent : bool
        Write the vertical axis in per cent.
    reference : (value, name), optional
        A dashed horizontal line, e.g. chance.

    Returns
    -------
    Markup
        One ``<svg role="img">`` that scales with its container.
    """
    scale = 100.0 if percent else 1.0
    series = [_drawable(s) for s in series]
    xs = sorted({x for s in series for x in s.x})
    ys = [v * scale for s in series for v in (*s.y, *s.low, *s.high)]
    if not xs or not ys:
        return Markup('<p class="muted">Nothing to draw.</p>')
    if reference is not None:
        ys.append(reference[0] * scale)
    y_ticks = nice_ticks(min(ys), max(ys))
    if percent:
        y_ticks = [t for t in y_ticks if -1e-9 <= t <= 100 + 1e-9] or [0.0, 100.0]
    y_low, y_high = min(y_ticks[0], *ys), max(y_ticks[-1], *ys)
    to_x = _axis(xs[0], xs[-1], LEFT + 8, WIDTH - RIGHT - 8, x_scale)
    to_y = _axis(y_low, y_high, HEIGHT - BOTTOM, TOP, "linear")
    parts = [_y_axis(y_ticks, to_y, percent), _x_axis(xs, to_x, x_scale)]
    parts.append(_axis_titles(x_label, y_label))
    if reference is not None:
        parts.append(_reference(to_y(reference[0] * scale), reference[1]))
    for i, s in enumerate(series):
        draw = _bars if len(s.x) <= BAR_LIMIT else _band
        parts.append(draw(s, i, _shifted(to_x, series, i), lambda v: to_y(v * scale)))
    for i, s in enumerate(series):
        parts.append(_line(s, i, _shifted(to_x, series, i), lambda v: to_y(v * scale), percent, x_label))
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, label, Markup("").join(parts)
    )


def _drawable(series: Series) -> Series:
    """Leave out points that have no place on paper: NaN, infinity, a loss that went to 1e30 and beyond."""
    has_interval = len(series.low) == len(series.high) == len(series.x)
    columns = [series.x, series.y, series.low, series.high] if has_interval else [series.x, series.y]
    kept = [p for p in zip(*columns, strict=True) if all(math.isfinite(v) and abs(v) < LARGEST for v in p)]
    parts = [tuple(column) for column in zip(*kept, strict=True)] if kept else [() for _ in columns]
    return Series(series.label, *parts)


def _axis(low: float, high: float, start: float, stop: float, scale: Scale) -> Callable[[float], float]:
    use_log = scale == "log" and low > 0
    a, b = (math.log(low), math.log(high)) if use_log else (low, high)
    if b - a < 1e-12:
        return lambda value: (start + stop) / 2
    return lambda value: start + ((math.log(value) if use_log else value) - a) / (b - a) * (stop - start)


def _shifted(to_x: Callable[[float], float], series: Sequence[Series], index: int) -> Callable[[float], float]:
    """Move the bars of one series a little aside, so that those of the others stay visible."""
    this = series[index]
    if not this.low or len(this.x) > BAR_LIMIT:
        return to_x
    offset = BAR_OFFSET * (index - (len(series) - 1) / 2)
    return lambda value: to_x(value) + offset


def _y_axis(ticks: Sequence[float], to_y: Callable[[float], float], percent: bool) -> Markup:
    lines = [
        Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(LEFT, WIDTH - RIGHT, y, y)
        + Markup('<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(
            LEFT - 7, y + 4, number_text(t) + ("%" if percent else "")
        )
        for t in ticks
        for y in [to_y(t)]
    ]
    return Markup("").join(lines)


def _x_axis(xs: Sequence[float], to_x: Callable[[float], float], scale: Scale) -> Markup:
    few = len(xs) <= 8
    ticks = list(xs) if few or scale == "log" else [t for t in nice_ticks(xs[0], xs[-1]) if xs[0] <= t <= xs[-1]]
    parts, last = [], -1e9
    for tick in ticks:
        x = to_x(tick)
        if x - last < 30:  # labels would touch
            continue
        last = x
        parts.append(
            Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
                x, HEIGHT - BOTTOM + 20, number_text(tick)
            )
        )
    base = Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
        LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM, HEIGHT - BOTTOM
    )
    return base + Markup("").join(parts)


def _axis_titles(x_label: str, y_label: str) -> Markup:
    middle = (TOP + HEIGHT - BOTTOM) / 2
    return Markup('<text class="axis-title" x="{}" y="{}" text-anchor="middle">{}</text>').format(
        (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_label
    ) + Markup(
        '<text class="axis-title" transform="translate(18 {}) rotate(-90)" text-anchor="middle">{}</text>'
    ).format(middle, y_label)


def _reference(y: float, name: str) -> Markup:
    return Markup(
        '<line class="reference" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>'
        '<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>'
    ).format(LEFT, WIDTH - RIGHT, y, y, WIDTH - RIGHT - 2, y - 5, name)


def _band(series: Series, index: int, to_x: Callable[[float], float], to_y: Callable[[float], float]) -> Markup:
    if not series.low or len(series.x) < 2:
        return Markup("")
    upper = [f"{to_x(x):.1f},{to_y(v):.1f}" for x, v in zip(series.x, series.high, strict=True)]
    lower = [f"{to_x(x):.1f},{to_y(v):.1f}" for x, v in zip(series.x, series.low, strict=True)]
    return Markup('<polygon class="band f{}" points="{}"/>').format(index % NUM_COLOURS, " ".join(upper + lower[::-1]))


def _bars(series: Series, index: int, to_x: Callable[[float], float], to_y: Callable[[float], float]) -> Markup:
    if not series.low:
        return Markup("")
    bar = Markup('<path class="error s{}" d="M{:.1f} {:.1f}V{:.1f}"/>')
    return Markup("").join(
        bar.format(index % NUM_COLOURS, to_x(x), to_y(low), to_y(high))
        for x, low, high in zip(series.x, series.low, series.high, strict=True)
    )


def _line(
    series: Series,
    index: int,
    to_x: Callable[[float], float],
    to_y: Callable[[float], float],
    percent: bool,
    x_label: str,
) -> Markup:
    colour = index % NUM_COLOURS
    dots = list(zip(series.x, series.y, strict=True))
    path = " ".join(f"{to_x(x):.1f},{to_y(y):.1f}" for x, y in dots)
    parts = [
        Markup('<polyline class="line s{}" points="{}" stroke-dasharray="{}"/>').format(
            colour, path, DASHES[index % len(DASHES)]
        )
    ]
    stride = max(1, len(dots) // 16)
    for x, y in dots[::stride]:
        text = f"{series.label}: {y * 100:.1f} %" if percent else f"{series.label}: {y:.4g}"
        parts.append(
            Markup("<g><title>{} ({} {})</title>{}</g>").format(
                text, x_label, number_text(x), marker(index, to_x(x), to_y(y), 3.6, f"mark f{colour}")
            )
        )
    return Markup("").join(parts)


def interval_plot(value: float, low: float, high: float, chance: float | None, width: float = 150) -> Markup:
    """Draw one number with its interval on a fixed 0-100 % scale, for a table cell whose text says the same."""
    pad = 5.0

    def to_x(share: float) -> float:
        return pad + min(max(share, 0), 1) * (width - 2 * pad)

    tick = Markup("")
    if chance is not None:
        tick = Markup('<line class="reference" x1="{0:.1f}" x2="{0:.1f}" y1="2" y2="18"/>').format(to_x(chance))
    return Markup(
        '<svg class="interval" viewBox="0 0 {0:.0f} 20" width="{0:.0f}" height="20" aria-hidden="true">'
        '<line class="track" x1="{1:.1f}" x2="{2:.1f}" y1="10" y2="10"/>{3}'
        '<line class="whisker" x1="{4:.1f}" x2="{5:.1f}" y1="10" y2="10"/>'
        '<circle class="dot" cx="{6:.1f}" cy="10" r="4.5"/></svg>'
    ).format(width, to_x(0), to_x(1), tick, to_x(low), to_x(high), to_x(value))


def scatter_map(points: Sequence[Point], *, label: str, x_label: str, y_label: str) -> Markup:
    """Draw a map of videos; each mark carries its class index (`data-group`) for the page's highlighting.

    Parameters
    ----------
    points : sequence of Point
        Coordinates in any unit; both axes are scaled alike, so that distances keep their meaning.
    label : str
        The text alternative.
    """
    width, height, pad = 580.0, 450.0, 30.0
    drawn = [p for p in points if math.isfinite(p.x) and math.isfinite(p.y)]
    if not drawn:
        return Markup('<p class="muted">Nothing to draw.</p>')
    x_low, x_high = min(p.x for p in drawn), max(p.x for p in drawn)
    y_low, y_high = min(p.y for p in drawn), max(p.y for p in drawn)
    unit = min((width - 2 * pad) / max(x_high - x_low, 1e-12), (height - 2 * pad) / max(y_high - y_low, 1e-12))
    x_mid, y_mid = (x_low + x_high) / 2, (y_low + y_high) / 2
    marks = []
    # Train first, so that test videos lie on top.
    for point in sorted(drawn, key=lambda p: p.filled):
        x, y = width / 2 + (point.x - x_mid) * unit, height / 2 - (point.y - y_mid) * unit
        colour, shape = point.group % NUM_COLOURS, point.group // NUM_COLOURS
        css = f"point f{colour} s{colour}" if point.filled else f"point hollow s{colour}"
        marks.append(
            Markup('<g data-group="{}"><title>{}</title>{}</g>').format(
                point.group, point.title, marker(shape, x, y, 5.2 if point.filled else 4.2, css)
            )
        )
    frame = Markup(
        '<line class="axis" x1="14" x2="{0:.0f}" y1="{1:.0f}" y2="{1:.0f}"/><line class="axis" x1="14" x2="14" y1="8" '
        'y2="{1:.0f}"/><text class="axis-title" x="{0:.0f}" y="{2:.0f}" text-anchor="end">{3}</text>'
        '<text class="axis-title" transform="translate(9 14) rotate(-90)" text-anchor="end">{4}</text>'
    ).format(width - 8, height - 16, height - 3, x_label, y_label)
    # Some room left of and below the drawing, or the axis titles are cut.
    return Markup('<svg class="map" viewBox="-12 0 {:.0f} {:.0f}" role="img" aria-label="{}">{}{}</svg>').format(
        width + 12, height + 6, label, frame, Markup("").join(marks)
    )


def heat_grid(counts: Sequence[Sequence[int]], names: Sequence[str], *, label: str) -> Markup:
    """Draw a large confusion matrix as coloured squares with a tooltip each (rows: true, columns: predicted)."""
    cell = max(4.0, min(12.0, 640 / max(len(counts), 1)))
    square = Markup('<rect class="h{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>')
    squares = []
    for i, row in enumerate(counts):
        total = sum(row)
        for j, count in enumerate(row):
            if count:
                text = f"{names[i]} taken for {names[j]}" if i != j else f"{names[i]} right"
                squares.append(
                    square.format(
                        heat_level(count / total), j * cell, i * cell, cell, cell, f"{text}: {count} of {total}"
                    )
                )
    return Markup(
        '<svg class="heat" viewBox="0 0 {0:.0f} {0:.0f}" role="img" aria-label="{1}">'
        '<rect class="ground" width="{0:.0f}" height="{0:.0f}"/>{2}</svg>'
    ).format(len(counts) * cell, label, Markup("").join(squares))


def heat_level(share: float) -> int:
    """Return the colour class 0 (nothing) to 9 (all) of a share of a row."""
    return 0 if share <= 0 else min(9, 1 + int(share * 8.999))
