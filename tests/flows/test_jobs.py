"""What the decorator of makers refuses when a job is made, and what it leaves for later."""

from __future__ import annotations

import pytest
from ase.build import bulk
from jobflow import job

from aqvolt_flows.errors import InputError
from aqvolt_flows.makers import AIMDMaker, EVScanMaker, NpTMDMaker, R2scanStaticMaker, RelaxMaker, SurrogateStaticMaker


@job
def earlier():
    return bulk("LiCl", "rocksalt", a=5.1)


@pytest.mark.parametrize(
    "maker", [R2scanStaticMaker, SurrogateStaticMaker, RelaxMaker, NpTMDMaker, EVScanMaker, AIMDMaker]
)
def test_none_is_refused_when_the_job_is_made(maker):
    further = (300.0,) if maker is AIMDMaker else ()
    with pytest.raises(InputError, match="None"):
        maker().make(None, *further)


def test_a_list_with_a_reference_is_checked_but_for_it():
    reference = earlier().output
    assert RelaxMaker("chgnet/r2scan").make([reference]).uuid
    assert RelaxMaker("chgnet/r2scan").make([bulk("LiCl", "rocksalt", a=5.1), reference]).uuid
    with pytest.raises(InputError, match=r"expected a pymatgen Structure or ASE Atoms"):
        RelaxMaker("chgnet/r2scan").make([reference, "POSCAR"])


def test_none_by_name_is_refused_too():
    with pytest.raises(InputError, match="None"):
        RelaxMaker().make(structures=None)
    with pytest.raises(InputError, match="None"):
        SurrogateStaticMaker().make(structure=None)
