"""Labels: numbers against closed forms, and every way to be refused."""

from __future__ import annotations

import math

import label_factory
import numpy as np
import pytest

from aqvolt_flows.datasets.labels import BUILDER_VERSION, label_from_outcome, merge
from aqvolt_flows.labelers import reference_functional
from aqvolt_flows.schemas.label import LabelOutcome
from aqvolt_flows.schemas.provenance import Failure, Protocol


def label(result, frame=None, uuid="u", at="2026-01-01"):
    return label_from_outcome(result, frame, uuid, at)


def test_numbers_follow_from_the_displacements():
    result = label_factory.outcome(3)
    made = label(result, label_factory.frame(3).model_dump())
    shift = np.random.default_rng(3).normal(scale=0.1, size=(8, 3))
    assert made.status == "valid"
    assert made.failure is None
    # Harmonic world: E_coh = −3 + ½ k Σ u² / N, F = −k u
    assert made.cohesive_energy_per_atom == pytest.approx(-3.0 + 0.5 * 2.0 * (shift**2).sum() / 8, abs=1e-9)
    assert made.max_force == pytest.approx(2.0 * np.sqrt((shift**2).sum(axis=1)).max(), abs=1e-12)
    assert made.energy_per_atom == pytest.approx(result.energy / 8)
    # 1 eV/Å³ = 160.21766208 GPa (CODATA 2018), pressure is minus the mean diagonal
    assert made.pressure_gpa == pytest.approx(-sum(result.stress[:3]) / 3 * 160.2176634, rel=1e-9)
    assert (made.formula, made.chemsys, made.n_atoms) == ("LiCl", "Cl-Li", 8)
    assert (made.trajectory_id, made.candidate_id, made.temperature_k) == ("trajectory-3", "candidate-LiCl", 300.0)
    assert made.builder_version == BUILDER_VERSION


def test_lithium_chloride_against_the_published_atoms():
    # MatPES 2025.1: Li −0.77575 eV, Cl −4.80808 eV (r2SCAN); SevenNet-MF-0's LiCl minimum is −12.5748 eV a pair.
    result = label_factory.outcome(0, energy=4 * -12.5748)
    assert label(result).cohesive_energy_per_atom == pytest.approx((-12.5748 + 0.77575 + 4.80808) / 2, abs=1e-4)


def test_identity_is_frame_and_protocol_only():
    one, two = label(label_factory.outcome(0), uuid="a"), label(label_factory.outcome(0, seed=99), uuid="b", at="2027")
    assert one.label_id == two.label_id
    assert label(label_factory.outcome(0, protocol=label_factory.VASP)).label_id != one.label_id
    newer = label_factory.SURROGATE.model_copy(update={"version": "2"})
    assert label(label_factory.outcome(0, protocol=newer)).label_id == one.label_id


FAULTS = {
    "unconverged": {"status": "unconverged"},
    "killed": {"status": "killed"},
    "no_atoms": {"atomic_numbers": []},
    "bad_element": {"atomic_numbers": [3, 17, 3, 17, 3, 17, 3, 119]},
    "no_energy": {"energy": None},
    "no_forces": {"forces": None},
    "no_stress": {"stress": None},
    "bad_forces": {"forces": [[0.0, 0.0, 0.0]] * 7},
    "bad_stress": {"stress": [0.0] * 9},
    "bad_positions": {"positions": [[0.0, 0.0]] * 8},
    "bad_cell": {"cell": [[1.0, 0.0, 0.0]] * 2},
    "bad_magmoms": {"magmoms": [0.0]},
    "flat_cell": {"cell": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0]]},
}


@pytest.mark.parametrize("reason", FAULTS)
def test_every_fault_is_a_rejected_document(reason):
    made = label(label_factory.outcome(1, **FAULTS[reason]), label_factory.frame(1).model_dump())
    assert made.status == "rejected"
    assert made.failure.reason == reason
    assert made.failure.message.endswith(".")
    assert made.forces is None
    assert made.positions == []
    assert made.formula == "LiCl"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_rejected(bad):
    forces = [[0.0, 0.0, 0.0]] * 7 + [[0.0, bad, 0.0]]
    for changes in ({"energy": bad}, {"forces": forces}, {"stress": [bad] * 6}):
        assert label(label_factory.outcome(1, **changes)).failure.reason == "not_finite"


def test_ragged_forces_are_rejected():
    assert label(label_factory.outcome(1, forces=[[0.0, 0.0, 0.0]] * 7 + [[0.0]])).failure.reason == "bad_forces"


def test_labelers_own_reason_is_kept():
    failure = Failure(reason="missing_potcar", message="No POTCAR for Y.")
    assert label(label_factory.outcome(1, status="failed", failure=failure)).failure == failure


def test_another_frame_is_refused():
    assert label(label_factory.outcome(1), label_factory.frame(2).model_dump()).failure.reason == "wrong_frame"
    of_lif = label_factory.frame(1, "LiF").model_dump()
    assert "LiF" in label(label_factory.outcome(1), of_lif).failure.message


@pytest.mark.parametrize(
    "raw", [{}, {"frame_id": "frame-1"}, {"frame_id": 3, "protocol": "none"}, {"status": "converged", "energy": "high"}]
)
def test_what_is_no_outcome_is_rejected_not_raised(raw):
    made = label(raw, uuid="job-7")
    assert made.status == "rejected"
    assert made.failure.reason == "bad_outcome"
    assert label(raw, uuid="job-7").label_id == made.label_id
    if "frame_id" not in raw:
        assert label(raw, uuid="job-8").label_id != made.label_id


@pytest.mark.parametrize(
    ("code", "functional", "expected"),
    [
        ("vasp", "r2SCAN", "r2SCAN"),
        ("vasp", "PBE", "PBE"),
        ("surrogate", "chgnet/r2scan", "r2SCAN"),
        ("surrogate", "7net-mf-0/R2SCAN", "r2SCAN"),
        ("surrogate", "7net-mf-0/PBE", "PBE"),
        ("surrogate", "fairchem:x.pt", None),
        ("gpaw", "r2SCAN", None),
    ],
)
def test_which_isolated_atoms_belong_to_a_protocol(code, functional, expected):
    assert reference_functional(Protocol(code=code, version="", functional=functional)) == expected


def test_labelers_own_isolated_atoms_win():
    gpaw = Protocol(code="gpaw", version="26.7", functional="r2SCAN", settings_hash="ef" * 32)
    bare = label(label_factory.outcome(0, protocol=gpaw, energy=-40.0))
    assert bare.status == "valid"
    assert bare.cohesive_energy_per_atom is None
    own = label(
        label_factory.outcome(0, protocol=gpaw, energy=-40.0, details={"atomic_energies": {"Li": -1.0, "Cl": -2.0}})
    )
    assert own.cohesive_energy_per_atom == pytest.approx((-40.0 + 4 * 3.0) / 8)


def test_elements_beyond_the_table_are_labelled_without_cohesive_energy():
    made = label(label_factory.outcome(0, atomic_numbers=[3, 100] * 4))
    assert made.status == "valid"
    assert made.cohesive_energy_per_atom is None


class TestMerge:
    good = staticmethod(lambda uuid, at: label(label_factory.outcome(0), uuid=uuid, at=at))
    bad = staticmethod(lambda uuid, at: label(label_factory.outcome(0, status="killed"), uuid=uuid, at=at))

    def test_a_good_record_is_never_lost_beside_a_bad_one(self):
        for first, second in ((self.good("a", "1"), self.bad("b", "2")), (self.bad("b", "2"), self.good("a", "1"))):
            made = merge(first, second)
            assert (made.status, made.source_uuid, made.other_sources) == ("valid", "a", {"b": "2"})

    def test_of_two_good_ones_the_later_wins_in_either_order(self):
        for first, second in ((self.good("a", "1"), self.good("b", "2")), (self.good("b", "2"), self.good("a", "1"))):
            made = merge(first, second)
            assert (made.source_uuid, made.other_sources) == ("b", {"a": "1"})

    def test_a_rerun_replaces_its_own_label(self):
        made = merge(self.bad("a", "1"), self.good("a", "2"))
        assert (made.status, made.source_completed_at, made.other_sources) == ("valid", "2", {})

    def test_a_failed_rerun_keeps_the_good_label_and_is_remembered(self):
        made = merge(self.good("a", "1"), self.bad("a", "2"))
        assert (made.status, made.source_completed_at, made.other_sources) == ("valid", "1", {"a": "2"})
        assert merge(made, self.bad("a", "2")) == made


def test_an_outcome_that_went_through_json_gives_the_same_label():
    result = label_factory.outcome(5)
    again = LabelOutcome.model_validate_json(result.model_dump_json())
    exclude = {"last_updated"}
    assert label(again.model_dump(mode="json")).model_dump(exclude=exclude) == label(result).model_dump(exclude=exclude)
