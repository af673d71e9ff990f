"""Modules of makers for scripts import nothing heavy: a submit node writes flows without torch."""

from __future__ import annotations

import plugins
import pytest

MODULES = [
    "aqvolt_flows.exploration.npt_maker",
    "aqvolt_flows.dynamics.relax_maker",
    "aqvolt_flows.sampling.direct_maker",
    "aqvolt_flows.each",
    "aqvolt_flows.potentials.given",
    "aqvolt_flows.sampling.encoders",
    "aqvolt_flows.sampling.direct.engines",
]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_of_makers_imports_nothing_heavy(module, tmp_path):
    code = (
        f"import {module}, sys; print([m for m in ('torch', 'torch_sim', 'sevenn', 'chgnet', 'fairchem', 'matgl', "
        "'sklearn', 'matplotlib') if m in sys.modules])"
    )
    assert plugins.run(tmp_path, code) == "[]\n"


def test_a_flow_of_all_is_made_and_stored_as_fireworks_without_torch(tmp_path):
    code = """
import sys
from ase.build import bulk
import json
from datetime import datetime
from fireworks import Workflow
from jobflow import Flow
from jobflow.managers.fireworks import flow_to_workflow
from ase.calculators.lj import LennardJones
from aqvolt_flows.each import EachMaker
from aqvolt_flows.dynamics.relax_maker import RelaxMaker
from aqvolt_flows.exploration.npt_maker import NpTMDMaker
from aqvolt_flows.sampling.direct_maker import DirectMaker
relax = RelaxMaker("chgnet/r2scan").make([bulk("LiCl", "rocksalt", a=5.1)])
md = NpTMDMaker("7net-mf-0/R2SCAN", parameters={"n_steps": 10}).make(relax.output.structures)
direct = DirectMaker("chgnet/r2scan").make(md.output)
each = EachMaker(RelaxMaker(LennardJones(sigma=3.4))).make(direct.output.structures)
stored = json.loads(json.dumps(flow_to_workflow(Flow([relax, md, direct, each])).to_dict(), default=datetime.isoformat))
for made, firework in zip((relax, md, direct, each), Workflow.from_dict(stored).fws):
    assert firework.tasks[0]["job"].maker.as_dict() == made.maker.as_dict(), made.name
print("torch" in sys.modules)
"""
    assert plugins.run(tmp_path, code) == "False\n"
