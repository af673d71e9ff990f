"""The maker that stuffs empty hosts with Li."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jobflow import Maker
from pymatgen.core import Structure

from aqvolt_flows.candidates.density import fetch_aeccars, has_aeccars, promolecular_density, read_aeccars
from aqvolt_flows.candidates.generated import generated_document, write_generated
from aqvolt_flows.candidates.lithiate import Lithiation, Step, kept_steps, lithiate
from aqvolt_flows.candidates.reducibility import REDOX_METALS, assess_reducibility
from aqvolt_flows.candidates.sites import find_sites
from aqvolt_flows.dynamics.relax import Relaxer, torchsim_relaxer
from aqvolt_flows.identity import content_key
from aqvolt_flows.jobs import campaign_job, typed
from aqvolt_flows.potentials import load_potential, model_hash
from aqvolt_flows.schemas.candidate import CandidateDocument
from aqvolt_flows.schemas.generation import LithiationParameters
from aqvolt_flows.schemas.parameters import DuplicateParameters
from aqvolt_flows.schemas.provenance import Failure
from aqvolt_flows.stores import Database

if TYPE_CHECKING:
    from pymatgen.io.vasp import Chgcar

#: What decides how work is cut into jobs or where files lie, not what comes out.
_NOT_IN_KEY = {"hosts_per_job": True, "aeccar_folder": True, "relaxation": {"max_batch_atoms"}}


def lithiation_key(host_id: str, parameters: LithiationParameters, metals: tuple[str, ...] = REDOX_METALS) -> str:
    """Return the key of one host's lithiation."""
    return content_key(
        "lithiate/1",
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
        done = {d["key"] for d in database["candidates"].find({"key": {"$in": keys}}, {"key": 1})}
        todo = [h for h in hosts if h["key"] not in done]
        documents = database.find_by_ids("candidates", [h["candidate_id"] for h in todo])
        totals: dict[str, Any] = {"new": 0, "accepted": 0, "rejected": {}, "already_done": len(done)}
        relax = _LazyRelaxer(p, database.settings.resolve_device())
        for host, document in zip(todo, documents, strict=True):
            made = stuffed_documents(document, host["key"], p, tuple(self.metals), database, relax)
            counts = write_generated(database, made, self.duplicates)
            totals["new"] += counts["new"]
            totals["accepted"] += counts["accepted"]
            for reason, n in counts["rejected"].items():
                totals["rejected"][reason] = totals["rejected"].get(reason, 0) + n
        return totals


class _LazyRelaxer:
    """Loads the potential when the first host needs it; most hosts of a batch may be refused before."""

    def __init__(self, parameters: LithiationParameters, device: str) -> None:
        self._parameters, self._device = parameters.relaxation, device
        self._relax: Relaxer | None = None

    def __call__(self, structures: Any) -> Any:
        if self._relax is None:
            self._relax = torchsim_relaxer(load_potential(self._parameters.potential, self._device), self._parameters)
        return self._relax(structures)


def stuffed_documents(
    host: dict[str, Any],
    key: str,
    parameters: LithiationParameters,
    metals: tuple[str, ...],
    database: Database,
    relax: Relaxer,
) -> list[CandidateDocument]:
    """Return the documents of one host: its lithiated structures, or the attempt with the reason.

    The document with the host's key is the fullest content, or the refusal; emptier contents, where they are kept,
    have keys of their own.
    """
    structure = Structure.from_dict(host["structure"])
    provenance = {
        "potential": parameters.relaxation.potential,
        "weights": model_hash(parameters.relaxation.potential),
        "density": None,
    }
    reduction = assess_reducibility(structure, metals)
    if isinstance(reduction, Failure):
        return [_refused(host, key, structure, reduction, {}, provenance)]
    decisions = reduction.as_decisions()
    found = find_density(host, structure, parameters, database)
    if isinstance(found, Failure):
        return [_refused(host, key, structure, found, decisions, provenance)]
    density, origin = found
    provenance |= origin
    cell = Structure.from_sites(list(density.structure))
    sites = find_sites(density, parameters)
    decisions |= {
        "n_sites_for_li": len(sites),
        "site_charges_e_per_a3": sorted({round(float(c), 6) for c in sites.charges}),
    }
    # the density's cell may be another choice of the host's; Li are counted per cell
    reduction_here = assess_reducibility(cell, metals)
    max_li = reduction.max_li if isinstance(reduction_here, Failure) else reduction_here.max_li
    decisions["max_li"] = max_li
    outcome = lithiate(cell, sites, max_li, relax, parameters)
    return _outcome_documents(host, key, cell, outcome, decisions, provenance, parameters)


def find_density(
    host: dict[str, Any], structure: Structure, parameters: LithiationParameters, database: Database
) -> tuple[Chgcar, dict[str, Any]] | Failure:
    """Return the host's charge density and where it is from, by the first source that has it.

    Returns
    -------
    tuple or Failure
        ``no_charge_density`` if no source has one, ``other_structure`` if the density is of another crystal.
    """
    density: Chgcar | None = None
    origin: dict[str, Any] = {}
    for source in parameters.densities:
        if source == "files":
            density, origin = _from_files(host, parameters, database)
        elif source == "bucket":
            density, origin = _from_bucket(host)
        else:
            density = promolecular_density(structure, parameters.promolecular_spacing_a)
            origin = {"density": "promolecular", "density_spacing_a": parameters.promolecular_spacing_a}
        if density is not None:
            break
    if density is None:
        return Failure(reason="no_charge_density", message=f"no density from {', '.join(parameters.densities)}")
    if not _same_crystal(structure, Structure.from_sites(list(density.structure))):
        said = density.structure.composition.reduced_formula
        return Failure(reason="other_structure", message=f"the density from {origin['density']} is of another {said}")
    return density, origin


def _same_crystal(structure: Structure, other: Structure) -> bool:
    """Return whether two cells are of one crystal; a distortion may hide the translations of either of them."""
    from pymatgen.core.structure_matcher import StructureMatcher

    if StructureMatcher().fit(structure, other):
        return True
    return bool(StructureMatcher(primitive_cell=False, attempt_supercell=True).fit(structure, other))


def _record_id(host: dict[str, Any]) -> str | None:
    value = (host.get("provenance") or {}).get("record_id")
    return str(value) if value else None


def _from_files(
    host: dict[str, Any], parameters: LithiationParameters, database: Database
) -> tuple[Chgcar | None, dict[str, Any]]:
    if parameters.aeccar_folder is None:
        return None, {}
    root = database.settings.path(parameters.aeccar_folder)
    for name in (host["candidate_id"], host["name"], _record_id(host)):
        if name and "/" not in name and has_aeccars(root / name):
            return read_aeccars(root / name), {"density": "files", "density_id": name}
    return None, {}


def _from_bucket(host: dict[str, Any]) -> tuple[Chgcar | None, dict[str, Any]]:
    provenance = host.get("provenance") or {}
    for task_id in dict.fromkeys([*(provenance.get("task_ids") or []), *filter(None, [_record_id(host)])]):
        if str(task_id).startswith(("mp-", "mvc-")) and (density := fetch_aeccars(str(task_id))) is not None:
            return density, {"density": "bucket", "density_id": str(task_id)}
    return None, {}


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
    host: dict[str, Any],
    key: str,
    cell: Structure,
    outcome: Lithiation,
    decisions: dict[str, Any],
    provenance: dict[str, Any],
    parameters: LithiationParameters,
) -> list[CandidateDocument]:
    decisions = decisions | {
        "host_energy_ev": None if outcome.failure and not outcome.steps else round(outcome.host.energy, 6),
        "stopped": outcome.stopped,
        "steps": [s.as_decisions() for s in outcome.steps],
    }
    if outcome.failure is not None:
        tried = [c.relaxed for s in outcome.steps for c in s.configurations if c.relaxed.converged]
        last = min(tried, key=lambda r: r.energy).structure if tried else cell
        return [_refused(host, key, last, outcome.failure, decisions, provenance)]
    steps = kept_steps(outcome, parameters.keep)
    documents = []
    for step in steps:
        own = key if step is steps[-1] else content_key("lithiate-step/1", host=key, n_li=step.n_li)
        documents.append(_stuffed(host, own, step, decisions, provenance))
    return documents


def _stuffed(
    host: dict[str, Any], key: str, step: Step, decisions: dict[str, Any], provenance: dict[str, Any]
) -> CandidateDocument:
    assert step.best is not None
    best, change = step.best, step.best.topotaxy
    numbers = {
        "n_li": step.n_li,
        "site_charge_e_per_a3": round(best.site_charge, 6),
        "energy_ev": round(best.relaxed.energy, 6),
        "rms_displacement_a": None if change is None or change.rms is None else round(change.rms, 6),
        "volume_change": None if change is None else round(change.volume_change, 6),
    }
    name = f"Li{step.n_li} + {host['name']}"
    return generated_document(
        key, "stuffed", host, best.relaxed.structure, None, decisions | numbers, dict(provenance), name
    )
