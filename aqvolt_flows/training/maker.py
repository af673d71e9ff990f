"""The maker of a two-stage training for any script: no project, no database."""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobflow import Job, Maker

from aqvolt_flows.errors import AqvoltError, InputError
from aqvolt_flows.identity import content_hash, file_sha256
from aqvolt_flows.jobs import LATER, science_job, typed
from aqvolt_flows.labeled import Labeled, labels_as_plain, release_path, to_labeled
from aqvolt_flows.potentials.given import resolve_device
from aqvolt_flows.potentials.trained import string_of
from aqvolt_flows.schemas.parameters import TrainingParameters
from aqvolt_flows.schemas.provenance import Failure
from aqvolt_flows.schemas.train import TrainDocument

if TYPE_CHECKING:
    from aqvolt_flows.training.data import Source
    from aqvolt_flows.training.esen import StageName
    from aqvolt_flows.training.stages import StageResult

logger = logging.getLogger(__name__)
_STAGES: tuple[StageName, ...] = ("direct", "conservative")


def _check(maker: TrainMaker, release: Any = None, validation: Any = None) -> None:
    if maker.parameters.mixture:
        if release is not None or validation is not None:
            raise InputError("A release was given beside parameters.mixture; give one of them.")
        return
    if release is not LATER and release_path(release) is None:
        to_labeled(release, sample=True)
    if validation is not None and validation is not LATER:
        if release_path(validation) is not None:
            raise InputError("The validation labels were given as a path; a release brings its own validation split.")
        to_labeled(validation, sample=True)


def _failed(maker: TrainMaker, error: BaseException, *_: Any, **__: Any) -> TrainDocument:
    reason = "bad_input" if isinstance(error, InputError) else "cannot_run"
    failure = Failure(reason=reason, message=f"{error}" or type(error).__name__)
    return TrainDocument(status="failed", failure=failure, architecture=maker.parameters.architecture)


@dataclass
class TrainMaker(Maker):
    """Train eSEN in two stages: direct forces first, then conservative forces and stress (section 2.3).

    Parameters
    ----------
    name
        Name of the job.
    parameters
        Architecture, batches, lengths of both stages; a dict is read.
    device
        torch device; ``auto``: a GPU where there is one.
    """

    name: str = "train eSEN"
    parameters: TrainingParameters = field(default_factory=TrainingParameters)
    device: str = "auto"

    def __post_init__(self) -> None:
        self.parameters = typed(self.parameters, TrainingParameters)

    def make(self, release: Any = None, validation: Any = None) -> Job:
        """Return the job that trains.

        Parameters
        ----------
        release
            Path of a release folder with its ASE-LMDB export, or training labels: ASE Atoms with energy, forces and
            stress, or documents of statics (or references to such outputs). Left out with ``parameters.mixture``, whose
            releases are paths of folders then.
        validation
            Labels to validate on; without them, and without a release, training labels are validated on.
        """
        job: Job = self.train(labels_as_plain(release), labels_as_plain(validation))
        return job

    @science_job(TrainDocument, check=_check, failed=_failed)
    def train(self, release: Any = None, validation: Any = None) -> TrainDocument:
        """Train; see :meth:`make`. Run folders are below ``training-…`` in the job's folder and resume there.

        Returns
        -------
        TrainDocument
            The checkpoint is a file in the job's folder; ``model`` is the string that loads it.
        """
        from aqvolt_flows.training.lengths import refuse_short
        from aqvolt_flows.training.preflight import preflight
        from aqvolt_flows.training.references import symbols_of
        from aqvolt_flows.training.stage_run import device_for, train_stage

        started = time.perf_counter()
        sources = _sources(self.parameters, release, validation)
        data = [str(source.folder) for source in sources]
        identity = content_hash(
            {
                "parameters": self.parameters.model_dump(mode="json"),
                "data": data[0] if len(data) == 1 else data,
            }
        )
        workdir = Path.cwd() / f"training-{identity[:12]}"
        checked = preflight(sources, self.parameters)
        refuse_short(self.parameters, checked)
        references = checked.references
        device = resolve_device(self.device)
        stages: list[dict[str, Any]] = []
        result: StageResult | None = None
        said: dict[str, Any] = {
            "architecture": self.parameters.architecture,
            "n_train": sum(map(len, checked.natoms("train"))),
            "validated_on": checked.validated_on,
            "preflight": checked.report,
        }
        try:
            for stage in _STAGES:
                kind, environment = device_for(self.parameters, stage, device)
                start = None if result is None else result.checkpoint
                result = train_stage(stage, self.parameters, checked, workdir, kind, environment, start)
                stages.append({"stage": stage, **result.summary(), "validated_on": checked.validated_on})
        except AqvoltError as error:
            logger.warning("%s failed: %s", self.name, error)
            failure = Failure(reason=getattr(error, "reason", "trainer_failed"), message=str(error))
            return TrainDocument(status="failed", failure=failure, stages=stages, **said)
        assert result is not None
        kept = Path.cwd() / f"model-{identity[:12]}.pt"
        shutil.copyfile(result.checkpoint, kept)
        return TrainDocument(
            status="trained",
            **said,
            n_val=sum(map(len, checked.natoms("val"))),
            stages=stages,
            n_parameters=result.progress.n_parameters,
            references=symbols_of(references),
            force_rms=references.force_rms,
            checkpoint=str(kept),
            sha256=(digest := file_sha256(kept)),
            model=string_of("fairchem", kept, None, digest),
            seconds=round(time.perf_counter() - started, 3),
        )


def _sources(parameters: TrainingParameters, release: Any, validation: Any) -> list[Source]:
    """Return what is trained on: the releases of a mixture, which are folders here, or the release or labels given."""
    from aqvolt_flows.training.data import source_of

    if not parameters.mixture:
        return [source_of(_folder_of(release, validation))]
    sources = []
    for part in parameters.mixture:
        folder = release_path(part.release)
        assert folder is not None  # a string that is no folder is refused
        sources.append(source_of(folder, folder.name, part.weight))
    return sources


def _folder_of(release: Any, validation: Any) -> Path:
    """Return a folder with ``exports/aselmdb``: the release's, or one written here from labels."""
    folder = release_path(release)
    if folder is not None:
        return folder
    labels = {"train": to_labeled(release), "val": [] if validation is None else to_labeled(validation)}
    numbers = {
        split: [[x.structure.as_dict()["lattice"]["matrix"], x.energy, x.forces.tolist()] for x in found]
        for split, found in labels.items()
    }
    folder = Path.cwd() / f"labels-{content_hash(numbers)[:12]}"
    for split, found in labels.items():
        if found:
            _write(folder / "exports" / "aselmdb" / split, found)
    return folder


def _write(folder: Path, labels: list[Labeled]) -> None:
    """Write labels as ASE-LMDB with ASE's own backend, and ``metadata.npz`` as fairchem reads it."""
    import ase.db
    import ase_db_backends  # noqa: F401  (registers the backend "aselmdb")
    import numpy as np
    from ase.calculators.singlepoint import SinglePointCalculator

    from aqvolt_flows.structures import to_atoms

    if (folder / "metadata.npz").is_file():  # of an earlier start of the same job
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    connect: Any = ase.db.connect
    with connect(str(folder / "data.aselmdb"), type="aselmdb", append=False) as database:
        for label in labels:
            atoms: Any = to_atoms(label.structure)
            atoms.calc = SinglePointCalculator(atoms, energy=label.energy, forces=label.forces, stress=label.stress)
            database.write(atoms, data={"sid": label.name})
    np.savez_compressed(folder / "metadata.npz", natoms=np.array([len(x.structure) for x in labels], dtype=np.int64))
