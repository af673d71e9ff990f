"""From a campaign's labeling parameters to the job that labels; what differs by code is in the registry."""

from __future__ import annotations

from collections.abc import Iterable

from aqvolt_flows.labelers import LABELERS
from aqvolt_flows.labeling.jobs import LabelFrameMaker
from aqvolt_flows.schemas.parameters import LabelingParameters
from aqvolt_flows.schemas.provenance import Protocol


def labeler_maker(parameters: LabelingParameters) -> LabelFrameMaker:
    """Return the campaign's maker of one label; its ``make(frame_id, key)`` is a job named after the static.

    Raises
    ------
    InputError
        If there is no such labeler.
    """
    static = LABELERS[parameters.labeler].maker(parameters)
    return LabelFrameMaker(name=static.name, static_maker=static)  # type: ignore[arg-type]


def protocol_for(parameters: LabelingParameters) -> Protocol:
    """Return the protocol that a campaign's labeling parameters ask for.

    Raises
    ------
    InputError
        If there is no such labeler, or its model is unknown.
    ConfigError
        If the INCAR changes leave r2SCAN.
    """
    return LABELERS[parameters.labeler].protocol(parameters)


def check_labeler(parameters: LabelingParameters, elements: Iterable[str] = ()) -> None:
    """Raise unless the campaign's labeler can run here; see :meth:`aqvolt_flows.labelers.Labeler.check`."""
    LABELERS[parameters.labeler].check(parameters, elements)
