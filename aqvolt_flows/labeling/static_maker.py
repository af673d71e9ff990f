"""What all makers of statics share: structures in, a typed document out; the campaign's job asks the same function."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jobflow import Maker
from pymatgen.core import Structure

from aqvolt_flows.chemistry import describe_structure
from aqvolt_flows.errors import ResourceError
from aqvolt_flows.identity import content_key
from aqvolt_flows.jobs import LATER, science_job
from aqvolt_flows.labeling.configuration import Configuration
from aqvolt_flows.labeling.outcomes import attempt, bounded, label_frame
from aqvolt_flows.labeling.validate import computed
from aqvolt_flows.schemas.label import FurtherResults, LabelOutcome
from aqvolt_flows.schemas.provenance import Protocol
from aqvolt_flows.schemas.static import StaticDocument
from aqvolt_flows.stores import Database
from aqvolt_flows.structures import to_structure

#: Detail of an outcome: the folder where the code's files were left.
FOLDER = "dir_name"


@dataclass(frozen=True)
class Asked:
    """What a result is filed under: frame, key of the label, theory level."""

    frame_id: str
    key: str
    protocol: Protocol


class JobFolder:
    """Outside a project: the code's files stay in the folder of the job, and the document says where."""

    def device(self, wanted: str) -> str:
        """Return the torch device for ``cpu``, ``cuda:0`` …, or the best there is for ``auto``."""
        if wanted != "auto":
            return wanted
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    def keep_file(self, path: Path, _suffix: str) -> dict[str, Any]:
        """Return what an outcome says of a file."""
        return {"details": {FOLDER: str(path.parent)}}

    def keep_run(self, folder: Path) -> dict[str, Any]:
        """Return what an outcome says of a run's folder."""
        return {"details": {FOLDER: str(folder)}}


class ProjectFiles(JobFolder):
    """In a project: files go to its artifact store.

    Parameters
    ----------
    database
        Names the store and the device.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def device(self, wanted: str) -> str:
        """Return the torch device of the settings, unless the maker names one."""
        return self._database.settings.resolve_device() if wanted == "auto" else wanted

    def keep_file(self, path: Path, suffix: str) -> dict[str, Any]:
        """Store one file and return its pointer."""
        return {"raw": self._database.artifacts.put_file(path, suffix)}

    def keep_run(self, folder: Path) -> dict[str, Any]:
        """Store a run's files and return the pointer, or why they could not be kept: a label outlives its files."""
        from aqvolt_flows.vasp.run import archive

        try:
            return {"raw": archive(folder, self._database.artifacts)}
        except (ResourceError, OSError) as error:
            return {"details": {"raw_lost": f"{type(error).__name__}: {error}"[:500]}}


def _check(_maker: Any, structure: Any = None, *_further: Any, **_options: Any) -> None:
    if structure is not LATER:
        to_structure(structure)


def _stored(maker: Any, structure: Any = None, key: Any = None, **_options: Any) -> Callable[[], Any] | None:
    """Return the campaign's job for ``make(frame_id, key)``, as version 0.1 stored it; None for a structure."""
    if not (isinstance(structure, str) and isinstance(key, str)):
        return None
    return lambda: label_one(Database.connect(), maker, structure, key)


@dataclass
class StaticMaker(Maker):
    """Base of makers that compute energy, forces and stress of one structure.

    A subclass gives :attr:`protocol` and :meth:`evaluate`; both jobs, this ``make`` and the campaign's, ask them.
    """

    name: str = "static"

    @property
    @abstractmethod
    def protocol(self) -> Protocol:
        """The theory level."""

    @abstractmethod
    def evaluate(self, given: Configuration, asked: Asked, files: JobFolder) -> LabelOutcome:
        """Return the outcome for a configuration; what is raised becomes a failed outcome with its reason.

        Parameters
        ----------
        given
            What to compute.
        asked
            Goes into the outcome.
        files
            Where the code's own files are kept, and on which device to compute.
        """

    @science_job(StaticDocument, check=_check, stored=_stored)
    def make(self, structure: Any) -> StaticDocument:
        """Compute one structure.

        Parameters
        ----------
        structure
            pymatgen Structure or ASE Atoms, or a reference to one.

        Returns
        -------
        StaticDocument
            With ``status`` and ``failure`` where there is no result.

        Raises
        ------
        InputError
            When the job is made: for anything else, for partial occupancy, or where there is no cell.
        """
        given = to_structure(structure)
        protocol = self.protocol
        identity = {"cell": given.lattice.matrix.tolist(), "positions": given.cart_coords.tolist()}
        key = content_key("static/1", species=[str(s.specie) for s in given], protocol=protocol.protocol_id, **identity)
        asked = Asked("structure", key, protocol)

        def evaluate(configuration: Configuration) -> LabelOutcome:
            return self.evaluate(configuration, asked, JobFolder())

        outcome = attempt("structure", key, protocol, lambda: Configuration.of_structure(given), evaluate)
        return document_of(bounded(outcome), given)


def document_of(outcome: LabelOutcome, structure: Structure) -> StaticDocument:
    """Return the document of an outcome."""
    described = describe_structure(structure)
    details = dict(outcome.details)
    kept = ("status", "failure", "protocol", "energy", "forces", "stress", "cost_core_hours")
    return StaticDocument(
        structure=structure,
        formula=str(described["formula"]),
        chemsys=str(described["chemsys"]),
        n_atoms=len(structure),
        protocol_name=outcome.protocol.name,
        energy_per_atom=None if outcome.energy is None else outcome.energy / len(structure),
        dir_name=details.pop(FOLDER, None),
        details=details,
        **{name: getattr(outcome, name) for name in (*kept, *FurtherResults.model_fields)},
    )


def outcome_of_atoms(atoms: Any, calculator: Any, asked: Asked, **facts: Any) -> LabelOutcome:
    """Return the outcome of an ASE calculator on Atoms: converged, or bad output where a number cannot be right.

    Parameters
    ----------
    atoms, calculator
        What is computed, and what gives energy (eV), forces (eV/Å) and stress (eV/Å³).
    asked
        Goes into the outcome.
    **facts
        Further fields of :class:`~aqvolt_flows.schemas.label.LabelOutcome`, e.g. ``details``.
    """
    atoms.calc = calculator
    started = time.process_time()
    result: dict[str, Any] = {
        "energy": float(atoms.get_potential_energy()),
        "forces": np.asarray(atoms.get_forces(), dtype=float),
        "stress": np.asarray(atoms.get_stress(voigt=True), dtype=float),
    }
    cost: dict[str, Any] = {"cost_core_hours": (time.process_time() - started) / 3600.0}
    return computed(
        frame_id=asked.frame_id,
        key=asked.key,
        protocol=asked.protocol,
        atomic_numbers=atoms.numbers,
        positions=atoms.positions,
        cell=atoms.cell.array,
        **result,
        **(cost | facts),
    )


def label_one(database: Database, maker: StaticMaker, frame_id: str, key: str) -> dict[str, object]:
    """Return a :class:`LabelOutcome` as JSON types for one frame of a project; see :func:`label_frame`."""
    asked = Asked(frame_id, key, maker.protocol)
    files = ProjectFiles(database)
    return label_frame(database, frame_id, key, asked.protocol, lambda given: maker.evaluate(given, asked, files))
