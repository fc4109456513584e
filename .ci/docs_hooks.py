"""What the site needs beyond mkdocs: notebooks as pages, and links that leave docs/ checked and sent to the repository."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
LINK = re.compile(r"(?<=\]\()(\.\.?/[^)#\s]*)((?:#[^)\s]*)?)(?=\))")
HREF = re.compile(r'(?<=href=")(\.\.?/[^"#]*)((?:#[^"]*)?)(?=")')
ELSEWHERE = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=["'](?:https?:)?//[^>]*>""")


@event_priority(100)  # before mkdocs-jupyter looks for notebooks among the files
def on_files(files: Any, config: Any) -> Any:
    """Add the notebooks, which lie beside docs/ and not in it."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        files.append(File(f"notebooks/{path.name}", str(ROOT), config["site_dir"], config["use_directory_urls"]))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Rewrite links that leave docs/."""
    folder = (DOCS / page.file.src_uri).parent

    def target(found: re.Match[str]) -> str:
        return _target(found[1], folder, page, config) + found[2]

    return LINK.sub(target, markdown)


def on_page_content(html: str, page: Any, config: Any, **_: Any) -> str:
    """Rewrite the links of a notebook, which are written for its place beside docs/."""
    if page.file.src_uri.endswith(".ipynb"):
        html = HREF.sub(lambda found: _of_notebook(found[1], page, config) + found[2], html)
    return html


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Refuse a page that would load something from another host."""
    for tag in ELSEWHERE.findall(output):
        if 'rel="canonical"' not in tag:
            raise PluginError(f"{page.file.src_uri} loads from another host: {tag[:200]}")
    return output


def _target(link: str, folder: Path, page: Any, config: Any) -> str:
    path = Path(os.path.normpath(folder / link))
    if path.is_relative_to(DOCS):
        return link  # mkdocs checks it
    if not path.exists():
        raise PluginError(f"{page.file.src_uri} links to {link}, which does not exist")
    if path.suffix == ".ipynb":
        return os.path.relpath(DOCS / "notebooks" / path.name, folder)
    return str(config["extra"]["repository"]) + path.relative_to(ROOT).as_posix()


def _of_notebook(link: str, page: Any, config: Any) -> str:
    path = Path(os.path.normpath(ROOT / "notebooks" / link))
    if not path.exists():
        raise PluginError(f"{page.file.src_uri} links to {link}, which does not exist")
    if not path.is_relative_to(DOCS):
        return _target(link, ROOT / "notebooks", page, config)
    page_of = path.relative_to(DOCS).with_suffix(".html") if path.name != "README.md" else Path("index.html")
    return os.path.relpath(page_of, "notebooks")
