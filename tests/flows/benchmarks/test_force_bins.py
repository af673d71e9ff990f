"""Force-binned errors against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aqvolt_flows.benchmarks import force_bins
from aqvolt_flows.benchmarks.item_errors import ItemErrors, Reference, item_errors
from aqvolt_flows.errors import InputError
from aqvolt_flows.potentials import Evaluation
from aqvolt_flows.schemas.provenance import Failure
from aqvolt_flows.units import EV_PER_A3_IN_GPA

EDGES = [0.0, 0.2, 1.0, 10.0]


def reference(name: str, n_atoms: int, force: float, energy: float = -10.0) -> Reference:
    forces = np.zeros((n_atoms, 3))
    forces[0] = [0.0, -force, 0.0]
    return Reference(name, energy, forces, np.array([0.01, 0, 0, 0, 0, 0.0]))


def predicted(ref: Reference, energy: float, force: float, stress: float) -> Evaluation:
    return Evaluation(ref.energy + energy, ref.forces + force, ref.stress + stress)


def test_two_structures_by_hand() -> None:
    # a: 2 atoms, |F| 0.1: +10 meV over 2 atoms = +5 meV/atom; every force component off by 30 meV/Å.
    # b: 4 atoms, |F| 5.0: −80 meV over 4 atoms = −20 meV/atom; every force component off by 60 meV/Å.
    a, b = reference("a", 2, 0.1), reference("b", 4, 5.0)
    items = [
        item_errors(a, predicted(a, 0.010, 0.030, 0.001)),
        item_errors(b, predicted(b, -0.080, -0.060, -0.003)),
    ]
    result = force_bins.aggregate(items, EDGES)
    low, middle, high = result["bins"]
    assert [low["n_items"], middle["n_items"], high["n_items"]] == [1, 0, 1]
    assert low["energy_mae_mev_per_atom"] == pytest.approx(5.0)
    assert high["energy_mean_error_mev_per_atom"] == pytest.approx(-20.0)
    assert middle["energy_mae_mev_per_atom"] is None
    overall = result["overall"]
    assert overall["energy_mae_mev_per_atom"] == pytest.approx(12.5)
    assert overall["energy_mean_error_mev_per_atom"] == pytest.approx(-7.5)
    # component-wise over 6 + 12 components: (6·30 + 12·60)/18 = 50 meV/Å
    assert overall["force_mae_mev_per_a"] == pytest.approx(50.0)
    assert overall["stress_mae_gpa"] == pytest.approx(0.002 * EV_PER_A3_IN_GPA)
    assert result["n_outside"] == 0


def test_the_force_of_a_bin_is_a_vector_s_length() -> None:
    forces = np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 4.9]])
    assert Reference("x", 0.0, forces).max_force == pytest.approx(5.0)


@pytest.mark.parametrize(("force", "place"), [(0.0, 0), (0.2, 1), (0.9999, 1), (1.0, 2), (10.0, 2)])
def test_bins_hold_their_lower_edge_and_the_last_its_upper(force: float, place: int) -> None:
    result = force_bins.aggregate([ItemErrors("x", 1, force, 0.0, 0.0, 0.0)], EDGES)
    assert [b["n_items"] for b in result["bins"]].index(1) == place


def test_outside_is_counted_and_stays_in_overall() -> None:
    result = force_bins.aggregate([ItemErrors("x", 1, 11.0, 0.1, 0.2, 0.3)], EDGES)
    assert result["n_outside"] == 1
    assert result["overall"]["n_items"] == 1


def test_failures_count_and_never_improve_a_number() -> None:
    ok = [ItemErrors(str(i), 1, 0.5, e, e, e) for i, e in enumerate([0.001, 0.002, 0.003])]
    lost = [ItemErrors(f"f{i}", 1, 0.5, failure=Failure(reason="not_finite")) for i in range(4)]
    one = force_bins.summarize(ok + lost[:1])
    assert one["failed_percent"] == pytest.approx(25.0)
    assert one["energy_mae_mev_per_atom"] == pytest.approx(2.0)
    assert one["energy_median_ae_mev_per_atom"] == pytest.approx(2.5)  # of 1, 2, 3, inf
    most = force_bins.summarize(ok + lost)
    assert most["energy_median_ae_mev_per_atom"] is None
    assert most["n_failed"] == 4


def test_a_prediction_that_failed_has_no_errors() -> None:
    item = item_errors(reference("a", 2, 0.1), Failure(reason="model_error", message="no"))
    assert item.energy_error is None
    assert item.failure.reason == "model_error"


def test_a_reference_without_stress_gives_no_stress_error() -> None:
    ref = Reference("a", -1.0, np.ones((1, 3)))
    item = item_errors(ref, Evaluation(-1.0, np.ones((1, 3)), np.zeros(6)))
    assert item.stress_mae is None
    assert force_bins.summarize([item])["stress_mae_gpa"] is None
    assert force_bins.summarize([item])["n_stress"] == 0


@given(st.lists(st.floats(0.0, 9.99), min_size=1, max_size=30))
def test_every_structure_is_in_one_bin_and_overall_is_their_weighted_mean(forces: list[float]) -> None:
    items = [ItemErrors(str(i), 1 + i % 3, f, 0.001 * i, 0.01 * i, 0.0) for i, f in enumerate(forces)]
    result = force_bins.aggregate(items, EDGES)
    assert sum(b["n_items"] for b in result["bins"]) == len(items)
    weighted = sum(b["energy_mae_mev_per_atom"] * b["n_items"] for b in result["bins"] if b["n_items"]) / len(items)
    assert result["overall"]["energy_mae_mev_per_atom"] == pytest.approx(weighted, abs=1e-9)
    atoms = sum(b["force_mae_mev_per_a"] * b["n_atoms"] for b in result["bins"] if b["n_items"])
    assert result["overall"]["force_mae_mev_per_a"] == pytest.approx(atoms / sum(i.n_atoms for i in items), abs=1e-9)


@pytest.mark.parametrize("edges", [[1.0], [0.0, 0.0], [1.0, 0.5]])
def test_edges_must_rise(edges: list[float]) -> None:
    with pytest.raises(InputError, match="rise"):
        force_bins.aggregate([], edges)
