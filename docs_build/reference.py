"""Reference pages from the code: commands from typer, parameters and documents from pydantic, and functions."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
#: Modules whose public names scripts may use, in the order of the page.
PUBLIC = (
    "aqvolt_flows",
    "aqvolt_flows.makers",
    "aqvolt_flows.datasets.loaded",
    "aqvolt_flows.datasets.folder",
    "aqvolt_flows.datasets.release_tables",
    "aqvolt_flows.publish.content",
    "aqvolt_flows.publish.places",
    "aqvolt_flows.publish.pull",
    "aqvolt_flows.campaign",
    "aqvolt_flows.campaign_keys",
    "aqvolt_flows.settings",
    "aqvolt_flows.stores",
    "aqvolt_flows.artifacts",
    "aqvolt_flows.frames",
    "aqvolt_flows.potentials",
    "aqvolt_flows.sampling.direct",
    "aqvolt_flows.labelers",
    "aqvolt_flows.benchmark_registry",
    "aqvolt_flows.registries",
    "aqvolt_flows.units",
    "aqvolt_flows.errors",
)


def pages() -> dict[str, str]:
    """Return path → text of every generated page and file."""
    made = {
        "reference/commands.md": commands_page(),
        "reference/campaign.md": campaign_page(),
        "reference/documents.md": documents_page(),
        "reference/python.md": python_page(),
        "reference/reasons.md": reasons_page(),
        "reference/choices.md": choices_page(),
    }
    made |= {f"notebooks/{path.stem}.md": notebook_page(path) for path in sorted(NOTEBOOKS.glob("*.ipynb"))}
    return made | {f"reference/schemas/{name}.json": _json(model) for name, model in documents().items()}


def notebook_page(path: Path) -> str:
    """Return a notebook as a page: text, and code that can be copied."""
    lines = []
    for cell in json.loads(path.read_text())["cells"]:
        text = "".join(cell["source"])
        lines += [text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```", ""]
        if cell["cell_type"] == "markdown" and text.startswith("# "):
            lines += [f"This page is the notebook `notebooks/{path.name}` of the checkout, which the tests run.", ""]
    return "\n".join(lines)


def commands_page() -> str:
    """Return the page of all commands."""
    import typer
    from typer.main import get_command

    from aqvolt_launch.cli import commands

    app = typer.Typer(name="aqvolt")
    commands.register(app)
    lines = [
        "# Commands",
        "",
        "Every command prints this with `--help`. Exit code 2 comes with one sentence on standard error.",
        "",
    ]
    for path, command in _commands(get_command(app), ("aqvolt",)):
        lines += [f"## {' '.join(path)}", "", _prose(command.help or ""), ""]
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        usage = " ".join([*path, "[OPTIONS]", *(_argument(p) for p in arguments)])
        lines += ["```", usage, "```", ""]
        rows = [_row(p) for p in command.params if not getattr(p, "hidden", False) and p.name != "help"]
        if rows:
            lines += ["| argument or option | meaning | default |", "| --- | --- | --- |", *rows, ""]
        if command.epilog:
            lines += [_example(command.epilog), ""]
    return "\n".join(lines)


def _commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    below = getattr(command, "commands", None)
    if below is None:
        yield path, command
        return
    for name, inner in below.items():
        if not getattr(inner, "hidden", False):
            yield from _commands(inner, (*path, name))


def _argument(parameter: Any) -> str:
    name = str(parameter.metavar or parameter.name or "").upper().strip("[]")
    name += "..." if parameter.nargs == -1 else ""
    return name if parameter.required else f"[{name}]"


def _row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        name = f"`{str(parameter.name).upper()}`"
    else:
        name = ", ".join(f"`{o}`" for o in [*parameter.opts, *parameter.secondary_opts])
    default = parameter.default
    shown = "" if default is None or default is False or callable(default) or parameter.required else f"`{default}`"
    needed = "required" if parameter.required else shown
    return f"| {name} | {_cell(getattr(parameter, 'help', '') or '')} | {needed} |"


def _example(text: str) -> str:
    shown = [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
    code = "\n".join(part.removeprefix("Example: ") for part in shown)
    return f"```sh\n{code}\n```"


def campaign_page() -> str:
    """Return the page of all parameters of a campaign."""
    from aqvolt_flows.campaign import shipped_campaigns
    from aqvolt_flows.campaign_keys import parameters

    lines = [
        "# Campaign parameters",
        "",
        f"A campaign file is YAML with these groups; shipped are {', '.join(shipped_campaigns())}. Keys that are not "
        "in a file have the default. `aqvolt campaign show KEY` prints the same for the campaign of a project. "
        "*Source* is what `aqvolt26.yaml` says of the number: a section of the paper, or *silent* where the paper does "
        "not say and the value "
        "is this project's choice.",
        "",
    ]
    heads = "| key | default | unit | type | meaning | source |"
    open_table = False
    for p in parameters():
        if p.group:
            lines += ["", f"## {p.key}", "", p.description, ""]
            open_table = False
            continue
        if not open_table:
            if not any(line.startswith("## ") for line in lines):
                lines += ["## General", ""]
            lines += [heads, "| --- | --- | --- | --- | --- | --- |"]
            open_table = True
        kind = p.type + (f", {re.sub(r'like (.*)', r'like `\1`', p.limits)}" if p.limits else "")
        default = "*required*" if p.required else f"`{json.dumps(p.default, ensure_ascii=False)}`"
        cells = (f"`{p.key}`", default, p.unit, kind, p.description, p.source)
        lines.append("| " + " | ".join(_cell(c) for c in cells) + " |")
    return "\n".join(lines) + "\n"


def choices_page() -> str:
    """Return the page of all values that the paper leaves open, with this project's choice."""
    from aqvolt_flows.campaign import load_campaign
    from aqvolt_flows.campaign_keys import COMMENTED, parameters, value_at

    campaign = load_campaign(COMMENTED)
    lines = [
        "# What the paper leaves open",
        "",
        "Every parameter about which the paper says nothing, and the value in `aqvolt26.yaml`. Change them in your "
        "copy; the result then has other keys, and nothing is mixed.",
        "",
        "| key | our choice | unit | meaning | why |",
        "| --- | --- | --- | --- | --- |",
    ]
    for p in parameters():
        if p.group or not p.source.startswith("silent"):
            continue
        value = json.dumps(value_at(campaign, p.key), ensure_ascii=False)
        why = p.source.removeprefix("silent").lstrip(";:, ")
        lines.append(
            "| " + " | ".join(_cell(c) for c in (f"`{p.key}`", f"`{value}`", p.unit, p.description, why)) + " |"
        )
    return "\n".join(lines) + "\n"


def reasons_page() -> str:
    """Return the page of all reasons for which something is left out."""
    from aqvolt_flows.candidates.refusals import REFUSALS
    from aqvolt_flows.datasets.filters import REASONS as FILTERED
    from aqvolt_flows.labeling.reasons import REASONS as LABELING
    from aqvolt_flows.schemas.parameters import ReleaseParameters

    limits = ReleaseParameters().model_dump()
    again = {"here": "the job itself tries once more", "later": "after a change: `--rerun-failed`", "never": "no"}
    lines = [
        "# Reasons",
        "",
        "Nothing is dropped without a word. These are the words, where they are found, and what they mean. Those of "
        "molecular dynamics are in [exploration](../exploration.md), those of frames in [sampling](../sampling.md), "
        "and those of imported labels in [datasets](../datasets.md).",
        "",
        "## A record that gives no structure",
        "",
        "In the quarantine file that `aqvolt candidates import` names.",
        "",
        "| reason | meaning |",
        "| --- | --- |",
        *(f"| `{name}` | {_cell(said)} |" for name, said in REFUSALS.items()),
        "",
        "## A frame without a label",
        "",
        "In `failure.reason` of outcomes and rejected labels, and in `aqvolt status`.",
        "",
        "| reason | status | meaning | does it help to try again? |",
        "| --- | --- | --- | --- |",
        *(f"| `{n}` | {r.status} | {_cell(r.meaning)} | {again[r.again]} |" for n, r in LABELING.items()),
        "",
        "## A label that a release leaves out",
        "",
        "In the card and in `counts.dropped` of the manifest; numbers are the defaults.",
        "",
        "| reason | meaning |",
        "| --- | --- |",
        *(f"| `{name}` | {_cell(said.format(**limits))} |" for name, said in FILTERED.items()),
        "",
    ]
    return "\n".join(lines)


def documents() -> dict[str, type[BaseModel]]:
    """Return name → model of every document: of collections, and those that makers return."""
    import aqvolt_flows.schemas as package

    found: dict[str, type[BaseModel]] = {}
    for info in pkgutil.iter_modules(package.__path__, "aqvolt_flows.schemas."):
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            is_model = isinstance(value, type) and issubclass(value, BaseModel) and value.__module__ == info.name
            if is_model and name.endswith(("Document", "Outcome")) and name != "Document":
                found[name] = value
    return dict(sorted(found.items()))


def documents_page() -> str:
    """Return the page of all documents, a table each, with links to their JSON Schemas."""
    from aqvolt_flows.datasets.columns import column_table
    from aqvolt_flows.stores import IDENTITIES

    lines = [
        "# Documents",
        "",
        "What the collections hold and what makers return. Each has a JSON Schema beside this page. Collections and "
        "the field that identifies a document: " + ", ".join(f"`{c}` ({i})" for c, i in IDENTITIES.items()) + ".",
        "",
        "## Columns of a release",
        "",
        "| column | type | unit | shape | may be null | meaning |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in column_table():
        cells = (f"`{row['column']}`", row["type"], row["unit"], row["shape"], row["null"], row["meaning"])
        lines.append("| " + " | ".join(_cell(c) for c in cells) + " |")
    lines.append("")
    for name, model in documents().items():
        lines += [f"## {name}", "", _prose(model.__doc__ or ""), "", f"[JSON Schema](schemas/{name}.json)", ""]
        lines += ["| field | type | required | meaning |", "| --- | --- | --- | --- |"]
        for field, info in model.model_fields.items():
            needed = "yes" if info.is_required() else ""
            cells = (f"`{field}`", f"`{_annotation(info.annotation)}`", needed, info.description or "")
            lines.append("| " + " | ".join(_cell(c) for c in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def python_page() -> str:
    """Return the page of public functions and classes; mkdocstrings fills it."""
    lines = [
        "# Python",
        "",
        "What scripts may use. Names that begin with an underscore, and modules that are not here, may change without "
        "notice.",
        "",
    ]
    for name in PUBLIC:
        lines += [f"::: {name}", ""]
    return "\n".join(lines)


def _annotation(annotation: Any) -> str:
    text = (
        annotation.__name__ if isinstance(annotation, type) and not hasattr(annotation, "__args__") else str(annotation)
    )
    return re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Za-z])", "", text)


def _json(model: type[BaseModel]) -> str:
    return json.dumps(model.model_json_schema(), indent=1, ensure_ascii=False) + "\n"


def _prose(text: str) -> str:
    """Return a docstring as Markdown: roles of reStructuredText become code."""
    plain = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text.replace("``", "`"))
    return "\n".join(line.strip() for line in plain.strip().splitlines())


def _cell(value: object) -> str:
    """Return a value for a cell of a table; outside of code, brackets are no links."""
    parts = re.split(r"(`[^`]*`)", " ".join(str(value).split()).replace("|", "\\|"))
    return "".join(p if p.startswith("`") else p.replace("[", "\\[").replace("<", "&lt;") for p in parts)
