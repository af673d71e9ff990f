"""The paper's two-stage eSEN as a trainer of the registry: jobs of its own, one a stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aqvolt_flows.errors import ResourceError
from aqvolt_flows.schemas.parameters import TrainingParameters
from aqvolt_flows.trainers import NamedTraining, Trained, TrainingTask
from aqvolt_flows.training.jobs import TwoStageTrainMaker, train_key
from aqvolt_flows.work import bind

PARAMETERS = TrainingParameters


def architecture_of(parameters: TrainingParameters) -> str:
    """Return what documents call the network."""
    return parameters.architecture


def flow_of(named: NamedTraining, release: Mapping[str, Any]) -> tuple[str, Callable[[], Any]]:
    """Return the key of a training, and what makes its jobs: one a stage."""
    parameters: Any = named.parameters
    key = train_key(parameters, release["content_hash"])
    maker = TwoStageTrainMaker(parameters=parameters, model_name=named.model_name(release))
    return key, bind(maker.make, release["release_id"], release["content_hash"], key)


def train(task: TrainingTask) -> Trained:
    """Refuse: this trainer's stages are jobs of their own, see :func:`flow_of`."""
    raise ResourceError(
        f"The trainer esen was asked to train {task.workdir.name} in one job; its two stages are jobs of their own, "
        "plan it with 'aqvolt submit train' or use TrainMaker."
    )
