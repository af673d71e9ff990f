"""What mkdocs calls: generated pages join those of docs/, and links to files of the checkout become plain text."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

HOUSE = Path(__file__).parents[1]
sys.path[:0] = [str(HOUSE), str(HOUSE / "builders"), str(HOUSE / "launch")]
from docs_build import reference  # noqa: E402

_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)\s#]+)(#[^)\s]*)?\)")
#: Files above docs/ that are pages of the site.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "CODE_OF_CONDUCT.md": "code_of_conduct.md",
}


def on_config(config: Any) -> Any:
    """Give pages that the navigation does not name a section of their own, so that none is forgotten."""
    named = set(_names(config["nav"]))
    written = {p.relative_to(HOUSE / "docs").as_posix() for p in (HOUSE / "docs").rglob("*.md")}
    rest = sorted(written - named)
    if rest:
        config["nav"].append({"More": rest})
    return config


def _names(entries: Any) -> Iterator[str]:
    """Yield the pages that a navigation names."""
    if isinstance(entries, str):
        yield entries
        return
    for entry in entries.values() if isinstance(entries, dict) else entries:
        yield from _names(entry)


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    made = {target: from_root((HOUSE / source).read_text()) for source, target in PAGES.items()}
    made |= reference.pages()
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:  # noqa: ARG001 - mkdocs gives all
    """Make links to files that the site does not have plain text."""
    return without_foreign_links(markdown, Path(page.file.src_uri).parent, {f.src_uri for f in files})


def from_root(text: str) -> str:
    """Return a page of the checkout's root with links as they are in the site."""

    def moved(found: re.Match[str]) -> str:
        mark, name, target, anchor = found[1], found[2], found[3], found[4] or ""
        target = PAGES.get(target, target.removeprefix("docs/"))
        if target == "performance":
            target = "performance/README.md"
        return f"{mark}[{name}]({target}{anchor})"

    return _LINK.sub(moved, text)


def without_foreign_links(text: str, folder: Path, known: set[str]) -> str:
    """Return a page in which links that lead out of the site are only their text."""
    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)

    def kept(found: re.Match[str]) -> str:
        target = _normal(folder / found[3])
        return found[0] if target in known else found[2]

    return "".join(part if part.startswith("```") else _LINK.sub(kept, part) for part in parts)


def _normal(path: Path) -> str:
    parts: list[str] = []
    for part in path.as_posix().split("/"):
        if part == "..":
            if not parts:
                return ""
            parts.pop()
        elif part not in {"", "."}:
            parts.append(part)
    return "/".join(parts)
