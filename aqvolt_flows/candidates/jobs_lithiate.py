"""The maker that stuffs empty hosts with Li."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobflow import Maker
from pymatgen.core import Structure

from aqvolt_flows.candidates.generated import generated_document, write_generated
from aqvolt_flows.candidates.host_density import DENSITY_REASONS, density_fingerprint, find_density
from aqvolt_flows.candidates.lithiate import Lithiation, Step, kept_steps, lithiation, lithium_metal
from aqvolt_flows.candidates.minima import Search, together
from aqvolt_flows.candidates.reducibility import REDOX_METALS, assess_reducibility
from aqvolt_flows.candidates.sites import Sites, find_sites, sites_of_primitive
from aqvolt_flows.dynamics.relax import Relaxed, Relaxer, torchsim_relaxer
from aqvolt_flows.errors import AqvoltError, ResourceError
from aqvolt_flows.identity import content_key
from aqvolt_flows.jobs import campaign_job, typed
from aqvolt_flows.potentials import load_potential, model_hash
from aqvolt_flows.schemas.candidate import CandidateDocument
from aqvolt_flows.schemas.generation import LithiationParameters
from aqvolt_flows.schemas.parameters import DuplicateParameters
from aqvolt_flows.schemas.provenance import Failure
from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import Database

#: What decides how work is cut into jobs or where files lie, not what comes out.
_NOT_IN_KEY = {"hosts_per_job": True, "aeccar_folder": True, "relaxation": {"max_batch_atoms"}}


def lithiation_key(host_id: str, parameters: LithiationParameters, metals: tuple[str, ...] = REDOX_METALS) -> str:
    """Return the key of one host's lithiation."""
    return content_key(
        "lithiate/2",
        host=host_id,
        parameters=parameters.model_dump(mode="json", exclude=_NOT_IN_KEY),  # type: ignore[arg-type]
        metals=sorted(metals),
        weights=model_hash(parameters.relaxation.potential),
    )


@dataclass
class LithiateMaker(Maker):
    """Lithiate a batch of hosts in one Firework.

    Parameters
    ----------
    name
        Name of the job.
    parameters, duplicates
        Of the campaign; dicts of their values are read.
    metals
        Redox metals that may be reduced.
    """

    name: str = "lithiate hosts"
    parameters: LithiationParameters = field(default_factory=LithiationParameters)
    duplicates: DuplicateParameters = field(default_factory=DuplicateParameters)
    metals: list[str] = field(default_factory=lambda: list(REDOX_METALS))

    def __post_init__(self) -> None:
        self.parameters = typed(self.parameters, LithiationParameters)
        self.duplicates = typed(self.duplicates, DuplicateParameters)

    @campaign_job()
    def make(self, database: Database, hosts: list[dict[str, str]]) -> dict[str, Any]:
        """Write ``candidates`` of source ``stuffed``, refused ones with their reason; return counts.

        Parameters
        ----------
        hosts
            ``candidate_id`` and ``key`` of each. Those whose key is in the collection are skipped.
        """
        p = self.parameters
        database.ensure_indexes()
        keys = [h["key"] for h in hosts]
        settled = {"key": {"$in": keys}, "rejection.reason": {"$nin": list(DENSITY_REASONS)}}
        done = {d["key"] for d in database["candidates"].find(settled, {"key": 1})}
        todo = [h for h in hosts if h["key"] not in done]
        documents = database.find_by_ids("candidates", [h["candidate_id"] for h in todo])
        totals: dict[str, Any] = {"new": 0, "accepted": 0, "rejected": {}, "already_done": len(done)}
        relax = LazyRelaxer(p, database.settings.resolve_device())
        keyed = [(document, h["key"]) for h, document in zip(todo, documents, strict=True)]
        for made in stuffed_documents(keyed, p, tuple(self.metals), database.settings, relax):
            counts = write_generated(database, made, self.duplicates)
            totals["new"] += counts["new"]
            totals["accepted"] += counts["accepted"]
            for reason, n in counts["rejected"].items():
                totals["rejected"][reason] = totals["rejected"].get(reason, 0) + n
        return totals


class LazyRelaxer:
    """Loads the potential when the first host needs it; most hosts of a batch may be refused before.

    Parameters
    ----------
    parameters
        Of the lithiation.
    device
        torch device.
    """

    def __init__(self, parameters: LithiationParameters, device: str) -> None:
        self._parameters, self._device = parameters.relaxation, device
        self._relax: Relaxer | None = None

    def __call__(self, structures: Sequence[Structure]) -> list[Relaxed]:
        """Relax structures."""
        if self._relax is None:
            self._relax = torchsim_relaxer(load_potential(self._parameters.potential, self._device), self._parameters)
        return self._relax(structures)


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A host that can be lithiated: what the search needs of it; its density, which is large, is not among it."""

    host: dict[str, Any]
    key: str
    cell: Structure
    sites: Sites
    max_li: int
    decisions: dict[str, Any]
    provenance: dict[str, Any]

    def search(self, parameters: LithiationParameters, li_energy: float | None) -> Search[Lithiation]:
        return lithiation(self.cell, self.sites, self.max_li, parameters, li_energy)


def stuffed_documents(
    hosts: Sequence[tuple[dict[str, Any], str]],
    parameters: LithiationParameters,
    metals: tuple[str, ...],
    settings: AqvoltSettings,
    relax: Relaxer,
) -> Iterator[list[CandidateDocument]]:
    """Yield the documents of each host as soon as it is done: its lithiated structures, or the attempt with the reason.

    The document with the host's key is the fullest content, or the refusal; emptier contents, where they are kept,
    have keys of their own. All hosts are relaxed together.

    Parameters
    ----------
    hosts
        Their documents and keys.
    parameters, metals
        Of the campaign.
    settings
        Where density files are.
    relax
        Structures in, relaxed structures out.

    Raises
    ------
    ResourceError
        At the end, if the source of a host's density did not answer; the others are done by then.
    """
    ready: list[_Prepared] = []
    unanswered: ResourceError | None = None
    for host, key in hosts:
        try:
            found = _prepared(host, key, parameters, metals, settings)
        except ResourceError as error:
            unanswered = error
            continue
        if isinstance(found, CandidateDocument):
            yield [found]
        else:
            ready.append(found)
    if ready:
        yield from _lithiated(ready, parameters, relax)
    if unanswered is not None:
        raise unanswered


def _lithiated(
    ready: Sequence[_Prepared], parameters: LithiationParameters, relax: Relaxer
) -> Iterator[list[CandidateDocument]]:
    """Yield the documents of hosts that can be lithiated."""
    (metal,) = relax([lithium_metal()])
    li_energy = metal.energy_per_atom if metal.converged else None
    if li_energy is None and parameters.min_voltage_v is not None:
        why = metal.failure.message if metal.failure else ""
        said = f"Li metal, which voltages refer to, did not relax with {parameters.relaxation.potential}: {why}"
        failure = Failure(reason="li_metal_unrelaxed", message=said)
        for one in ready:
            yield [_refused(one.host, one.key, one.cell, failure, one.decisions, one.provenance)]
        return
    searches = [one.search(parameters, li_energy) for one in ready]
    for index, outcome in together(searches, relax):
        yield _outcome_documents(ready[index], outcome, parameters, li_energy)


def _prepared(
    host: dict[str, Any],
    key: str,
    parameters: LithiationParameters,
    metals: tuple[str, ...],
    settings: AqvoltSettings,
) -> _Prepared | CandidateDocument:
    """Return a host with its sites, or its refusal."""
    structure = Structure.from_dict(host["structure"])
    provenance = {
        "potential": parameters.relaxation.potential,
        "weights": model_hash(parameters.relaxation.potential),
        "density": None,
    }
    reduction = assess_reducibility(structure, metals)
    if isinstance(reduction, Failure):
        return _refused(host, key, structure, reduction, {}, provenance)
    decisions = reduction.as_decisions()
    found = find_density(host, structure, parameters, settings)
    if isinstance(found, Failure):
        provenance["density_files"] = density_fingerprint(host, parameters, settings)
        return _refused(host, key, structure, found, decisions, provenance)
    density, origin = found
    provenance |= origin
    cell = Structure.from_sites(list(density.structure))
    try:
        sites = find_sites(density, parameters)
        if parameters.cell == "primitive":
            cell, sites = sites_of_primitive(cell, sites, parameters.clustering_tol_a)
    except AqvoltError:
        raise
    except Exception as error:  # noqa: BLE001 - a density that the analyzer cannot take must not end the batch
        said = f"no sites could be found in the density ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        provenance["density_files"] = density_fingerprint(host, parameters, settings)
        return _refused(host, key, structure, Failure(reason="bad_density", message=said), decisions, provenance)
    decisions |= {
        "n_atoms_of_host": len(cell),
        "n_sites_for_li": len(sites),
        "site_charges_e_per_a3": sorted({round(float(c), 6) for c in sites.charges}),
    }
    # the density's cell may be another choice of the host's; Li are counted per cell
    reduction_here = assess_reducibility(cell, metals)
    max_li = reduction.max_li if isinstance(reduction_here, Failure) else reduction_here.max_li
    decisions["max_li"] = max_li
    return _Prepared(host, key, cell, sites, max_li, decisions, provenance)


def _refused(
    host: dict[str, Any],
    key: str,
    structure: Structure,
    failure: Failure,
    decisions: dict[str, Any],
    provenance: dict[str, Any],
) -> CandidateDocument:
    name = f"Li + {host['name']}"
    return generated_document(key, "stuffed", host, structure, failure, decisions | {"n_li": 0}, provenance, name)


def _outcome_documents(
    one: _Prepared, outcome: Lithiation, parameters: LithiationParameters, li_energy: float | None
) -> list[CandidateDocument]:
    decisions = one.decisions | {
        "li_metal_ev_per_atom": None if li_energy is None else round(li_energy, 6),
        "stopped": outcome.stopped,
        "steps": [s.as_decisions() for s in outcome.steps],
        **_host_numbers(outcome),
    }
    if outcome.failure is not None:
        tried = [c.relaxed for s in outcome.steps for c in s.configurations if c.relaxed.converged]
        last = min(tried, key=lambda r: r.energy).structure if tried else one.cell
        return [_refused(one.host, one.key, last, outcome.failure, decisions, one.provenance)]
    steps = kept_steps(outcome, parameters.keep)
    documents = []
    for step in steps:
        own = one.key if step is steps[-1] else content_key("lithiate-step/1", host=one.key, n_li=step.n_li)
        documents.append(_stuffed(one.host, own, step, decisions, one.provenance))
    return documents


def _host_numbers(outcome: Lithiation) -> dict[str, Any]:
    """Return what a document says of the relaxed empty host, which everything else refers to."""
    empty, change = outcome.host.relaxed, outcome.host_change
    if not math.isfinite(empty.energy):
        return {"host_energy_ev": None}
    numbers: dict[str, Any] = {
        "host_energy_ev": round(empty.energy, 6),
        "host_volume_a3": round(empty.structure.volume, 6),
        "host_structure": empty.structure.as_dict(),
        "host_minimum": outcome.host.as_decisions(),
    }
    if change is not None:
        numbers["host_volume_change_on_relaxing"] = round(change.volume_change, 6)
    return numbers


def _stuffed(
    host: dict[str, Any], key: str, step: Step, decisions: dict[str, Any], provenance: dict[str, Any]
) -> CandidateDocument:
    assert step.best is not None
    chosen = step.best.as_decisions()
    names = (
        "site_charge_e_per_a3",
        "energy_ev",
        "rms_displacement_a",
        "volume_change",
        "li_distance_a",
        "max_bond_stretch",
        "spread_mev_per_atom",
        "gain_mev_per_atom",
    )
    numbers = {"n_li": step.n_li} | {name: chosen[name] for name in names if name in chosen}
    voltages = step.as_decisions()
    numbers |= {name: voltages[name] for name in ("voltage_v", "average_voltage_v")}
    name = f"Li{step.n_li} + {host['name']}"
    structure = step.best.relaxed.structure
    return generated_document(key, "stuffed", host, structure, None, decisions | numbers, dict(provenance), name)
