"""The documentation site: built strictly, whole, links that lead somewhere, and nothing loaded from elsewhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
import typer
from readme import HOUSE
from typer.main import get_command

from aqvolt_flows.campaign_keys import parameters
from aqvolt_flows.stores import IDENTITIES
from aqvolt_launch.cli import commands

sys.path.insert(0, str(HOUSE))
from docs_build import reference


class Page(HTMLParser):
    """What a page links to, loads, and offers as anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors |= {v for v in (values.get("id"), values.get("name")) if v}
        target = values.get("href") or values.get("src")
        if not target:
            return
        if tag in {"script", "img", "iframe"} or (tag == "link" and values.get("rel") != "canonical"):
            self.loads.append(target)
        elif tag == "a":
            self.links.append(target)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Page]:
    """Path → page of the built site; the network is a proxy that does not exist."""
    out = tmp_path_factory.mktemp("site")
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    command = [sys.executable, "-W", "ignore", "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    done = subprocess.run(
        command, cwd=HOUSE, env=os.environ | nowhere | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "WARNING" not in done.stderr
    found = {p.relative_to(out).as_posix(): Page(p.read_text()) for p in out.rglob("*.html")}
    schemas = {p.relative_to(out).as_posix(): json.loads(p.read_text()) for p in out.rglob("schemas/*.json")}
    files = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    return {"pages": found, "schemas": schemas, "files": files, "root": out}  # type: ignore[dict-item]


@pytest.mark.slow
def test_links_and_anchors_of_the_site_lead_somewhere(site) -> None:
    broken = []
    for name, page in site["pages"].items():
        if name == "404.html":  # its links are absolute
            continue
        for link in page.links:
            if re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = unquote(link).partition("#")
            target = os.path.normpath((Path(name).parent / path).as_posix()) if path else name
            if target == ".":
                target = "index.html"
            if target not in site["files"]:
                broken.append(f"{name}: {link}")
            elif anchor and target in site["pages"] and anchor not in site["pages"][target].anchors:
                broken.append(f"{name}: {link} has no such anchor")
    assert broken == []
    assert {f"{p.relative_to(HOUSE / 'docs').with_suffix('.html')}" for p in (HOUSE / "docs").rglob("*.md")} <= {
        name.replace("performance/index.html", "performance/README.html") for name in site["pages"]
    }


@pytest.mark.slow
def test_pages_load_nothing_from_elsewhere(site) -> None:
    for name, page in site["pages"].items():
        assert [u for u in page.loads if re.match(r"(?:https?:)?//", u)] == [], name
    styles = [site["root"] / f for f in site["files"] if f.endswith(".css")]
    assert styles
    for style in styles:
        assert not re.search(r"url\(['\"]?(?:https?:)?//", style.read_text()), style


@pytest.mark.slow
def test_the_reference_has_every_command_parameter_document_and_function(site) -> None:
    commands_page = (site["root"] / "reference" / "commands.html").read_text()
    app = typer.Typer(name="aqvolt")
    commands.register(app)
    names = [" ".join(path) for path, _ in reference._commands(get_command(app), ("aqvolt",))]
    assert len(names) > 35
    for name in names:
        assert f'id="{name.replace(" ", "-")}"' in commands_page, name
    campaign_page = (site["root"] / "reference" / "campaign.html").read_text()
    for p in parameters():
        assert (f"<code>{p.key}</code>" in campaign_page) or (p.group and f">{p.key}<" in campaign_page), p.key
    documents = site["pages"]["reference/documents.html"].anchors
    assert {name.lower() for name in reference.documents()} <= documents
    python = site["pages"]["reference/python.html"].anchors
    assert {"aqvolt_flows.makers.NpTMDMaker", "aqvolt_flows.publish.places.target_named"} <= python
    assert {name for name in reference.PUBLIC if name not in python} == set()


@pytest.mark.slow
def test_schemas_are_schemas_and_documents_obey_them(site, database) -> None:
    import jsonschema
    import label_factory

    assert set(site["schemas"]) == {f"reference/schemas/{name}.json" for name in reference.documents()}
    for schema in site["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    frame = label_factory.frame(1).model_dump(mode="json")
    schema = site["schemas"]["reference/schemas/FrameDocument.json"]
    jsonschema.validate(frame, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(frame | {"n_atoms": "eight"}, schema)
    assert len(reference.documents()) >= len(IDENTITIES) - 1


def test_reasons_and_choices_are_whole() -> None:
    from aqvolt_flows.candidates.refusals import REFUSALS
    from aqvolt_flows.datasets.filters import REASONS as FILTERED
    from aqvolt_flows.labeling.reasons import REASONS as LABELING

    page = reference.reasons_page()
    for name in (*REFUSALS, *LABELING, *FILTERED):
        assert f"| `{name}` |" in page, name
    choices = reference.choices_page()
    assert '| `exploration.ensemble` | `"npt_crescale_isotropic"` |' in choices
    assert "`exploration.n_steps`" not in choices, "the paper gives it"


def test_cells_keep_a_table_whole() -> None:
    assert reference._cell("a | b\nc") == "a \\| b c"
    assert reference._cell("hf:ORG[@REV] `x[0]` <b>") == "hf:ORG\\[@REV] `x[0]` &lt;b>"
    assert reference._prose("See :func:`~a.b.c` and ``d``.") == "See `a.b.c` and `d`."
