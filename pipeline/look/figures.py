"""How figures are written for people, on pages and in lists."""

from __future__ import annotations


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


def human_bytes(size: float) -> str:
    """Write bytes for people: ``1.5 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def human_seconds(seconds: float | None) -> str:
    """Write a duration for people; a dash for None."""
    if seconds is None:
        return "–"
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)}:{int(seconds % 60):02d} min"
