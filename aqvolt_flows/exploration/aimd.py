"""r2SCAN NpT ab-initio MD (AQVolt26, section 2.2): every converged ionic step is a configuration with its label.

The electronic settings are those of the statics (:mod:`aqvolt_flows.vasp.settings`), so that labels of both
are of one protocol. atomate2's own ``MDSetGenerator`` is not used: its NpT is PBEsol at 520 eV.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobflow import Maker, Response
from pymatgen.core import Structure

from aqvolt_flows.artifacts import ArtifactStore
from aqvolt_flows.errors import AqvoltError, DatabaseError, InputError
from aqvolt_flows.exploration.aimd_inputs import aimd_incar, aimd_key, blank_trajectory, md_maker, seconds_left
from aqvolt_flows.exploration.aimd_segments import place, remove
from aqvolt_flows.identity import structure_hash
from aqvolt_flows.jobs import LATER, campaign_job, science_job, typed
from aqvolt_flows.schemas.dynamics import AIMDDocument, trajectory_frames
from aqvolt_flows.schemas.parameters import AIMDParameters
from aqvolt_flows.schemas.provenance import Failure
from aqvolt_flows.schemas.trajectory import TrajectoryDocument
from aqvolt_flows.stores import Database
from aqvolt_flows.structures import to_structure
from aqvolt_flows.vasp.outputs import locate
from aqvolt_flows.vasp.settings import r2scan_protocol, static_incar

if TYPE_CHECKING:
    from aqvolt_flows.frames import Frame


@dataclass(frozen=True)
class Where:
    """Where a run keeps its files: pointers' files, folders of segments, and how long a launch may take (s)."""

    artifacts: ArtifactStore
    segments: Path
    walltime_s: float | None = None


def _check(maker: AIMDMaker, structure: Any = None, temperature_k: Any = None, *_further: Any) -> None:
    if structure is not LATER:
        to_structure(structure)
    if temperature_k is not LATER:
        maker.temperature(temperature_k)


def _stored_job(
    maker: AIMDMaker, structure: Any = None, temperature_k: Any = None, key: Any = None
) -> Callable[[], Any] | None:
    """Return the campaign's job for ``make(candidate_id, temperature_k, key)``, as 0.1 stored it; else None."""
    if not (isinstance(structure, str) and isinstance(key, str)):
        return None

    def run() -> Any:
        return run_candidate(Database.connect(), maker, structure, temperature_k, key)

    return run


@dataclass
class AIMDMaker(Maker):
    """NpT ab-initio MD of one structure at one temperature, at the theory level of the statics.

    Parameters
    ----------
    name
        Job name.
    parameters
        Steps, time steps, thermostat, barostat; a dict is read.
    incar_updates
        Changes to MatPESStaticSet; in a campaign ``labeling.incar_updates``, so that AIMD and statics stay one
        protocol.
    vasp_cmd
        Command that starts VASP; by default that of ``VASP_CMD`` where the job runs.
    max_errors
        Corrections that custodian may try.
    polling_s
        Seconds between custodian's looks whether VASP has ended.
    """

    name: str = "r2SCAN AIMD"
    parameters: AIMDParameters = field(default_factory=AIMDParameters)
    incar_updates: dict[str, Any] = field(default_factory=dict)
    vasp_cmd: str | None = None
    max_errors: int = 5
    polling_s: float = 0.1

    def __post_init__(self) -> None:
        self.parameters = typed(self.parameters, AIMDParameters)

    def temperature(self, given: Any = None) -> float:
        """Return the target temperature in K, checked; the first of the parameters where none is given.

        Raises
        ------
        InputError
            If it is no number above 0 and up to 10,000 K.
        """
        if given is None:
            return self.parameters.temperatures_k[0]
        if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given <= 10_000:
            raise InputError(f"temperature_k is {given!r}; expected a number above 0 and up to 10,000, in K.")
        return float(given)

    @science_job(AIMDDocument, check=_check, stored=_stored_job)
    def make(self, structure: Any, temperature_k: float | None = None) -> AIMDDocument:
        """Run to the end in this launch, VASP being started again where it ends early, and return the document.

        Parameters
        ----------
        structure
            pymatgen Structure or ASE Atoms, or a reference to one.
        temperature_k
            Target temperature, K; default: the first of the parameters.

        Returns
        -------
        AIMDDocument
            Frames are a Parquet file in the job's folder, and in the document where they are few. With ``status`` and
            ``failure`` where the run did not come to its end; its frames up to there stay.
        """
        given, temperature = to_structure(structure), self.temperature(temperature_k)
        protocol = r2scan_protocol(self.incar_updates)
        key = aimd_key(f"structure-{structure_hash(given)}", temperature, self.parameters, self.incar_updates)
        document = blank_trajectory("", given, temperature, key, self.parameters, protocol)
        folder = Path.cwd() / f"aimd-{key[:12]}"
        where = Where(ArtifactStore(folder / "files"), folder / "segments")
        try:
            while document.status == "running":
                before, document = document, self.run_segment(where, document, given)
                forget_orbitals(where, before, document)
        except AqvoltError as error:
            failure = Failure(reason="missing_resource", message=str(error))
            document = document.model_copy(update={"status": "failed", "failure": failure})
        return aimd_document(document, given, where.artifacts)

    def run_segment(self, where: Where, document: TrajectoryDocument, structure: Structure) -> TrajectoryDocument:
        """Return the run's document with one more segment.

        The segment has a folder of its own, which survives this process; the caller removes it
        (:func:`segment_folder`) once the document is kept. One that is there already was left by a worker that died:
        it is read, and VASP is not started for the same steps again.
        """
        from aqvolt_flows.exploration.aimd_segments import Asked, harvest, restart_of
        from aqvolt_flows.vasp.inputs import potcar_hashes, sorted_with_order, vasp_command
        from aqvolt_flows.vasp.run import check_machine_updates, fresh_folder, run_maker

        parameters = self.parameters
        command = vasp_command(self.vasp_cmd)
        check_machine_updates()
        ordered, order = sorted_with_order(structure)
        potcar_hashes(document.elements)
        state = restart_of(where.artifacts, document)
        left = document.n_steps - document.steps_done
        tags = aimd_incar(document.elements, document.temperature_k, parameters, document.seed)
        tags |= {"NSW": min(left, parameters.segment_steps or left), "LWAVE": parameters.keep_orbitals}
        orbitals = kept_orbitals(where, document) if parameters.keep_orbitals else None
        expected = static_incar(self.incar_updates)
        mesh = None
        if state is not None:
            tags["RANDOM_SEED"] = list(state.random_seed)
            mesh = state.kpoints
            tags |= {"ISTART": 2, **state.grid} if orbitals else {}
        if mesh is not None:
            expected.pop("KSPACING", None)
        incar = {**self.incar_updates, **tags}
        name = segment_folder(where, document)
        seconds, said = 0.0, ""
        if not (name / "OUTCAR").is_file() and not (name / "OUTCAR.gz").is_file():
            name.parent.mkdir(parents=True, exist_ok=True)
            maker = md_maker(incar, command, self.max_errors, self.polling_s, seconds_left(where.walltime_s), mesh)
            with fresh_folder(str(name)) as folder:
                if state is not None and orbitals is not None:
                    place(orbitals, folder / "WAVECAR")
                ended = run_maker(maker, state.structure() if state else ordered)
            seconds, said = ended.seconds, ended.error
        following = where.segments / f"{document.key}-{document.segments + 1}.WAVECAR"
        asked = Asked(order, incar, expected, parameters.max_segments, following if parameters.keep_orbitals else None)
        return harvest(where.artifacts, document, name, asked, seconds, said)


def segment_folder(where: Where, document: TrajectoryDocument) -> Path:
    """Return the folder of the segment that a run is at."""
    return where.segments / f"{document.key}-{document.segments}"


def kept_orbitals(where: Where, document: TrajectoryDocument) -> Path | None:
    """Return the WAVECAR that the launch before left, gzip-ed or not, or None."""
    return locate(where.segments, f"{document.key}-{document.segments}.WAVECAR")


def forget(where: Where, document: TrajectoryDocument, after: TrajectoryDocument) -> None:
    """Remove a segment's folder and the orbitals that no launch needs, once the document ``after`` it is kept."""
    remove(segment_folder(where, document))
    forget_orbitals(where, document, after)


def forget_orbitals(where: Where, document: TrajectoryDocument, after: TrajectoryDocument) -> None:
    """Remove the WAVECAR that a segment was started from; that for the next one too where the run has ended."""
    for number in range(document.segments, document.segments + (1 if after.status == "running" else 2)):
        for suffix in ("", ".gz"):
            (where.segments / f"{document.key}-{number}.WAVECAR{suffix}").unlink(missing_ok=True)


def aimd_document(document: TrajectoryDocument, structure: Structure, artifacts: ArtifactStore) -> AIMDDocument:
    """Return the document of a run that has ended, its frames beside it."""
    from aqvolt_flows.frames import read_frames

    frames: list[Frame] = []
    kept = None
    if document.frames is not None:
        path = artifacts.local_path(document.frames)
        frames = list(read_frames(path))
        kept = trajectory_frames(path, document.frames.sha256, frames)
    shared = (
        "formula",
        "chemsys",
        "n_atoms",
        "temperature_k",
        "timestep_fs",
        "seed",
        "steps_done",
        "n_frames",
        "status",
    )
    more = ("failure", "steps_unconverged", "mean_temperature_k", "max_force", "seconds", "core_hours", "segments")
    axis = ("parts", "seams", "duration_fs", "steps_repeated", "steps_unread", "corrections")
    volume = document.mean_volume_per_atom
    return AIMDDocument(
        **{name: getattr(document, name) for name in (*shared, *more, *axis)},
        protocol=document.protocol,
        protocol_name=document.protocol.name if document.protocol else "",
        mean_volume_a3=None if volume is None else volume * document.n_atoms,
        initial_structure=structure,
        final_structure=frames[-1].to_structure() if frames else None,
        frames=kept,
    )


@dataclass
class AIMDRunMaker(Maker):
    """Run one segment of a candidate's ab-initio MD.

    Parameters
    ----------
    name
        Job name.
    aimd_maker
        Runs VASP; ``update_maker_kwargs`` reaches it.
    """

    name: str = "r2SCAN AIMD"
    aimd_maker: AIMDMaker = field(default_factory=AIMDMaker)

    @campaign_job()
    def make(self, database: Database, candidate_id: str, temperature_k: float, key: str) -> Any:
        """Run one segment, write the trajectory's document and frames, and return their identity and counts.

        Where the run is not at its end, a job for the next segment is added. A run that has ended is not repeated.

        Parameters
        ----------
        database
            Given by the decorator.
        candidate_id
            Identity in ``candidates``.
        temperature_k
            Target temperature, K.
        key
            :func:`~aqvolt_flows.exploration.aimd.aimd_key` of the run.
        """
        return run_candidate(database, self.aimd_maker, candidate_id, temperature_k, key)


def run_candidate(database: Database, maker: AIMDMaker, candidate_id: str, temperature_k: float, key: str) -> Any:
    """Run one segment of a candidate; see :meth:`AIMDRunMaker.make`.

    Raises
    ------
    InputError
        If the key is not that of the run.
    """
    if key != aimd_key(candidate_id, temperature_k, maker.parameters, maker.incar_updates):
        raise InputError(
            f"The job's key {key} is not that of {candidate_id} at {temperature_k:g} K; plan and submit again."
        )
    (candidate,) = database.find_by_ids("candidates", [candidate_id])
    structure = Structure.from_dict(candidate["structure"])
    protocol = r2scan_protocol(maker.incar_updates)
    document = _started(
        database, blank_trajectory(candidate_id, structure, temperature_k, key, maker.parameters, protocol)
    )
    if document.status != "running":
        database.adopt("trajectories", [document.trajectory_id])
        return _summary(document)
    database.upsert("trajectories", [document])
    settings = database.settings
    where = Where(database.artifacts, settings.path(settings.checkpoint_dir) / "aimd", settings.walltime_s)
    try:
        before, document = document, maker.run_segment(where, document, structure)
        database.upsert("trajectories", [document])
        forget(where, before, document)
    except DatabaseError:
        raise
    except AqvoltError as error:
        failure = Failure(reason="missing_resource", message=str(error))
        document = document.model_copy(update={"status": "failed", "failure": failure})
        database.upsert("trajectories", [document])
    if document.status != "running":
        return _summary(document)
    following = AIMDRunMaker(maker.name, maker).make(candidate_id, temperature_k, key)
    return Response(output=_summary(document), addition=following)


def _summary(document: TrajectoryDocument) -> dict[str, object]:
    return {
        "trajectory_id": document.trajectory_id,
        "status": document.status,
        "reason": document.failure.reason if document.failure else None,
        "steps_done": document.steps_done,
        "n_frames": document.n_frames,
        "segments": document.segments,
    }


def _started(database: Database, blank: TrajectoryDocument) -> TrajectoryDocument:
    """Return the run as it stands: as it was left, or blank where there is none or a resource was missing."""
    stored = database["trajectories"].find_one({"trajectory_id": blank.trajectory_id}, {"_id": 0})
    if stored is None:
        return blank
    document = TrajectoryDocument.model_validate({k: v for k, v in stored.items() if k != "campaigns"})
    if document.failure is None or document.failure.reason != "missing_resource":
        return document
    return document.model_copy(update={"status": "running", "failure": None})
