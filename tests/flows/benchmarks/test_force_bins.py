"""Force-binned errors against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Composition
from scipy.stats import bootstrap as scipy_bootstrap
from sklearn.metrics import mean_absolute_error, root_mean_squared_error

from aqvolt_flows.benchmarks import bootstrap, force_bins
from aqvolt_flows.benchmarks.item_errors import ItemErrors, Reference, item_errors
from aqvolt_flows.errors import InputError
from aqvolt_flows.potentials import Evaluation
from aqvolt_flows.schemas.parameters import ForceBinParameters
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


def softened(scale: float, n: int = 40, groups: int = 8) -> list[ItemErrors]:
    """Errors of a model whose forces are the references' times ``scale``, in frames of a few candidates."""
    rng = np.random.default_rng(1)
    found = []
    for i in range(n):
        forces = rng.normal(size=(4, 3))
        forces -= forces.mean(axis=0)
        ref = Reference(f"label-{i}", -1.0, forces, rng.normal(size=6))
        one = item_errors(ref, Evaluation(-1.0 + 4 * 0.01 * (i % groups), scale * forces, np.zeros(6)))
        formula = "LiCl" if i % 2 else "LiF"
        found.append(replace(one, group=f"c{i % groups}", source="AB"[i % 2], subset="test", formula=formula))
    return found


def test_slope_and_rmse_are_those_of_numpy_and_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    reference, predicted_forces = rng.normal(size=(2, 6, 5, 3))
    items = [
        item_errors(Reference(str(i), 0.0, f, None), Evaluation(0.01 * i, p, np.zeros(6)))
        for i, (f, p) in enumerate(zip(reference, predicted_forces, strict=True))
    ]
    found = force_bins.summarize(items)
    flat = reference.ravel(), predicted_forces.ravel()
    slope = np.linalg.lstsq(flat[0][:, None], flat[1], rcond=None)[0][0]
    assert found["force_slope"] == pytest.approx(slope)
    assert found["force_rmse_mev_per_a"] == pytest.approx(1e3 * root_mean_squared_error(*flat))
    assert found["force_mae_mev_per_a"] == pytest.approx(1e3 * mean_absolute_error(*flat))
    assert found["energy_rmse_mev_per_atom"] == pytest.approx(2e0 * np.sqrt(np.mean(np.arange(6) ** 2.0)))
    assert found["stress_rmse_gpa"] is None


def test_a_softened_model_has_its_slope_in_every_source_and_bin() -> None:
    found = force_bins.aggregate_all(softened(0.8), ForceBinParameters(split="all"))
    assert found["overall"]["force_slope"] == pytest.approx(0.8)
    first, second = found["by_source"]
    assert (first["name"], second["name"]) == ("A", "B")
    assert "by_subset" not in found, "there is one"
    assert sum(b["n_items"] for b in first["bins"]) == 20
    assert all(b["force_slope"] in (None, pytest.approx(0.8)) for b in second["bins"])


def test_the_interval_is_over_candidates_not_frames() -> None:
    items = softened(0.8, n=400, groups=8)
    found = bootstrap.mae_intervals(items, 1000)
    low, high = found["energy_mae_interval_mev_per_atom"]
    assert found["n_candidates"] == 8
    # eight candidates of equal frames with errors 0, 10 … 70 meV/atom: mean 35, its standard error 22.9/√8 = 8.1
    assert (low + high) / 2 == pytest.approx(35, abs=2)
    assert (high - low) / 2 == pytest.approx(1.96 * 8.1, rel=0.1)
    frames = bootstrap.mae_intervals([replace(i, group="") for i in items], 1000)
    narrow = frames["energy_mae_interval_mev_per_atom"]
    assert (narrow[1] - narrow[0]) < 0.2 * (high - low), "frames of one candidate are no sample"


def test_a_bootstrap_is_scipy_s() -> None:
    values = np.random.default_rng(3).exponential(size=60)
    (ours,) = bootstrap.ratio_intervals(values[:, None], np.ones((60, 1)), 5000)
    theirs = scipy_bootstrap((values,), np.mean, n_resamples=5000, method="percentile", rng=0).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.03)
    assert bootstrap.ratio_intervals(values[:1, None], np.ones((1, 1)), 100) == [None]
    assert bootstrap.ratio_intervals(values[:, None], np.ones((60, 1)), 0) == [None]


def test_offsets_are_found_and_subtracted_only_on_request() -> None:
    planted = {"Li": 0.030, "F": -0.050, "Cl": 0.010}  # eV per atom of it
    formulas = ["LiF", "LiCl", "Li2F2Cl", "Li3Cl"]
    items = []
    for n, formula in enumerate(formulas * 5):
        fractions = Composition(formula).fractional_composition.get_el_amt_dict()
        error = sum(c * planted[x] for x, c in fractions.items())
        items.append(ItemErrors(str(n), 4, 1.0, error, 0.1, 0.01, formula=formula, group=str(n)))
    asked = {
        which: force_bins.aggregate_all(items, ForceBinParameters(subtract=which))
        for which in ("none", "mean", "elements")
    }
    plain = asked["none"]
    assert plain["element_offsets_mev"] == pytest.approx({x: 1e3 * e for x, e in planted.items()})
    assert plain["element_offsets_residual_mae_mev_per_atom"] == pytest.approx(0, abs=1e-9)
    mean = np.mean([1e3 * i.energy_error for i in items])
    assert plain["energy_offset_mev_per_atom"] == pytest.approx(mean)
    assert plain["overall"]["energy_mean_error_mev_per_atom"] == pytest.approx(mean), "shown, not subtracted"
    assert asked["mean"]["overall"]["energy_mean_error_mev_per_atom"] == pytest.approx(0, abs=1e-9)
    assert asked["elements"]["overall"]["energy_mae_mev_per_atom"] == pytest.approx(0, abs=1e-9)
    assert asked["elements"]["overall"]["force_mae_mev_per_a"] == plain["overall"]["force_mae_mev_per_a"]


def test_what_failed_has_no_offset_and_no_interval() -> None:
    failure = Failure(reason="model_error", message="no")
    found = force_bins.aggregate_all([ItemErrors("x", 1, 1.0, failure=failure, formula="LiF")], ForceBinParameters())
    assert (found["energy_offset_mev_per_atom"], found["element_offsets_mev"]) == (None, None)
    assert found["overall"]["force_mae_interval_mev_per_a"] is None
