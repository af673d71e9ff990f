"""The campaign's job of every trainer that needs one job, and the units of work of all trainings of a campaign."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobflow import Maker, Response

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.jobs import campaign_job
from aqvolt_flows.potentials.registry import check_model, located, model_hash
from aqvolt_flows.releases import release_folder
from aqvolt_flows.schemas.model import ModelDocument
from aqvolt_flows.schemas.provenance import ArtifactRef, Failure
from aqvolt_flows.stores import Database
from aqvolt_flows.trainers import TRAINERS, NamedTraining, Trained, TrainingTask
from aqvolt_flows.training.curves import curve_table, put_curve, summary_of
from aqvolt_flows.training.data import open_split
from aqvolt_flows.training.jobs import TrainStageMaker
from aqvolt_flows.training.records import read_records
from aqvolt_flows.training.resume import ResumeError
from aqvolt_flows.training.stages import StageStoppedError, TrainingError
from aqvolt_flows.work import WorkItem, bind

logger = logging.getLogger(__name__)
#: Name of the only stage of such a training, in documents and curves.
STAGE = "train"


@dataclass
class TrainerMaker(Maker):
    """Make a potential of a release with one of the trainers.

    Parameters
    ----------
    name
        Name of the job.
    trainer
        Name in :data:`aqvolt_flows.trainers.TRAINERS`.
    parameters
        Its parameters; a dict is read.
    model_name
        What people will call the model.
    """

    name: str = "train"
    trainer: str = "sevennet"
    parameters: Any = field(default_factory=dict)
    model_name: str | None = None

    def __post_init__(self) -> None:
        self.parameters = TRAINERS[self.trainer].parameters(self.parameters)

    @campaign_job()
    def make(self, database: Database, release_id: str, content_hash: str, key: str) -> Any:
        """Return the model's identity and what was reached, or why there is none; the model's document says the same.

        Where the allocation ends first, and the trainer can stop in time, the job is replaced by itself.

        Parameters
        ----------
        database
            Given by the decorator.
        release_id, content_hash
            The release to train on, and what its contents must hash to.
        key
            :meth:`aqvolt_flows.trainers.NamedTraining.key`.

        Raises
        ------
        ResourceError
            If this machine lacks what the training needs. No document is written then.
        ResumeError
            If what was begun was begun with something else.
        """
        run = _Run(self, database, release_id, content_hash, key)
        stored = database["models"].find_one({"key": key, "status": "trained"}, {"_id": 0})
        if stored is not None and database.artifacts.exists(ArtifactRef(**stored["checkpoint"])):
            return run.output(stored)
        begun, started = time.time(), time.monotonic()
        task = run.task(TrainStageMaker.ends_at(database, begun))
        try:
            document = run.document(TRAINERS[self.trainer].train(task), time.monotonic() - started)
        except StageStoppedError as stopped:
            logger.warning("%s", stopped)
            following = TrainerMaker(self.name, self.trainer, self.parameters, self.model_name)
            return Response(replace=following.make(release_id, content_hash, key))
        except (ResourceError, ResumeError):
            raise
        except Exception as error:  # whatever stopped the training becomes the model's document
            logger.exception("Training %s failed.", key)
            document = run.failure(error)
        database.upsert("models", [document])
        if document.status == "trained":
            shutil.rmtree(run.workdir, ignore_errors=True)
        return run.output(document.model_dump(mode="json"))


@dataclass
class _Run:
    """One training on this machine."""

    maker: TrainerMaker
    database: Database
    release_id: str
    content_hash: str
    key: str

    @property
    def workdir(self) -> Path:
        """Its run folder."""
        return self.database.settings.path(Path(".aqvolt/training") / self.key)

    @property
    def start(self) -> str | None:
        """Model string of the start."""
        return TRAINERS[self.maker.trainer].start(self.maker.parameters)

    def task(self, ends_at: float | None = None) -> TrainingTask:
        """Return what the trainer is given.

        Raises
        ------
        ResourceError
            If the release, its export, or what the trainer needs is not on this machine.
        InputError
            If release or start are others than those that the training was planned for.
        """
        document = self.database.find_by_ids("releases", [self.release_id])[0]
        if document["content_hash"] != self.content_hash:
            raise InputError(
                f"Release {self.release_id} has content hash {document['content_hash'][:12]}…, the training was "
                f"planned for {self.content_hash[:12]}…; plan it again."
            )
        folder = release_folder(self.database, document)
        open_split(folder, "train")
        trainer = TRAINERS[self.maker.trainer]
        trainer.check(self.maker.parameters)
        start = None
        if self.start is not None:
            check_model(self.start)
            start = located(self.start)
        named = NamedTraining("", trainer, self.maker.parameters)
        if named.key(self.content_hash, model_hash(self.start) if self.start else None) != self.key:
            raise InputError(
                f"The training was planned with other weights of {self.start or 'the start'}; plan it again with "
                "'aqvolt submit train'."
            )
        device = self.database.settings.resolve_device()
        return TrainingTask(self.maker.parameters, folder, self.workdir, device, start, ends_at)

    def _base(self, **values: Any) -> ModelDocument:
        trainer, parameters = TRAINERS[self.maker.trainer], self.maker.parameters
        return ModelDocument(
            key=self.key,
            model_id=f"model-{self.key}",
            name=self.maker.model_name,
            trainer=trainer.name,
            family=trainer.family,
            release_id=self.release_id,
            content_hash=self.content_hash,
            architecture=trainer.architecture(parameters),
            parameters=parameters.model_dump(mode="json"),
            start=f"{self.start}@{model_hash(self.start)[:12]}" if self.start else None,
            **values,
        )

    def document(self, found: Trained, seconds: float) -> ModelDocument:
        """Return the document of a trained model; weights and curve go into the artifact store."""
        store, records = self.database.artifacts, read_records(found.progress)
        stage = {
            "stage": STAGE,
            **summary_of(curve_table(found.progress, STAGE)),
            "seconds": round(seconds, 3),
            "attempts": sum(r["event"] == "launch" for r in records),
            "validated_on": found.validated_on,
            "curve": put_curve(store, found.progress, STAGE).model_dump(mode="json"),
        }
        parameters = [r["n_parameters"] for r in records if r["event"] == "start" and "n_parameters" in r]
        return self._base(
            status="trained",
            n_parameters=parameters[-1] if parameters else None,
            checkpoint=store.put_file(found.weights, TRAINERS[self.maker.trainer].suffix),
            model=f"model-{self.key}",
            channel=found.channel,
            stages=[stage],
            seconds=stage["seconds"],
            references=dict(found.references),
            force_rms=found.force_rms,
            held_out=dict(found.held_out),
            versions=dict(found.versions),
        )

    def failure(self, error: Exception) -> ModelDocument:
        """Return the document of a training that gave no model."""
        reason = "bad_input" if isinstance(error, InputError) else "defect"
        if isinstance(error, TrainingError):
            reason = str(getattr(error, "reason", "trainer_failed"))
        message = f"{type(error).__name__}: {error}" if reason == "defect" else str(error)
        return self._base(status="failed", failure=Failure(reason=reason, message=message))

    def output(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Return the job's output."""
        names = ("key", "model_id", "status", "failure", "checkpoint", "stages", "held_out")
        return {name: document.get(name) for name in names}


def training_items(trainings: list[NamedTraining], release: Mapping[str, Any], database: Database) -> list[WorkItem]:
    """Return one unit of work per training of a campaign on a release."""
    items = []
    for training in trainings:
        own = training.trainer.own_flow()
        if own is not None:
            key, make = own(training, release)
        else:
            start = training.trainer.start(training.parameters)
            key = training.key(release["content_hash"], model_hash(start) if start else None)
            name, trainer = training.model_name(release), training.trainer.name
            maker = TrainerMaker(f"train {training.name}", trainer, training.parameters, name)
            make = bind(maker.make, release["release_id"], release["content_hash"], key)
        said = f"{training.trainer.architecture(training.parameters)} on {release['release_id']}"
        done = database["models"].find_one({"key": key}) is not None
        items.append(WorkItem("train", key, said, make, category=training.trainer.category, done=done))
    return items
