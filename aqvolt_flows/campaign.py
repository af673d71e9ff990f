"""A campaign: every scientific parameter in one file."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, Field, ValidationError

from aqvolt_flows.benchmark_registry import BENCHMARKS, parameters_of
from aqvolt_flows.errors import ConfigError, InputError
from aqvolt_flows.labelers import LABELERS
from aqvolt_flows.schemas.base import Parameters
from aqvolt_flows.schemas.generation import LithiationParameters, SubstitutionParameters
from aqvolt_flows.schemas.loop import LoopParameters
from aqvolt_flows.schemas.parameters import (
    AIMDParameters,
    BenchmarkParameters,
    CandidateParameters,
    ExplorationParameters,
    LabelingParameters,
    ReleaseParameters,
    SamplingParameters,
    TrainingParameters,
)
from aqvolt_flows.trainers import trainings_of
from aqvolt_flows.yaml_files import parse_mapping, read_mapping

_EXPECTED = "groups such as 'exploration:' with keys below"


class Campaign(Parameters):
    """All parameters of one dataset, stage by stage."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    description: str = ""
    candidates: CandidateParameters = CandidateParameters()
    lithiation: LithiationParameters = LithiationParameters()
    substitution: SubstitutionParameters = SubstitutionParameters()
    exploration: ExplorationParameters = ExplorationParameters()
    sampling: SamplingParameters = SamplingParameters()
    labeling: LabelingParameters = LabelingParameters()
    aimd: AIMDParameters = AIMDParameters()
    release: ReleaseParameters = ReleaseParameters()
    training: TrainingParameters = TrainingParameters()
    trainings: dict[str, dict[str, Any]] = Field(
        default={"esen": {"trainer": "esen"}},
        description="Name → trainer and its parameters; for esen they replace single values of the group training.",
    )
    benchmarks: BenchmarkParameters = BenchmarkParameters()
    loop: LoopParameters = LoopParameters()


#: Where a campaign names potentials that compute something.
_POTENTIALS = (
    ("exploration", "potential"),
    ("labeling", "surrogate"),
    ("lithiation", "relaxation", "potential"),
    ("substitution", "relaxation", "potential"),
)


def with_models(campaign: Campaign, identity: Callable[[str], str]) -> Campaign:
    """Return a campaign whose potentials are what ``identity`` makes of them.

    Parameters
    ----------
    campaign
        As its file says it: potentials may be named by the name or folder of a trained model.
    identity
        :func:`aqvolt_flows.models.identity_of` of a database: what jobs store.
    """
    for place in _POTENTIALS:
        campaign = _replaced(campaign, place, identity)
    starts = {
        name: given | {"start": identity(given["start"])}
        for name, given in campaign.trainings.items()
        if isinstance(given.get("start"), str)
    }
    return campaign.model_copy(update={"trainings": campaign.trainings | starts}) if starts else campaign


def _replaced(group: Any, place: tuple[str, ...], identity: Callable[[str], str]) -> Any:
    value = getattr(group, place[0])
    new = identity(value) if len(place) == 1 else _replaced(value, place[1:], identity)
    return group if new == value else group.model_copy(update={place[0]: new})


def shipped_campaigns() -> list[str]:
    """Return the names of the campaign files inside the package."""
    folder = resources.files("aqvolt_flows").joinpath("campaigns")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_campaign(name_or_path: str | Path) -> Campaign:
    """Return a campaign by the name of a shipped file or the path of one.

    Raises
    ------
    ConfigError
        If there is no such file, or a key or value in it is wrong; the message names file, key, what
        was seen and what was expected.
    """
    text = str(name_or_path)
    if "\0" in text:
        raise ConfigError(f"The campaign {text!r} is no path; give one, or the name of a shipped campaign.")
    if text in shipped_campaigns():
        source = f"campaign {text}"
        content = resources.files("aqvolt_flows").joinpath(f"campaigns/{text}.yaml").read_text()
    else:
        path = Path(text)
        if not path.is_file():
            raise ConfigError(
                f"There is no campaign file {text}; give a path, or one of the shipped names: "
                f"{', '.join(shipped_campaigns())}."
            )
        return _campaign_of(read_mapping(path, _EXPECTED), str(path))
    return parse_campaign(content, source)


def parse_campaign(content: str, source: str = "campaign") -> Campaign:
    """Return the campaign that a YAML text describes; ``source`` names it in errors."""
    return _campaign_of(parse_mapping(content, source, _EXPECTED), source)


def _campaign_of(values: dict[str, Any], source: str) -> Campaign:
    try:
        campaign = Campaign(**values)
    except ValidationError as error:
        raise ConfigError(f"{source}: {_explain(error.errors()[0])}") from None
    except TypeError as error:
        raise ConfigError(f"{source}: {error}.") from None
    _check_plugins(campaign, source)
    return campaign


def _check_plugins(campaign: Campaign, source: str) -> None:
    """Raise :class:`ConfigError` for a labeler, benchmark or trainer that nobody offers."""
    where = "labeling.labeler"
    try:
        LABELERS[campaign.labeling.labeler]
        for name in campaign.benchmarks.model_extra or {}:
            where = f"benchmarks.{name}"
            parameters_of(BENCHMARKS[name].load(), campaign.benchmarks)
        where = "trainings"
        trainings_of(campaign.trainings, campaign.training)
    except InputError as error:
        raise ConfigError(f"{source}: {where}: {error}") from None


def _model_at(location: tuple[Any, ...]) -> type[BaseModel]:
    """Return the deepest parameter group on the way to a location, for its list of known keys."""
    model: type[BaseModel] = Campaign
    for part in location[:-1]:
        if isinstance(part, int) or part not in model.model_fields:
            continue
        annotation = model.model_fields[part].annotation
        inner = [annotation, *get_args(annotation)]
        model = next((a for a in inner if isinstance(a, type) and issubclass(a, BaseModel)), model)
    return model


def _explain(error: Any) -> str:
    """Return one sentence: which key, what was seen, what was expected, what to do."""
    location = tuple(error["loc"])
    where = ".".join(str(part) for part in location) or "the file"
    if error["type"] == "extra_forbidden":
        known = list(_model_at(location).model_fields)
        key = str(location[-1])
        stem = key.rsplit("_", 1)[0]
        close = [k for k in known if k.rsplit("_", 1)[0] == stem] or difflib.get_close_matches(
            key, known, n=1, cutoff=0.5
        )
        hint = (
            f"did you mean {close[0]} (the unit is part of the name)?" if close else f"known keys: {', '.join(known)}."
        )
        return f"{where} is not a parameter; {hint}"
    if error["type"] == "missing":
        return f"{where} is missing; it is required."
    seen = error.get("input")
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    unit = next((u for suffix, u in _UNITS.items() if any(str(p).endswith(suffix) for p in location)), "")
    return f"{where} is {seen!r}; expected {message}{f' in {unit}' if unit else ''}; correct it in the campaign file."


_UNITS = {
    "_ev_per_a": "eV/Å",
    "temperatures_k": "K",
    "_fs": "fs",
    "_gpa": "GPa",
    "_ev": "eV",
    "_a": "Å",
    "_per_ps": "1/ps",
}
