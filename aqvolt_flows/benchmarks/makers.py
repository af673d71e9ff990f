"""Makers of benchmarks on structures, for any script: no project, no database."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jobflow import Job, Maker

from aqvolt_flows.benchmarks import ev_scan, force_bins
from aqvolt_flows.benchmarks.evaluate import evaluate_each
from aqvolt_flows.benchmarks.item_errors import item_errors
from aqvolt_flows.benchmarks.references import read_references
from aqvolt_flows.chemistry import reduced_formula
from aqvolt_flows.errors import InputError
from aqvolt_flows.jobs import LATER, science_job, typed
from aqvolt_flows.labeled import labels_as_plain
from aqvolt_flows.potentials import Potential
from aqvolt_flows.potentials.given import (
    Model,
    as_potential,
    check_model_given,
    given_hash,
    model_name,
    resolve_device,
    storable,
)
from aqvolt_flows.schemas.benchmark_results import ErrorResult, EVScanDocument, ForceBinsDocument, ScanResult
from aqvolt_flows.schemas.parameters import EVScanParameters, ForceBinParameters
from aqvolt_flows.schemas.provenance import Failure
from aqvolt_flows.structures import to_atoms, to_structures


@dataclass
class ModelMaker(Maker):
    """What makers share that measure a model, given to the maker or to ``make``."""

    name: str = "benchmark"
    model: Model | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        check_model_given(self.model)
        self.model = storable(self.model)

    def chosen(self, model: Any) -> Any:
        """Return the model to measure.

        Raises
        ------
        InputError
            If neither the maker nor ``make`` was given one.
        """
        found = self.model if model is None else model
        if found is None:
            raise InputError(f"{type(self).__name__} has no model; give model= to the maker or to make.")
        check_model_given(found)
        return found

    def load(self, model: Any) -> tuple[Potential, dict[str, Any]]:
        """Return the potential, and the fields that a document says of it."""
        chosen = self.chosen(model)
        said = {"model": model_name(chosen), "model_hash": given_hash(chosen)}
        return as_potential(chosen, resolve_device(self.device) if isinstance(chosen, str) else "cpu"), said


def _failed(schema: type[Any]) -> Callable[..., Any]:
    """Return what makes the document of a benchmark that could not run."""

    def document(maker: ModelMaker, error: BaseException, _measured_on: Any, model: Any = None) -> Any:
        failure = Failure(reason="cannot_run", message=f"{error}" or type(error).__name__)
        return schema(model=model_name(maker.chosen(model)), failure=failure)

    return document


def _check_scan(maker: EVScanMaker, structures: Any, model: Any = None) -> None:
    if structures is not LATER:
        to_structures(structures)
    if model is not LATER:
        maker.chosen(model)


@dataclass
class EVScanMaker(ModelMaker):
    """Scan energy against volume: MLIP Arena's test of smooth curves with one minimum.

    Parameters
    ----------
    name
        Name of the job.
    model
        Model string, ASE calculator, :class:`~aqvolt_flows.potentials.given.CalculatorRecipe` or torch-sim model;
        ``make`` may be given another.
    device
        torch device for model strings; ``auto``: a GPU where there is one.
    parameters
        Points and largest strain; a dict is read.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from ase.calculators.emt import EMT
    >>> job = EVScanMaker(model=EMT()).make([bulk("Cu"), bulk("Al")])
    """

    name: str = "E-V scan of structures"
    parameters: EVScanParameters = field(default_factory=EVScanParameters)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.parameters = typed(self.parameters, EVScanParameters)

    @science_job(EVScanDocument, check=_check_scan, failed=_failed(EVScanDocument))
    def make(self, structures: Any, model: Any = None) -> EVScanDocument:
        """Scan structures as they are, without relaxing them.

        Parameters
        ----------
        structures
            pymatgen Structures or ASE Atoms, one or a list, or references to them.
        model
            Instead of the maker's.

        Returns
        -------
        EVScanDocument
            One result per structure, failures included, and the aggregates over all of them.
        """
        started = time.perf_counter()
        given = to_structures(structures)
        potential, said = self.load(model)
        p = self.parameters
        scans = ev_scan.scan_structures(
            potential.evaluate,
            [to_atoms(s) for s in given],
            p.n_points,
            p.max_linear_strain,
            elements=potential.elements,
        )
        results = [
            ScanResult(
                structure_index=index,
                formula=reduced_formula(structure.composition),
                n_atoms=scan.n_atoms,
                volumes=scan.volumes.tolist(),
                energies=[e if math.isfinite(e) else None for e in scan.energies.tolist()],
                spearman=scan.spearman,
                flips=scan.flips,
                tortuosity=scan.tortuosity,
                failure=scan.failure,
            )
            for index, (structure, scan) in enumerate(zip(given, scans, strict=True))
        ]
        return EVScanDocument(
            **said,
            n_items=len(results),
            n_failed=sum(r.failure is not None for r in results),
            metrics=ev_scan.aggregate(scans) | {"parameters": p.model_dump(mode="json")},
            results=results,
            seconds=round(time.perf_counter() - started, 3),
        )


def _check_bins(maker: ForceBinsMaker, references: Any, model: Any = None) -> None:
    if references is not LATER:
        read_references(references, maker.parameters.split, sample=True)
    if model is not LATER:
        maker.chosen(model)


@dataclass
class ForceBinsMaker(ModelMaker):
    """Compare a model with references, binned by the largest reference force.

    Parameters
    ----------
    name
        Name of the job.
    model
        Model string, ASE calculator, :class:`~aqvolt_flows.potentials.given.CalculatorRecipe` or torch-sim model;
        ``make`` may be given another.
    device
        torch device for model strings; ``auto``: a GPU where there is one.
    parameters
        Edges of the bins (eV/Å), and the split where references are a release; a dict is read.
    """

    name: str = "force bins of structures"
    parameters: ForceBinParameters = field(default_factory=ForceBinParameters)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.parameters = typed(self.parameters, ForceBinParameters)

    def make(self, references: Any, model: Any = None) -> Job:
        """Return the job that compares the model with references.

        Parameters
        ----------
        references
            ASE Atoms with calculator results, documents of statics (or references to such jobs' outputs), one or a
            list; or the path of a release folder.
        model
            Instead of the maker's.
        """
        job: Job = self.compare(labels_as_plain(references), model)
        return job

    @science_job(ForceBinsDocument, check=_check_bins, failed=_failed(ForceBinsDocument))
    def compare(self, references: Any, model: Any = None) -> ForceBinsDocument:
        """Compare; see :meth:`make`.

        Returns
        -------
        ForceBinsDocument
            One result per structure, failures included, and the aggregates per bin.
        """
        started = time.perf_counter()
        p = self.parameters
        force_bins.check_edges(p.edges_ev_per_a)
        given = read_references(references, p.split)
        potential, said = self.load(model)
        found = evaluate_each(potential.evaluate, [to_atoms(r.structure) for r in given])
        errors = [item_errors(r.reference, f) for r, f in zip(given, found, strict=True)]
        results = [
            ErrorResult(
                item_id=e.item_id,
                formula=reduced_formula(r.structure.composition),
                n_atoms=e.n_atoms,
                max_force=e.max_force,
                energy_error=e.energy_error,
                force_mae=e.force_mae,
                stress_mae=e.stress_mae,
                failure=e.failure,
            )
            for r, e in zip(given, errors, strict=True)
        ]
        return ForceBinsDocument(
            **said,
            n_items=len(results),
            n_failed=int(np.sum([r.failure is not None for r in results])),
            metrics=force_bins.aggregate(errors, p.edges_ev_per_a) | {"parameters": p.model_dump(mode="json")},
            results=results,
            seconds=round(time.perf_counter() - started, 3),
        )
