"""Means and errors of correlated series against what is known of them."""

from __future__ import annotations

import numpy as np
import pytest

from aqvolt_flows.dynamics.averages import (
    expected_fluctuations,
    mean_and_error,
    small_cell_warning,
    temperature_variance,
)


@pytest.mark.parametrize("memory", [0.0, 0.8, 0.97])
def test_the_error_is_that_of_an_autoregressive_series(memory):
    """x' = φ x + noise of variance 1 − φ² has variance 1 and τ = (1 + φ)/(2 (1 − φ)): the mean's error is √(2 τ/n)."""
    rng, n = np.random.default_rng(3), 20_000
    noise = rng.standard_normal(n) * (1 - memory**2) ** 0.5
    values = np.empty(n)
    values[0] = rng.standard_normal()
    for i in range(1, n):
        values[i] = memory * values[i - 1] + noise[i]
    mean, error = mean_and_error(300 + values)
    expected = ((1 + memory) / (1 - memory) / n) ** 0.5
    assert error == pytest.approx(expected, rel=0.15)
    assert abs(mean - 300) < 4 * error


def test_pymbar_finds_the_same_statistical_inefficiency():
    timeseries = pytest.importorskip("pymbar.timeseries")
    rng = np.random.default_rng(0)
    values = np.convolve(rng.standard_normal(8000), np.exp(-np.arange(60) / 12), mode="valid")
    _, error = mean_and_error(values)
    inefficiency = timeseries.statistical_inefficiency(values)
    assert error == pytest.approx(values.std() * (inefficiency / len(values)) ** 0.5, rel=0.1)


def test_few_values_have_a_mean_and_no_error():
    assert mean_and_error(np.array([])) == (None, None)
    assert mean_and_error(np.array([1.0, 3.0])) == (2.0, None)
    assert mean_and_error(np.full(20, 7.0)) == (7.0, 0.0)


def test_a_short_series_has_at_least_the_variance_that_is_expected():
    """White noise of half the width: the error is that of the full width."""
    values = np.random.default_rng(1).standard_normal(5000) / 2
    assert mean_and_error(values, 1.0)[1] == pytest.approx(1 / 5000**0.5, rel=0.2)
    assert mean_and_error(values, 0.01)[1] == pytest.approx(0.5 / 5000**0.5, rel=0.2)
    assert temperature_variance(8, 300.0) == pytest.approx(2 * 300**2 / 21)


def test_small_cells_are_told():
    """Two atoms: sigma of T is sqrt(2/3) of it; at 1500 K, 33 Å³ and 17 GPa, kT/(B V) is 0.129 eV / 3.5 eV."""
    of_temperature, of_volume = expected_fluctuations(2, 33.0, 1500.0)
    assert of_temperature == pytest.approx((2 / 3) ** 0.5)
    assert of_volume == pytest.approx(0.192, abs=0.002)
    said = small_cell_warning(2, 33.0, 1500.0)
    assert said.startswith("2 atoms: temperature and volume fluctuate by 82 % and about 19 %")
    assert "min_length_a" in said
    assert small_cell_warning(64, 1080.0, 1500.0) is None
