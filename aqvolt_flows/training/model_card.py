"""The card of a trained model: what it is, what it learned from, how good it is, how it is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from aqvolt_flows.schemas.model import ModelDocument, model_name_of
from aqvolt_flows.training.curves import METRICS

#: What a number is multiplied with for the card, and the unit then.
_SHOWN = {"energy_per_atom_mae": (1e3, "meV/atom"), "forces_mae": (1e3, "meV/Å"), "stress_mae": (160.21766208, "GPa")}
_SAID = {"energy_per_atom_mae": "energy", "forces_mae": "forces", "stress_mae": "stress"}
_LOADED_BY = {
    "fairchem": """from fairchem.core import FAIRChemCalculator

calculator = FAIRChemCalculator.from_model_checkpoint("{weights}", inference_settings="batch", device="cpu"{task})""",
    "sevennet": """from sevenn.calculator import SevenNetCalculator

calculator = SevenNetCalculator("{weights}", modal={modal}, device="cpu")""",
    "mace": """from mace.calculators import MACECalculator

calculator = MACECalculator(model_paths="{weights}", device="cpu")""",
}


def render(
    document: Mapping[str, Any],
    weights: str,
    release: Mapping[str, Any] | None = None,
    benchmarks: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return the card as Markdown; every number is of the documents.

    Parameters
    ----------
    document
        Of ``models``.
    weights
        Name of the weights' file beside the card.
    release
        Document of the release that it was trained on, if it is known here.
    benchmarks
        Documents of its benchmarks.
    """
    model = ModelDocument.model_construct(**document)
    lines = [f"# {model_name_of(document)}", ""]
    lines += _about(model, release)
    lines += ["", "## Errors", "", *_errors(document)]
    if benchmarks:
        lines += ["", "## Benchmarks", "", *_benchmarks(benchmarks)]
    lines += ["", "## Loading", "", "With ASE and the package that trained it:", "", "```python"]
    lines += [_loading(model, weights), "```", ""]
    lines += ["With aqvolt-flows this folder is a model string itself, wherever a potential is named.", ""]
    lines += ["A checkpoint is a pickle: load it only if you trust where it comes from.", ""]
    lines += ["## Provenance", "", *_provenance(model)]
    return "\n".join(lines).rstrip() + "\n"


def _loading(model: ModelDocument, weights: str) -> str:
    snippet = _LOADED_BY.get(model.family, "# see the package of the family {family}")
    named = json.dumps(model.channel) if model.channel else None
    task = f", task_name={named}" if named else ""
    return snippet.format(weights=weights, task=task, modal=named, family=model.family)


def _about(model: ModelDocument, release: Mapping[str, Any] | None) -> list[str]:
    said = [f"- Network: {model.architecture}, {model.n_parameters or 'an unknown number of'} parameters"]
    said.append(f"- Trainer: {model.trainer}" + (f", started from {model.start}" if model.start else ""))
    said.append(f"- Trained on the release {model.release_id}, content hash {model.content_hash}")
    if release:
        counts = release.get("counts") or {}
        said.append("- Frames: " + ", ".join(f"{n} {split}" for split, n in (counts.get("by_split") or {}).items()))
        protocols = release.get("protocols") or {}
        said += [f"- Labels: {n} by {name}" for name, n in protocols.items()]
        if any(str(name).startswith("surrogate") for name in protocols):
            said.append("- The labels come from a machine-learning potential, not from DFT: errors are against it.")
    if model.references:
        said.append("- Elements with a reference energy: " + ", ".join(model.references))
    if any(stage.get("validated_on") == "train" for stage in model.stages):
        said.append("- The release has no validation split: validation errors are errors on training frames.")
    return said


def _errors(document: Mapping[str, Any]) -> list[str]:
    """Return a table of mean absolute errors: validation per stage and source, and the test split."""
    rows: list[tuple[str, Mapping[str, Any]]] = []
    for stage in document.get("stages") or []:
        on = "training" if stage.get("validated_on") == "train" else "validation"
        rows.append((f"{on} split, stage {stage.get('stage')}", stage.get("metrics") or {}))
        for source, metrics in (stage.get("validation") or {}).items():
            if source:
                rows.append((f"{on} split, {source}", {m: points[-1][1] for m, points in metrics.items()}))
    held_out = document.get("held_out") or {}
    for who, said in (("start", "the starting model"), ("trained", "this model")):
        if who in held_out:
            rows.append((f"{held_out['split']} split ({held_out['n']} frames), {said}", held_out[who]))
    if not rows:
        return ["None were recorded."]
    units = ", ".join(f"{_SAID[m]} MAE ({_SHOWN[m][1]})" for m in METRICS)
    head = " | ".join(units.split(", "))
    return [
        f"| on | {head} |",
        "| --- |" + " ---: |" * len(METRICS),
        *(f"| {name} | " + " | ".join(_cell(metrics, m) for m in METRICS) + " |" for name, metrics in rows),
    ]


def _cell(metrics: Mapping[str, Any], metric: str) -> str:
    value = metrics.get(metric)
    return "–" if value is None else f"{float(value) * _SHOWN[metric][0]:.3g}"


def _benchmarks(benchmarks: Sequence[Mapping[str, Any]]) -> list[str]:
    said = []
    for found in benchmarks:
        metrics = found.get("metrics") or {}
        overall = metrics.get("overall") or metrics
        numbers = [
            f"{name.replace('_', ' ')} {value:.4g}"
            for name, value in overall.items()
            if isinstance(value, float) and not name.endswith("_computed") and "median" not in name
        ]
        said.append(
            f"- {found['benchmark']} on {found['dataset']}: {found['n_failed']} of {found['n_items']} failed"
            + (f"; {', '.join(numbers)}" if numbers else "")
        )
    return said


def _provenance(model: ModelDocument) -> list[str]:
    said = [f"- Identity: {model.model_id}"]
    if model.checkpoint is not None:
        checkpoint: Any = model.checkpoint
        digest = checkpoint["sha256"] if isinstance(checkpoint, Mapping) else checkpoint.sha256
        said.append(f"- Weights: SHA-256 {digest}")
    versions = ", ".join(f"{name} {version}" for name, version in model.versions.items())
    return [*said, f"- Trained with {versions}"] if versions else said
