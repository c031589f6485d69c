"""Links of the docs lead somewhere, on the disk and on the site; every page stands in its contents."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from docs.site_pages import LINK, READMES, for_site

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / name for name in READMES] + sorted((ROOT / "docs").glob("*.md"))


def without_code(text: str) -> str:
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(path: Path) -> set[str]:
    """Return what headings may be linked to as, by the rule that forges and mkdocs share."""
    headings = re.findall(r"^#+ +(.*)$", re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for words, target in LINK.findall(without_code(page.read_text())):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"[{words}]({target})"
        if anchor:
            assert anchor in anchors(file), f"[{words}]({target}): no such heading"


def test_every_readme_and_page_stands_in_the_contents() -> None:
    def pages(item: object) -> list[str]:
        if isinstance(item, str):
            return [item]
        inner = item.values() if isinstance(item, dict) else item
        return [page for one in inner for page in pages(one)]  # type: ignore[attr-defined]

    listed = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(listed) == sorted([*READMES.values(), *(path.name for path in (ROOT / "docs").glob("*.md"))])
    assert len(listed) == len(set(listed))


def test_links_are_turned_for_the_site() -> None:
    assert for_site("[a](docs/store.md#versions) [b](pipeline/README.md)", "index.md") == (
        "[a](store.md#versions) [b](house/pipeline.md)"
    )
    assert for_site("[a](../docs/serve.md) [b](../flows/stages.py)", "house/flows.md") == "[a](../serve.md) b"
    assert for_site("[a](../extract/backbones/README.md) [b](#x)", "first-run.md") == (
        "[a](house/extract-backbones.md) [b](#x)"
    )
    assert for_site("```python no-run\nx\n```", "store.md") == "```python\nx\n```"


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    home = (tmp_path / "site" / "index.html").read_text()
    assert 'href="first-run/"' in home
    assert "https://fonts" not in home
