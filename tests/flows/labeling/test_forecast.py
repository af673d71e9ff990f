"""The forecast of core-hours: exact laws are found exactly, and its errors are as large as they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pymatgen.core import Element

from aqvolt_flows.errors import InputError
from aqvolt_flows.labeling.forecast import fit_costs, valence_electrons


def campaign(seed: int, runs: int, scatter: float, power: float = 2.3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return atoms, electrons and hours that follow a power law of the electrons with log-normal scatter."""
    rng = np.random.default_rng(seed)
    atoms = rng.integers(4, 200, runs)
    electrons = atoms * rng.integers(2, 8, runs)
    return atoms, electrons, 1e-4 * electrons**power * np.exp(rng.normal(0, scatter, runs))


def test_power_laws_are_found_exactly() -> None:
    """Analytic: hours = 10⁻⁴ electrons^2.3, and 10⁻³ atoms electrons²; no scatter, so no error."""
    atoms, electrons, hours = campaign(0, 40, 0.0)
    model = fit_costs(atoms, electrons, hours)
    assert model.predictors == ("electrons",)
    assert model.coefficients == pytest.approx((np.log(1e-4), 2.3), abs=1e-9)
    assert model.predict(10, 1000) == pytest.approx(1e-4 * 1000**2.3)
    forecast = model.total({(50, 300): 2, (10, 70): 5})
    assert forecast.core_hours == pytest.approx(1e-4 * (2 * 300**2.3 + 5 * 70**2.3))
    assert forecast.error == pytest.approx(0.0, abs=1e-9 * forecast.core_hours)
    both = fit_costs(atoms, electrons, 1e-3 * atoms * electrons.astype(float) ** 2)
    assert both.predictors == ("atoms", "electrons")
    assert both.coefficients == pytest.approx((np.log(1e-3), 1.0, 2.0), abs=1e-8)


def test_forecasts_are_as_uncertain_as_they_say() -> None:
    """Independent: 40 campaigns of 60 finished runs forecast 300 more, whose true cost is drawn from the same law."""
    deviations, ratios = [], []
    for seed in range(40):
        atoms, electrons, hours = campaign(seed, 360, 0.4)
        model = fit_costs(atoms[:60], electrons[:60], hours[:60], seed=seed)
        groups: dict[tuple[int, int], int] = {}
        for size in zip(atoms[60:], electrons[60:], strict=True):
            groups[size] = groups.get(size, 0) + 1
        forecast = model.total(groups)
        assert forecast.error is not None
        deviations.append((hours[60:].sum() - forecast.core_hours) / forecast.error)
        ratios.append(forecast.core_hours / hours[60:].sum())
        assert model.factor == pytest.approx(np.exp(0.4), rel=0.25)
    assert 0.7 < np.std(deviations) < 1.4, "the error is one standard deviation"
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.03), "Duan's factor takes the bias of the logarithm away"


def test_few_runs_say_so() -> None:
    one = fit_costs([8], [32], [2.0])
    assert (one.predictors, one.factor) == ((), None)
    assert one.total({(8, 32): 3}) == fit_costs([8], [32], [2.0]).total({(8, 32): 3})
    assert (one.total({(80, 320): 3}).core_hours, one.total({(80, 320): 3}).error) == (pytest.approx(6.0), None)
    assert one.total({}).core_hours == 0.0
    same = fit_costs([8] * 6, [32] * 6, [1.0, 2.0, 3.0, 1.0, 2.0, 3.0])
    assert same.predictors == (), "runs of one size fix no slope"
    assert same.predict(8, 32) == pytest.approx(2.0), "the arithmetic mean"
    with pytest.raises(InputError, match="No labeling run has finished yet"):
        fit_costs([], [], [])
    with pytest.raises(InputError, match="no core-hours"):
        fit_costs([8], [32], [0.0])


def test_valence_electrons() -> None:
    """Against pymatgen: the group for main-group elements; by hand for blocks with filled shells behind."""
    for number in range(1, 87):
        element = Element.from_Z(number)
        if element.block in "sp" and number != 2:
            assert valence_electrons(number) == (element.group if element.group < 3 else element.group - 10)
    by_hand = {"Ti": 4, "Zn": 12, "La": 3, "Ce": 4, "Lu": 3, "Hf": 4, "Au": 11, "Hg": 12, "Bi": 5, "U": 6}
    assert {symbol: valence_electrons(Element(symbol).Z) for symbol in by_hand} == by_hand
    with pytest.raises(InputError, match="atomic number 0"):
        valence_electrons(0)


@settings(deadline=None)
@example(runs=[(1, 1, 1.0), (1, 1, 1.0), (269, 1, 5.0), (270, 1, 2.0)], size=19)  # two nearly equal sizes drawn alone
@example(runs=[(40, 1, 79.0), (39, 1, 5.0), (279, 1, 8.0), (281, 1, 2.0)], size=1)
@example(runs=[(100 + n, 200 - n, 1e-6 if n % 2 else 1e5) for n in range(12)], size=300)
@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(1, 2000), st.floats(1e-6, 1e5)), min_size=1, max_size=12),
    st.integers(1, 300),
)
def test_any_finished_runs_give_a_finite_forecast(runs: list[tuple[int, int, float]], size: int) -> None:
    atoms, electrons, hours = zip(*runs, strict=True)
    model = fit_costs(atoms, electrons, hours)
    inside = model.total(dict.fromkeys(zip(atoms, electrons, strict=True), 1))
    assert inside.core_hours > 0
    assert np.isfinite(inside.core_hours)
    assert inside.error is None or np.isfinite(inside.error)
    assert model.predict(size, size) > 0
    assert np.isfinite(model.predict(size, size))
