"""The campaign report: one HTML page that carries its figures, styles and data and fetches nothing.

The page is a function of the documents, the release's files and the installed versions. It carries no
time of making, so that an unchanged project gives an unchanged file, which is then not written again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any

from aqvolt_flows.aside import written_aside
from aqvolt_flows.benchmark_registry import BENCHMARKS
from aqvolt_flows.errors import ResourceError
from aqvolt_flows.figures import gather, plots, style, training
from aqvolt_flows.figures.benchmark_plots import cumulative
from aqvolt_flows.figures.loops import loops
from aqvolt_flows.figures.paper import TABLE_1, TABLE_1_NOTE
from aqvolt_flows.stores import Database
from aqvolt_flows.units import EV_PER_A3_IN_GPA

#: Rows and panels shown; the page says how many more there are.
MAX_ROWS, MAX_CURVES = 200, 12
#: Sources of a set with figures of their own.
MAX_SOURCES = 6
DEFAULT_NAME = "report.html"

#: Colours of the figures → CSS variables of the page, so that both schemes are legible.
_VARIABLES = {
    style.INK: "var(--ink)",
    style.MUTED: "var(--muted)",
    style.GRID: "var(--grid)",
    style.PAPER: "var(--surface)",
    **{color: f"var(--s{index})" for index, color in enumerate(style.SERIES)},
}


@dataclass(frozen=True)
class ReportInfo:
    """A written report: where it is, its hash and size, and whether its content changed."""

    path: Path
    sha256: str
    bytes: int
    changed: bool


#: Benchmarks with a section of their own on the page.
_SECTIONS = ("ev_scan", "force_bins")


def inline_svg(svg: bytes, name: str, alt: str) -> str:
    """Return a figure as an element to put into the page: own ids, the page's colours and type, a text alternative."""
    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--sans)", text)
    for color, variable in _VARIABLES.items():
        text = text.replace(color, variable)
    label = alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def build_report(database: Database, path: str | Path) -> ReportInfo:
    """Write the report of everything in the database and return what was written.

    The file is written aside and renamed; one with the same bytes already there is left alone.

    Raises
    ------
    ResourceError
        If the extra ``report`` is not installed, or the file cannot be written.
    """
    target = Path(path)
    content = render_report(collect(database)).encode()
    info = ReportInfo(target, sha256(content).hexdigest(), len(content), changed=True)
    try:
        if target.is_file() and target.read_bytes() == content:
            return ReportInfo(info.path, info.sha256, info.bytes, changed=False)
        with written_aside(target) as aside:
            aside.write_bytes(content)
    except OSError as error:
        raise ResourceError(
            f"The report cannot be written to {target} ({error.strerror}); give a place that can be written."
        ) from error
    return info


def collect(database: Database) -> dict[str, Any]:
    """Return all that the page shows, figures included, as values for the template."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ResourceError(
            "The report needs matplotlib; install it with pip install 'aqvolt-flows[report]'."
        ) from None
    labels = gather.labels(database)
    sampling = gather.sampling_rounds(database)
    releases = gather.releases(database)
    scans, bins = gather.benchmarks(database, "ev_scan"), gather.benchmarks(database, "force_bins")
    models = gather.models(database)
    curves = gather.ev_curves(database, scans)
    changed = gather.changed_at(database)
    return {
        "campaign": ", ".join(database.known_campaigns()) if database.all_campaigns else database.campaign,
        "changed": changed.strftime("%Y-%m-%d %H:%M UTC") if changed else None,
        "stages": gather.stages(database),
        "candidates": gather.candidates(database),
        "trajectories": gather.trajectories(database),
        "labels": labels,
        "sampling": sampling,
        "releases": releases,
        "models": models,
        "gpa": EV_PER_A3_IN_GPA,
        "scans": scans,
        "bins": bins,
        "paper": TABLE_1,
        "paper_note": TABLE_1_NOTE,
        "versions": gather.versions(),
        "max_rows": MAX_ROWS,
        "n_curves": len(curves),
        "figures": _figures(database, labels, sampling, releases),
        "model_figures": _training(models),
        "curve_figures": [_curve(i, c) for i, c in enumerate(curves[:MAX_CURVES])],
        "bin_figures": _bins(bins),
        "others": _other_benchmarks(database),
        "pairs": _pairs(database),
        "loops": loops(database, inline_svg),
    }


def _other_benchmarks(database: Database) -> list[dict[str, Any]]:
    """Return the benchmarks that have no section of their own, in the registry's order: table, figures, note."""
    found = []
    for name in BENCHMARKS:
        rows = [] if name in _SECTIONS else gather.benchmarks(database, name)
        if rows:
            benchmark = BENCHMARKS[name].load()
            tables = [r | dict(benchmark.metrics_of(r["metrics"])) for r in rows]
            figure = benchmark.figure([r for r in rows if r["status"] == "completed"])
            figures = [*([figure] if figure else []), *_distributions(database, benchmark, rows)]
            found.append({"title": benchmark.title, "columns": benchmark.table, "rows": tables, "figures": figures})
    return found


def _distributions(database: Database, benchmark: Any, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return one figure per set and column that a benchmark wants drawn."""
    drawn: Mapping[str, str] = getattr(benchmark, "drawn", {})
    figures = []
    for number, (name, tables) in enumerate(gather.by_set(database, rows).items() if drawn else ()):
        for column, axis in drawn.items():
            series = {label: [r.get(column) for r in benchmark.measured(found)] for label, found in tables.items()}
            if any(v is not None for values in series.values() for v in values):
                svg = cumulative(series, f"{axis}, {name}")
                figures.append(inline_svg(svg, f"{benchmark.name}{number}{column}", f"Distribution of {axis}"))
    return figures


def _pairs(database: Database) -> list[dict[str, Any]]:
    """Return, per benchmark and set that several models ran on, their comparison on what both can compute."""
    found = []
    for name in BENCHMARKS:
        rows = gather.benchmarks(database, name)
        if len({r["model"] for r in rows}) < 2:
            continue
        benchmark = BENCHMARKS[name].load()
        if hasattr(benchmark, "pairs"):
            for dataset, tables in gather.by_set(database, rows).items():
                compared = benchmark.pairs(tables) if len(tables) > 1 else []
                found += [{"benchmark": benchmark.title, "dataset": dataset, **row} for row in compared]
    return found


def _figures(
    database: Database, labels: Mapping[str, Any], sampling: Any, releases: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    """Return the figures of sampling and of the newest release, by name."""
    newest: Any = releases[0] if releases else None
    stages = gather.funnel(database, sampling, labels["sampled"], newest)
    figures = {"funnel": inline_svg(plots.funnel(stages), "funnel", "Configurations kept by each stage")}
    places = gather.feature_map(database, sampling)
    if places:
        figures["map"] = inline_svg(plots.density_map(**places), "map", "Feature space: encoded and selected frames")
    if newest:
        for name, column, xlabel, logarithmic in (
            ("cohesive", "cohesive_energy_per_atom", "cohesive energy (eV/atom)", False),
            ("force", "max_force", "largest |F| of a structure (eV/Å)", True),
            ("pressure", "pressure_gpa", "pressure (GPa)", False),
        ):
            values = gather.release_values(newest, column)
            drawn = plots.distribution(values, xlabel, logarithmic)
            figures[name] = inline_svg(drawn, name, f"Distribution of {xlabel}")
        elements = gather.release_elements(newest)
        figures["elements"] = inline_svg(plots.element_counts(elements), "elements", "Labels by element")
    return figures


def _training(models: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the training curves of each model: losses, and validation errors by stage and source."""
    figures = {}
    for index, model in enumerate(models):
        drawn = [
            inline_svg(svg, f"train{index}-{number}", f"{what} of {model['label']}")
            for number, (what, svg) in enumerate(training.figures_of(model["stages"]))
        ]
        if drawn:
            figures[model["model_id"]] = drawn
    return figures


def _curve(index: int, entry: Mapping[str, Any]) -> str:
    svg = plots.ev_curves(entry["curves"], entry["name"], entry["steady"])
    return inline_svg(svg, f"ev{index}", f"Energy against volume of {entry['name']}")


def _bins(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return one figure per error, set and source of a set (Figures 4 and S5), of models with the same bins.

    The bins are those of the newest document; documents with others are in the table only.
    """
    completed = [r for r in rows if r["status"] == "completed"]
    if not completed:
        return []
    latest = max(completed, key=lambda r: (r["last_updated"], r["benchmark_id"]))
    edges = _edges(latest["metrics"])
    figures: list[str] = []
    for dataset in sorted({r["dataset"] for r in completed}, key=lambda name: (name != latest["dataset"], name)):
        newest = gather.newest_per_model(r for r in completed if r["dataset"] == dataset)
        same = {r["label"]: r["metrics"] for r in newest if _edges(r["metrics"]) == edges}
        figures += _bars(same, edges, "" if len(completed) == len(newest) else dataset, len(figures))
        parts: dict[str, dict[str, Any]] = {}
        for label, metrics in same.items():
            for part in metrics.get("by_source", []):
                parts.setdefault(part["name"], {})[label] = part
        for source in sorted(parts)[:MAX_SOURCES]:
            figures += _bars(parts[source], edges, source, len(figures))
    return figures


def _edges(metrics: Mapping[str, Any]) -> list[tuple[float, float]]:
    return [(b["low_ev_per_a"], b["high_ev_per_a"]) for b in metrics["bins"]]


def _bars(
    by_model: Mapping[str, Mapping[str, Any]], edges: Sequence[tuple[float, float]], what: str, number: int
) -> list[str]:
    """Return the figures of energies, forces and stresses; ``what`` is named on the axis."""
    names = [f"{low:g}–{high:g}" for low, high in edges]
    figures = []
    for name, field, ylabel in (
        ("fe", "energy_mae_mev_per_atom", "energy MAE (meV/atom)"),
        ("ff", "force_mae_mev_per_a", "force MAE (meV/Å)"),
        ("fs", "stress_mae_gpa", "stress MAE (GPa)"),
    ):
        errors = {label: [b[field] for b in metrics["bins"]] for label, metrics in by_model.items()}
        title = f"{ylabel}\n{what}" if what else ylabel
        if errors:
            svg = plots.force_bars(errors, names, title)
            figures.append(inline_svg(svg, f"{name}{number or ''}", f"{ylabel} by force bin {what}".strip()))
    return figures


def _cell(value: Any) -> str:
    """Return any value of a benchmark's table: numbers, intervals, counts by reason."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_cell(v)}" for name, v in value.items()) or "–"
    if isinstance(value, list | tuple):
        return " – ".join(_cell(v) for v in value) or "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else _significant(value)


def _number(value: Any, digits: int = 3) -> str:
    """Return a number for a table cell: fixed digits, or an en dash where there is none."""
    return "–" if value is None else f"{float(value):,.{digits}f}".replace("-", "−")


def _significant(value: Any, digits: int = 3) -> str:
    """Return a number with this many significant digits, or an en dash."""
    if value is None:
        return "–"
    number = float(value)
    if abs(number) >= 10**digits:
        return f"{number:,.0f}".replace("-", "−")
    return f"{number:.{digits}g}".replace("-", "−")


def _size(n_bytes: int) -> str:
    size, unit = float(n_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.3g} {unit}"


def render_report(values: Mapping[str, Any]) -> str:
    """Return the page for what :func:`collect` returned."""
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup, escape
    except ImportError:
        raise ResourceError("The report needs jinja2; install it with pip install 'aqvolt-flows[report]'.") from None
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "number": _number,
        "significant": _significant,
        "cell": _cell,
        "size": _size,
        "count": lambda n: f"{int(n):,}",
        "svg": Markup,
        "formula": lambda text: Markup(re.sub(r"(\d+)", r"<sub>\1</sub>", str(escape(text)))),  # escaped  # nosec B704
    }
    template = resources.files("aqvolt_flows").joinpath("figures/report.html.j2").read_text()
    return environment.from_string(template).render(values)
