"""The paper's two-stage eSEN as a trainer of the registry: jobs of its own, one a stage, which ``plan`` makes."""

from __future__ import annotations

from aqvolt_flows.errors import ResourceError
from aqvolt_flows.schemas.parameters import TrainingParameters
from aqvolt_flows.trainers import Trained, TrainingTask

PARAMETERS = TrainingParameters


def architecture_of(parameters: TrainingParameters) -> str:
    """Return what documents call the network."""
    return parameters.architecture


def train(task: TrainingTask) -> Trained:
    """Refuse: this trainer's stages are jobs of their own, see :mod:`aqvolt_flows.training.plan`."""
    raise ResourceError(
        f"The trainer esen was asked to train {task.workdir.name} in one job; its two stages are jobs of their own, "
        "plan it with 'aqvolt submit train' or use TrainMaker."
    )
