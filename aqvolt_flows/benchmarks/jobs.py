"""The campaign's benchmark job: one benchmark of one model, written into ``benchmarks``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jobflow import Flow, Maker, Response

from aqvolt_flows.benchmark_registry import benchmark_named
from aqvolt_flows.benchmarks.base import blank_document, finished
from aqvolt_flows.benchmarks.parts import PartedBenchmark
from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.jobs import campaign_job, typed
from aqvolt_flows.models import ResolvedModel, resolve_model
from aqvolt_flows.schemas.benchmark import BenchmarkDocument
from aqvolt_flows.schemas.parameters import EVScanParameters, ForceBinParameters
from aqvolt_flows.schemas.provenance import Failure
from aqvolt_flows.stores import Database

_CAUGHT = (InputError, ResourceError)


def _run(maker: BenchmarkMaker, database: Database, model: str, argument: Any, key: str) -> Any:
    resolved = resolve_model(database, model)
    chosen = benchmark_named(maker.benchmark)
    parameters = typed(maker.parameters, chosen.parameters)
    if isinstance(chosen, PartedBenchmark) and finished(database, key) is None:
        chosen.check(parameters, argument)
        n_parts = chosen.n_parts(chosen.item_set(database, parameters, argument))
        if n_parts > 1:
            part = BenchmarkPartMaker(f"{maker.name}: part", maker.benchmark, parameters)
            jobs = [part.make(model, argument, key, index) for index in range(n_parts)]
            return Response(output={"benchmark_key": key, "n_parts": n_parts}, addition=Flow(jobs, name=maker.name))
    return chosen.run(database, resolved, parameters, argument, key).model_dump(mode="json")


def _failed(
    maker: Any,
    database: Database,
    error: Exception,
    model: str,
    argument: Any,
    key: str,
    index: int = 0,  # noqa: ARG001 - of a part
) -> dict[str, Any]:
    """Write the document of a benchmark that could not run at all."""
    nameless = ResolvedModel(model, model, "", model if model.startswith("model-") else None)
    release_id = argument if isinstance(argument, str) else None
    document = blank_document(maker.benchmark, key, nameless, release_id or "candidates", 0, release_id)
    document.status = "failed"
    document.failure = Failure(reason="cannot_run", message=str(error))
    database.upsert("benchmarks", [document])
    return document.model_dump(mode="json")


@dataclass
class BenchmarkMaker(Maker):
    """Run one benchmark of one model in a project.

    Parameters
    ----------
    name
        Name of the job.
    benchmark
        Name of the benchmark.
    parameters
        Its parameters; a dict is read.
    """

    name: str = "benchmark"
    benchmark: str = "ev_scan"
    parameters: Any = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.parameters = typed(self.parameters, benchmark_named(self.benchmark).parameters)

    @campaign_job(_failed, _CAUGHT)
    def make(self, database: Database, model: str, argument: Any, key: str) -> Any:
        """Return the benchmark's document; a model that cannot be loaded gives a failed one.

        A large set is cut into parts: then one job a part is added, and the last of them writes the document.

        Parameters
        ----------
        database
            Given by the decorator.
        model
            Model string or ``model_id``.
        argument
            What to run on: identities of candidates, or of a release.
        key
            :meth:`aqvolt_flows.benchmarks.base.Benchmark.key`.
        """
        return _run(self, database, model, argument, key)


@dataclass
class BenchmarkPartMaker(Maker):
    """Run one part of a benchmark; the part that ends last writes the benchmark's document.

    Parameters
    ----------
    name
        Name of the job.
    benchmark
        Name of the benchmark.
    parameters
        Its parameters; a dict is read.
    """

    name: str = "benchmark: part"
    benchmark: str = "ev_scan"
    parameters: Any = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.parameters = typed(self.parameters, benchmark_named(self.benchmark).parameters)

    @campaign_job(_failed, _CAUGHT)
    def make(self, database: Database, model: str, argument: Any, key: str, index: int) -> Any:
        """Return the benchmark's document if this part was the last, else what was computed.

        Parameters
        ----------
        database
            Given by the decorator.
        model, argument, key
            As for :meth:`BenchmarkMaker.make`.
        index
            Which part, from 0.
        """
        stored = finished(database, key)
        if stored is not None:
            return BenchmarkDocument(**stored).model_dump(mode="json")
        chosen = benchmark_named(self.benchmark)
        items = chosen.item_set(database, self.parameters, argument)
        part = chosen.run_part(database, resolve_model(database, model), self.parameters, items, key, index)
        document = chosen.finish(database, key)
        if document is not None:
            return document.model_dump(mode="json")
        return {"benchmark_key": key, "part": index, "n_parts": part.n_parts, "seconds": part.seconds}


@dataclass
class EVScanMaker(BenchmarkMaker):
    """The job that version 0.1 stored as ``EVScanMaker``; the maker for scripts is in :mod:`aqvolt_flows.makers`."""

    name: str = "E-V scan"
    benchmark: str = "ev_scan"
    parameters: EVScanParameters = field(default_factory=EVScanParameters)


@dataclass
class ForceBinsMaker(BenchmarkMaker):
    """The job that version 0.1 stored as ``ForceBinsMaker``; the maker for scripts is in :mod:`aqvolt_flows.makers`."""

    name: str = "force bins"
    benchmark: str = "force_bins"
    parameters: ForceBinParameters = field(default_factory=ForceBinParameters)
