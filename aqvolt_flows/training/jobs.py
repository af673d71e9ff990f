"""Makers of the two-stage training: two Fireworks, one ``models`` document.

The stages hand over small dictionaries; weights go through the artifact store, so that they may run on
different machines. Each stage keeps its run folder under ``.aqvolt/training/KEY`` until the model is
stored, and a killed one resumes there from its newest checkpoint.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from jobflow import Flow, Maker, Response

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.holdout import refuse_held_out
from aqvolt_flows.identity import content_key
from aqvolt_flows.jobs import campaign_job, typed
from aqvolt_flows.potentials.trained import string_of
from aqvolt_flows.releases import release_folder
from aqvolt_flows.schemas.model import ModelDocument
from aqvolt_flows.schemas.parameters import TrainingParameters
from aqvolt_flows.schemas.provenance import ArtifactRef, Failure
from aqvolt_flows.stores import Database
from aqvolt_flows.training import layout
from aqvolt_flows.training.curves import curve_table, put_curve, validation_of
from aqvolt_flows.training.data import Source, source_of
from aqvolt_flows.training.esen import StageName
from aqvolt_flows.training.fine_tune import compare_held_out
from aqvolt_flows.training.lengths import too_short, training_lengths
from aqvolt_flows.training.preflight import Checked, preflight
from aqvolt_flows.training.records import versions_of
from aqvolt_flows.training.references import references_of, symbols_of
from aqvolt_flows.training.releases import check_protocols, isolated_atoms
from aqvolt_flows.training.resume import ResumeError
from aqvolt_flows.training.stage_run import device_for, train_stage
from aqvolt_flows.training.stages import PROGRESS, StageResult, StageStoppedError, TrainingError

logger = logging.getLogger(__name__)

#: Raised when the same parameters and data would give another model.
PROTOCOL = "train/1"
CHECKPOINT_FORMAT = "pt"
#: Seconds that a job waits that was taken after its time.
LATE_S = 30.0


#: Parameters that say nothing of what is computed; the releases of a mixture are named by their contents.
_NOT_IN_KEY: dict[str, Any] = {"mixture": True, "direct": {"gpu_atoms_per_s"}, "conservative": {"gpu_atoms_per_s"}}


def train_key(
    parameters: TrainingParameters | Mapping[str, Any],
    content_hash: str,
    sources: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """Return the content key of a training: its parameters, defaults filled in, and the contents of what it reads.

    Parameters
    ----------
    parameters
        Of both stages.
    content_hash
        Of the release.
    sources
        The releases of a mixture with ``content_hash`` and ``weight``, in order.
    """
    values = parameters if isinstance(parameters, TrainingParameters) else TrainingParameters(**parameters)
    dumped = _identifying(values)
    if not sources:
        return content_key(PROTOCOL, parameters=dumped, content_hash=content_hash)
    mixed = [[s["content_hash"], s["weight"]] for s in sources]
    return content_key(PROTOCOL, parameters=dumped, mixture=mixed)


def _identifying(parameters: TrainingParameters) -> dict[str, Any]:
    """Return the parameters that decide what a training gives.

    How a run is continued, watched, or fits into memory does not. What came after the first version is left out where
    it has its default, so that trainings of before keep their key.
    """
    values = parameters.model_dump(mode="json", exclude=_NOT_IN_KEY)
    for name in ("resume", "best_by"):
        values.pop(name)
    for name in ("on_divergence", "max_consecutive_skips", "max_skips", "max_loss_ratio"):
        if values[name] == TrainingParameters.model_fields[name].default:
            values.pop(name)
    for stage in ("direct", "conservative"):
        values[stage].pop("activation_checkpointing")
        if values[stage]["batch_atoms"] is None:
            values[stage].pop("batch_atoms")
    return values


def model_id_of(key: str) -> str:
    """Return the ``model_id`` of a training."""
    return f"model-{key}"


@dataclass
class TrainStageMaker(Maker):
    """Run one stage of a training.

    Parameters
    ----------
    name
        Name of the job.
    stage
        ``direct``, or ``conservative``, which writes the model's document.
    parameters
        :class:`~aqvolt_flows.schemas.parameters.TrainingParameters`; a dict is read.
    model_name
        What people will call the model.
    """

    name: str = "train eSEN stage"
    stage: str = "direct"
    parameters: TrainingParameters = field(default_factory=TrainingParameters)
    model_name: str | None = None

    def __post_init__(self) -> None:
        self.parameters = typed(self.parameters, TrainingParameters)

    @campaign_job()
    def make(
        self,
        database: Database,
        release_id: str,
        content_hash: str,
        key: str,
        previous: dict[str, Any] | None = None,
        sources: list[dict[str, Any]] | None = None,
    ) -> Any:
        """Return what the stage reached and a pointer to its checkpoint, or why it failed.

        Where the allocation ends first, the job is replaced by itself and goes on from the checkpoint.

        Parameters
        ----------
        database
            Given by the decorator.
        release_id, content_hash
            The release to train on, and what its contents must hash to.
        key
            :func:`train_key`.
        previous
            Output of stage ``direct``, for stage ``conservative``.
        sources
            The releases of a mixture: ``release_id``, ``content_hash``, ``name``, ``weight``; ``release_id`` above is
            the one of them that the model is listed under.

        Raises
        ------
        ResourceError
            If this machine lacks what the stage needs: the release's export, GPUs, room for a checkpoint. No document
            is written then: it says nothing about the training.
        ResumeError
            If what was begun was begun with something else.
        """
        started = time.time()
        stage = cast(StageName, self.stage)
        run = _Run(
            stage, self.parameters, database, release_id, content_hash, key, sources or [], model_name=self.model_name
        )
        stored = run.stored()
        if stored is not None:
            return stored
        if previous is not None and previous["status"] == "failed":
            return previous
        read = run.read()
        try:
            return run.train(read, previous, self.ends_at(database, started))
        except StageStoppedError as stopped:
            logger.warning("%s", stopped)
            more = {"sources": sources} if sources else {}
            following = TrainStageMaker(self.name, self.stage, self.parameters, self.model_name)
            return Response(replace=following.make(release_id, content_hash, key, previous, **more))
        except (ResourceError, ResumeError):
            raise
        except Exception as error:  # whatever stopped the training becomes the model's document
            logger.exception("Training %s, stage %s, failed.", key, self.stage)
            return run.fail(error, previous)

    @staticmethod
    def ends_at(database: Database, started: float) -> float | None:
        """Return when a training must have ended, or None; waits where a job was taken after its time."""
        settings = database.settings
        when = layout.ends_at(settings.walltime_s, settings.stop_before_s, started)
        if when is not None and when <= time.time():  # so late, the job would be taken and handed back again and again
            logger.warning("The allocation ends too soon to train in it; waiting for its end.")
            time.sleep(LATE_S)
        return when


@dataclass
class TwoStageTrainMaker(Maker):
    """Train eSEN on a release: direct forces first, then conservative forces and stress (section 2.3).

    Parameters
    ----------
    name
        Name of the flow.
    parameters
        :class:`~aqvolt_flows.schemas.parameters.TrainingParameters`; a dict is read.
    model_name
        What people will call the model.
    """

    name: str = "train eSEN"
    parameters: TrainingParameters = field(default_factory=TrainingParameters)
    model_name: str | None = None

    def __post_init__(self) -> None:
        self.parameters = typed(self.parameters, TrainingParameters)

    def make(self, release_id: str, content_hash: str, key: str, sources: list[dict[str, Any]] | None = None) -> Flow:
        """Return the flow of both stages; its output is the second's, and the model's document is written by then.

        Parameters
        ----------
        release_id, content_hash
            The release to train on.
        key
            :func:`train_key` of the parameters and the content hash.
        sources
            The releases of a mixture, as :meth:`TrainStageMaker.make` takes them.
        """
        first = TrainStageMaker(f"{self.name}: direct forces", "direct", self.parameters, self.model_name)
        second = TrainStageMaker(f"{self.name}: conservative forces", "conservative", self.parameters, self.model_name)
        more = {"sources": sources} if sources else {}
        direct = first.make(release_id, content_hash, key, **more)
        conservative = second.make(release_id, content_hash, key, direct.output, **more)
        return Flow([direct, conservative], output=conservative.output, name=self.name)


@dataclass
class _Run:
    """One stage of one training on this machine."""

    stage: StageName
    parameters: TrainingParameters
    database: Database
    release_id: str
    content_hash: str
    key: str
    sources: list[dict[str, Any]]
    preflight: dict[str, Any] = field(default_factory=dict)
    model_name: str | None = None

    @property
    def workdir(self) -> Path:
        """Where the run folders of this training are kept until the model is stored."""
        return self.database.settings.path(Path(".aqvolt/training") / self.key)

    def stored(self) -> dict[str, Any] | None:
        """Return the output of a training that is already done, or None."""
        document = self.database["models"].find_one({"key": self.key, "status": "trained"})
        if document is None or not self.database.artifacts.exists(ArtifactRef(**document["checkpoint"])):
            return None
        return self._output("trained", checkpoint=document["checkpoint"], stages=document["stages"])

    def _output(self, status: str, **values: Any) -> dict[str, Any]:
        return {"key": self.key, "model_id": model_id_of(self.key), "status": status, **values}

    def read(self) -> list[tuple[dict[str, Any], Source]]:
        """Return the documents of the releases, and what is read of them on this machine.

        Raises
        ------
        ResourceError
            If a release, or its ASE-LMDB export, is not on this machine.
        InputError
            If a release is unknown or another than the training was planned for.
        """
        one = {"release_id": self.release_id, "content_hash": self.content_hash, "name": "training set", "weight": 1.0}
        found = []
        for wanted in self.sources or [one]:
            document = self.database.find_by_ids("releases", [wanted["release_id"]])[0]
            if document["content_hash"] != wanted["content_hash"]:
                raise InputError(
                    f"Release {wanted['release_id']} has content hash {document['content_hash'][:12]}…, the training "
                    f"was planned for {wanted['content_hash'][:12]}…; plan it again."
                )
            folder = release_folder(self.database, document)
            if self.stage == "direct":
                refuse_held_out(self.database, document, folder)
            found.append((document, source_of(folder, wanted["name"], wanted["weight"])))
        return found

    def train(
        self,
        read: Sequence[tuple[dict[str, Any], Source]],
        previous: Mapping[str, Any] | None,
        ends: float | None = None,
    ) -> dict[str, Any]:
        """Look at the labels, run the stage and return its output; the second stage writes the model's document."""
        documents, sources = [d for d, _ in read], [s for _, s in read]
        check_protocols(documents, self.parameters.allow_mixed_protocols)
        atoms = isolated_atoms(documents) if self.parameters.references == "isolated_atoms" else None
        checked = preflight(sources, self.parameters, atoms, f"Release {self.release_id}")
        if previous is not None:  # those that stage 1 learned with, to the last digit
            checked = replace(checked, references=references_of(previous["references"], previous["force_rms"]))
        short = too_short(self.parameters, training_lengths(self.parameters, checked.natoms("train")))
        for sentence in short:  # planning refuses these; a job that was planned before there was a check runs
            logger.warning("Training %s: %s.", self.key, sentence)
        self.preflight = checked.report | {"too_short": short}
        result = self._run(checked, previous, ends)
        checkpoint = self.database.artifacts.put_file(result.checkpoint, CHECKPOINT_FORMAT)
        stages = list(previous["stages"]) if previous else []
        stages.append({"stage": self.stage, **result.summary(), "validated_on": checked.validated_on} | self._curve())
        if self.stage == "conservative" and result.best_checkpoint.is_file():
            best = self.database.artifacts.put_file(result.best_checkpoint, CHECKPOINT_FORMAT)
            stages[-1]["best"]["checkpoint"] = best.model_dump(mode="json")
        output = self._output(
            "trained",
            checkpoint=checkpoint.model_dump(mode="json"),
            stages=stages,
            references=symbols_of(checked.references),
            force_rms=checked.references.force_rms,
        )
        if self.stage == "conservative":
            self._store(read, checked, result, checkpoint, stages)
            for folder in self.workdir.glob("*/checkpoints"):
                shutil.rmtree(folder, ignore_errors=True)
        return output

    def _curve(self) -> dict[str, Any]:
        """Return the pointer to the stage's curve, and the validation errors of every source, thinned for figures."""
        progress = self.workdir / self.stage / PROGRESS
        evaluations = [r for r in curve_table(progress, self.stage).to_pylist() if r["event"] == "eval"]
        reference = put_curve(self.database.artifacts, progress, self.stage)
        return {"curve": reference.model_dump(mode="json"), "validation": validation_of(evaluations)}

    def _run(self, checked: Checked, previous: Mapping[str, Any] | None, ends: float | None) -> StageResult:
        device, environment = device_for(self.parameters, self.stage, self.database.settings.resolve_device())
        start = None
        if previous is not None:
            reference = ArtifactRef(**previous["checkpoint"])
            self.database.artifacts.verify(reference)
            start = self.database.artifacts.local_path(reference)
        hashes = [s["content_hash"] for s in self.sources] or [self.content_hash]
        return train_stage(
            self.stage,
            self.parameters,
            checked,
            self.workdir,
            device,
            environment,
            start,
            "+".join(hashes),
            ends,
        )

    def _document(self, **values: Any) -> ModelDocument:
        return ModelDocument(
            key=self.key,
            model_id=model_id_of(self.key),
            name=self.model_name,
            release_id=self.release_id,
            content_hash=self.content_hash,
            architecture=self.parameters.architecture,
            parameters=self.parameters.model_dump(mode="json"),
            sources=self.sources,
            preflight=self.preflight,
            validated_on=str(self.preflight.get("validated_on", "")),
            **values,
        )

    def _store(
        self,
        read: Sequence[tuple[dict[str, Any], Source]],
        checked: Checked,
        result: StageResult,
        checkpoint: ArtifactRef,
        stages: list[dict[str, Any]],
    ) -> None:
        path = self.database.artifacts.local_path(checkpoint)
        trained = string_of("fairchem", path, None, checkpoint.sha256)
        main = next(d for d, _ in read if d["release_id"] == self.release_id)
        release, device = release_folder(self.database, main), self.database.settings.resolve_device()
        document = self._document(
            status="trained",
            n_parameters=result.progress.n_parameters,
            checkpoint=checkpoint,
            model=model_id_of(self.key),
            stages=stages,
            seconds=round(sum(s["seconds"] for s in stages), 3),
            references=symbols_of(checked.references),
            force_rms=checked.references.force_rms,
            held_out=compare_held_out(release, None, trained, device),
            versions=versions_of(),
        )
        self.database.upsert("models", [document])

    def fail(self, error: Exception, previous: Mapping[str, Any] | None) -> dict[str, Any]:
        """Write the failed model's document, with what the stages before reached, and return the output."""
        reason = "defect"
        if isinstance(error, TrainingError):
            reason = error.reason
        elif isinstance(error, InputError):
            reason = "bad_input"
        message = f"{type(error).__name__}: {error}" if reason == "defect" else str(error)
        stages = list(previous["stages"]) if previous else []
        failure = Failure(reason=reason, message=f"Stage {self.stage}: {message}")
        self.database.upsert("models", [self._document(status="failed", failure=failure, stages=stages)])
        return self._output("failed", failure=failure.model_dump(), stages=stages)
