"""Fields of the campaign's makers: typed, read from what earlier versions stored, wrong ones named at once."""

from __future__ import annotations

import json
from datetime import datetime

import pytest
from fireworks import Workflow
from jobflow import Flow
from jobflow.managers.fireworks import flow_to_workflow
from monty.json import MontyDecoder, jsanitize

from aqvolt_flows.candidates.jobs import SelectMaker
from aqvolt_flows.candidates.jobs_lithiate import LithiateMaker
from aqvolt_flows.candidates.jobs_substitute import SubstituteMaker
from aqvolt_flows.errors import InputError
from aqvolt_flows.exploration.mlmd import MLMDMaker
from aqvolt_flows.sampling.jobs import ChooseMaker, CoverMaker, EncodeMaker, TwoStageSampleMaker
from aqvolt_flows.schemas.parameters import SamplingParameters
from aqvolt_flows.schemas.provenance import ArtifactRef

REF = {"sha256": "0" * 64, "format": "json", "bytes": 3}
MAKERS = {
    EncodeMaker: {"seed": 7},
    CoverMaker: {"seed": 7},
    ChooseMaker: {"seed": 7},
    MLMDMaker: {"seed": 7},
    SelectMaker: {"exclude_elements": []},
    LithiateMaker: {"max_li": 3},
    SubstituteMaker: {"per_parent": 2},
}


@pytest.mark.parametrize("maker", MAKERS, ids=lambda m: m.__name__)
def test_a_dict_as_stored_jobs_have_it_is_read_and_a_wrong_key_is_named_when_the_maker_is_made(maker):
    values = MAKERS[maker]
    made = maker(parameters=values)
    assert {name: getattr(made.parameters, name) for name in values} == values
    stored = {"@module": maker.__module__, "@class": maker.__name__, "name": "x", "parameters": values}
    assert MontyDecoder().process_decoded(stored) == maker(name="x", parameters=values)
    again = json.loads(json.dumps(jsanitize(made.as_dict(), strict=True)))
    assert MontyDecoder().process_decoded(again) == made
    assert maker().parameters == type(made.parameters)()
    with pytest.raises(InputError, match=f"{type(made.parameters).__name__} has no field 'n_stepz'; known are"):
        maker(parameters={"n_stepz": 1})


def test_a_job_as_version_0_1_stored_it_is_read():
    function = {
        "@module": "aqvolt_flows.sampling.jobs",
        "@callable": "EncodeMaker.make",
        "@bound": {
            "@module": "aqvolt_flows.sampling.jobs",
            "@class": "EncodeMaker",
            "@version": "0.1.0",
            "name": "encode",
            "parameters": SamplingParameters(encode_stride=3).model_dump(mode="json"),
        },
    }
    job = EncodeMaker().make(["t"]).as_dict() | {"function": function}
    read = MontyDecoder().process_decoded(json.loads(json.dumps(jsanitize(job, strict=True))))
    assert read.maker.parameters.encode_stride == 3
    assert read.function_args == (["t"],) or read.function_args == [["t"]]


def test_makers_within_makers_are_reached():
    flow = TwoStageSampleMaker.from_parameters(SamplingParameters(seed=3)).make(["t"], "key")
    flow.update_maker_kwargs({"parameters": {"seed": 9}}, name_filter="encode")
    assert [j.maker.parameters.seed for j in flow.jobs] == [9, 3]
    changed = TwoStageSampleMaker().update_kwargs({"parameters": {"k": 2}}, name_filter="encode")
    makers = changed.encode_maker, changed.cover_maker, changed.choose_maker
    assert [m.parameters.k for m in makers] == [2, 2, 1]
    changed = TwoStageSampleMaker().update_kwargs({"_set": {"parameters->k": 3}}, name_filter="2D", dict_mod=True)
    assert (changed.choose_maker.parameters.k, changed.encode_maker.parameters.k) == (3, 1)
    with pytest.raises(InputError, match="no field 'kk'"):
        flow.update_maker_kwargs({"parameters": {"kk": 9}}, name_filter="2DIRECT")


def test_files_of_a_hull_are_typed():
    assert SubstituteMaker(entries=REF).entries == ArtifactRef(**REF)
    with pytest.raises(InputError, match=r"ArtifactRef\.sha256 is 'x'"):
        SubstituteMaker(energies=REF | {"sha256": "x"})
    with pytest.raises(InputError, match="DuplicateParameters has no field 'tol'"):
        LithiateMaker(duplicates={"tol": 1})


@pytest.mark.parametrize("maker", MAKERS, ids=lambda m: m.__name__)
def test_a_launchpad_stores_fields_as_values(maker):
    """FireWorks asks monty, and stores what monty leaves as an object as its ``str``."""
    values = MAKERS[maker]
    job = maker(parameters=values).make(["x"])
    stored = json.loads(json.dumps(flow_to_workflow(Flow([job])).to_dict(), default=datetime.isoformat))
    [firework] = Workflow.from_dict(stored).fws
    assert firework.tasks[0]["job"].maker == maker(parameters=values)
