"""One job per structure of a list that is known only when the flow runs."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from ase.build import bulk
from jobflow import Flow, JobStore, Maker, OnMissing, job, run_locally
from maggma.stores import MemoryStore
from monty.json import MontyDecoder, jsanitize

from aqvolt_flows.each import EachMaker
from aqvolt_flows.errors import InputError


@dataclass
class CountMaker(Maker):
    name: str = "count"
    factor: int = 1

    @job
    def make(self, structure):
        if structure.composition.reduced_formula == "Pb":
            raise ValueError("no lead here")
        return {"n": self.factor * len(structure)}


@job
def listed():
    return [_structure(s) for s in ("Cu", "Ag", "Au")]


def _structure(symbol):
    from pymatgen.io.ase import AseAtomsAdaptor

    return AseAtomsAdaptor.get_structure(bulk(symbol, cubic=True))


@job
def summed(outputs):
    return [o["n"] if o else None for o in outputs]


def test_a_reference_to_a_list_becomes_one_job_each_in_order():
    made = listed()
    each = EachMaker(CountMaker()).make(made.output)
    total = summed(each.output)
    flow, store = Flow([made, each, total]), JobStore(MemoryStore())
    flow.update_maker_kwargs({"factor": 10}, name_filter="count")
    responses = run_locally(flow, store=store, ensure_success=True)
    assert store.get_output(total.uuid) == [40, 40, 40]
    assert store.get_output(each.uuid, load=True) == [{"n": 40}] * 3
    assert len(responses) == 3 + 3


def test_one_job_that_fails_is_none_among_the_outputs():
    each = EachMaker(CountMaker()).make([bulk("Cu"), bulk("Pb"), bulk("Ag", cubic=True)])
    store = JobStore(MemoryStore())
    run_locally(each, store=store)
    assert store.get_output(each.uuid, on_missing=OnMissing.NONE) == [{"n": 1}, None, {"n": 4}]


def test_it_is_written_as_json_and_read_again():
    made = EachMaker(CountMaker(factor=3)).make([bulk("Cu")])
    again = MontyDecoder().process_decoded(json.loads(json.dumps(jsanitize(made.as_dict(), strict=True))))
    assert again.maker.maker.factor == 3
    assert again.name == "each structure"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: EachMaker(), "given a NoneType; expected a maker"),
        (lambda: EachMaker("vasp"), "given a str; expected a maker"),
        (lambda: EachMaker(CountMaker()).make([]), "is empty"),
        (lambda: EachMaker(CountMaker()).make("POSCAR"), "A path was given"),
    ],
    ids=range(4),
)
def test_what_is_wrong_is_said_when_the_job_is_made(call, said):
    with pytest.raises(InputError, match=said):
        call()
