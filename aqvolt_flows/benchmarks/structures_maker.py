"""The maker of any registered benchmark of structures, for scripts: no project, no database."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aqvolt_flows.benchmark_registry import benchmark_named
from aqvolt_flows.benchmarks.items import GivenItems, items_of
from aqvolt_flows.benchmarks.makers import ModelMaker
from aqvolt_flows.benchmarks.parts import PartedBenchmark
from aqvolt_flows.chemistry import reduced_formula
from aqvolt_flows.errors import InputError
from aqvolt_flows.jobs import LATER, science_job, typed
from aqvolt_flows.models import ResolvedModel
from aqvolt_flows.potentials.given import model_name
from aqvolt_flows.schemas.benchmark_results import StructureBenchmarkDocument
from aqvolt_flows.schemas.provenance import Failure
from aqvolt_flows.structures import to_structures


def _check(maker: StructureBenchmarkMaker, structures: Any, model: Any = None) -> None:
    if structures is not LATER:
        to_structures(structures, disordered=benchmark_named(maker.benchmark).takes_disorder)
    if model is not LATER:
        maker.chosen(model)


def _failed(
    maker: StructureBenchmarkMaker, error: BaseException, _structures: Any, model: Any = None
) -> StructureBenchmarkDocument:
    failure = Failure(reason="cannot_run", message=f"{error}" or type(error).__name__)
    return StructureBenchmarkDocument(model=model_name(maker.chosen(model)), benchmark=maker.benchmark, failure=failure)


@dataclass
class StructureBenchmarkMaker(ModelMaker):
    """Run a registered benchmark of a model on structures: ``relaxation``, ``bulk_modulus``, ``ev_scan``, a plug-in's.

    Parameters
    ----------
    name
        Name of the job.
    model
        Model string, ASE calculator, :class:`~aqvolt_flows.potentials.given.CalculatorRecipe` or torch-sim model;
        ``make`` may be given another.
    device
        torch device for model strings; ``auto``: a GPU where there is one.
    benchmark
        Its name in the registry, with hyphens or underscores.
    parameters
        Of the benchmark; a dict is read, None: its defaults.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from ase.calculators.emt import EMT
    >>> job = StructureBenchmarkMaker(model=EMT(), benchmark="bulk_modulus").make([bulk("Cu"), bulk("Al")])
    """

    name: str = "benchmark of structures"
    benchmark: str = "relaxation"
    parameters: Any = field(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        chosen = benchmark_named(self.benchmark)
        if not isinstance(chosen, PartedBenchmark) or chosen.needs_reference:
            raise InputError(
                f"{self.benchmark} does not run on structures alone; use ForceBinsMaker, or 'aqvolt benchmark run'."
            )
        self.parameters = chosen.parameters() if self.parameters is None else typed(self.parameters, chosen.parameters)

    @science_job(StructureBenchmarkDocument, check=_check, failed=_failed)
    def make(self, structures: Any, model: Any = None) -> StructureBenchmarkDocument:
        """Measure the model on structures.

        Parameters
        ----------
        structures
            pymatgen Structures or ASE Atoms, one or a list, or references to them.
        model
            Instead of the maker's.

        Returns
        -------
        StructureBenchmarkDocument
            Rows, failures included, and the aggregates over all of them.
        """
        chosen = benchmark_named(self.benchmark)
        given = to_structures(structures, disordered=chosen.takes_disorder)
        potential, said = self.load(model)
        items = GivenItems(items_of((reduced_formula(s.composition), s) for s in given), f"{len(given)} structures")
        resolved = ResolvedModel(said["model"], said["model"], said["model_hash"] or "")
        document, rows = chosen.measure(potential, resolved, self.parameters, items, Path.cwd() / "benchmark")
        return StructureBenchmarkDocument(
            **said,
            benchmark=chosen.name,
            n_items=document.n_items,
            n_failed=document.n_failed,
            n_not_covered=document.n_not_covered,
            n_refused=document.n_refused,
            metrics=document.metrics,
            rows=[_finite(row) for row in rows],
            seconds=document.seconds or 0.0,
        )


def _finite(value: Any) -> Any:
    """Return a value of a row with None for numbers that are not finite: JSON has none."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
