"""What mkdocs is told of this repository: the READMEs are pages of the site, and links between them are kept."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
READMES = {
    "README.md": "index.md",
    "pipeline/README.md": "house/pipeline.md",
    "extract/README.md": "house/extract.md",
    "extract/backbones/README.md": "house/extract-backbones.md",
    "aggregate/README.md": "house/aggregate.md",
    "probe/README.md": "house/probe.md",
    "flows/README.md": "house/flows.md",
}
"""File of the repository -> page of the site."""
LINK = re.compile(r"(?<!!)\[([^\]\n]*)\]\(([^)\s]+)\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the READMEs as pages."""
    from mkdocs.structure.files import File

    for source, page in READMES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links between files of the repository into links between pages."""
    return for_site(markdown, page.file.src_uri)


def for_site(markdown: str, page: str) -> str:
    """Return a page's text with links as the site has them; what is no page there keeps its words alone.

    Parameters
    ----------
    markdown : str
    page : str
        Its place on the site: ``house/pipeline.md``.
    """
    source = next((file for file, name in READMES.items() if name == page), f"docs/{page}")

    def turned(link: re.Match[str]) -> str:
        words, target = link[1], link[2]
        path, hash_, anchor = target.partition("#")
        if not path or "://" in path:
            return link[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        there = READMES.get(file) or (file.removeprefix("docs/") if re.fullmatch(r"docs/[^/]+\.md", file) else None)
        if there is None:
            return words
        return f"[{words}]({posixpath.relpath(there, posixpath.dirname(page) or '.')}{hash_}{anchor})"

    return re.sub(r"^(```+ *\w+) +no-run$", r"\1", LINK.sub(turned, markdown), flags=re.MULTILINE)
