"""The colours of every page, once: names that style sheets and charts use, their light and their dark values.

Text on `page`, `card`, `sunk` and the soft grounds has a contrast of at least 4.5 in both schemes; tests hold it in a
browser. `c0`-`c7` tell classes apart, `h1`-`h9` grow from little to much, `h-low` and `h-high` are written on the pale
and the strong half.
"""

from __future__ import annotations

from collections.abc import Mapping

LIGHT: Mapping[str, str] = {
    "page": "#f5f6f8", "card": "#ffffff", "sunk": "#eef0f4", "line": "#d9dde5", "edge": "#767f8f", "ink": "#14181f",
    "soft": "#4d5666", "accent": "#2b4fc7", "accent-soft": "#e6ecfd", "focus": "#2b4fc7", "good": "#0b6b45",
    "good-soft": "#def3e8", "bad": "#a8231b", "bad-soft": "#fbe6e4", "warn": "#7a4a00", "warn-soft": "#fdf0d5",
    "c0": "#2b4fc7", "c1": "#c2500a", "c2": "#0b7d72", "c3": "#9a1fa8", "c4": "#54780a", "c5": "#b81d4f",
    "c6": "#0a719f", "c7": "#7a5a12", "h1": "#e9effc", "h2": "#d5e1fa", "h3": "#bccff6", "h4": "#9db8f0",
    "h5": "#7c9de8", "h6": "#3f66cf", "h7": "#3154bb", "h8": "#2545a2", "h9": "#1b3585", "h-low": "#14181f",
    "h-high": "#ffffff",
}  # fmt: skip
DARK: Mapping[str, str] = {
    "page": "#0e1116", "card": "#161a21", "sunk": "#1f242d", "line": "#2f3643", "edge": "#7d8797", "ink": "#e9ecf1",
    "soft": "#aab3c2", "accent": "#9db6ff", "accent-soft": "#212c4d", "focus": "#9db6ff", "good": "#6fd6a3",
    "good-soft": "#12321f", "bad": "#ff9a91", "bad-soft": "#421a18", "warn": "#f1c26b", "warn-soft": "#3a2b0c",
    "c0": "#86a5ff", "c1": "#ff9d5c", "c2": "#4fd1c5", "c3": "#e59af2", "c4": "#b4d455", "c5": "#ff8fae",
    "c6": "#6cc7f0", "c7": "#e0bf76", "h1": "#1b2440", "h2": "#20305c", "h3": "#263c78", "h4": "#2d4894",
    "h5": "#3453ad", "h6": "#8aa8fb", "h7": "#a0b8fc", "h8": "#b8cafd", "h9": "#d3defe", "h-low": "#f2f5fb",
    "h-high": "#0b1020",
}  # fmt: skip


def colour_css() -> str:
    """Return the rules that name the colours: light, dark where the system is, and what a reader chose."""
    light, dark = _declared("light", LIGHT), _declared("dark", DARK)
    return (
        f":root {{ {light} }}\n"
        f'@media (prefers-color-scheme: dark) {{ :root:not([data-theme="light"]) {{ {dark} }} }}\n'
        f':root[data-theme="dark"] {{ {dark} }}\n'
    )


def _declared(scheme: str, colours: Mapping[str, str]) -> str:
    return f"color-scheme: {scheme}; " + " ".join(f"--{name}: {value};" for name, value in colours.items())
