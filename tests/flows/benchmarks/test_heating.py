"""The heating ramp on Lennard-Jones argon: planted failures, physics, resumption, denominators."""

from __future__ import annotations

import argon as lennard_jones
import numpy as np
import pytest
from ase.build import bulk

torch = pytest.importorskip("torch")

from pymatgen.io.ase import AseAtomsAdaptor  # noqa: E402

from aqvolt_flows.benchmarks.heating import Heating, heating_metrics  # noqa: E402
from aqvolt_flows.benchmarks.items import GivenItems, Item, items_of  # noqa: E402
from aqvolt_flows.dynamics import kept as kept_runs  # noqa: E402
from aqvolt_flows.errors import ResourceError  # noqa: E402
from aqvolt_flows.models import ResolvedModel  # noqa: E402
from aqvolt_flows.potentials.given import as_potential  # noqa: E402
from aqvolt_flows.schemas.transport import HeatingParameters  # noqa: E402

MODEL = ResolvedModel("lj", "lj", "0" * 64)


def fcc(symbol: str, a: float = 5.3):
    return AseAtomsAdaptor.get_structure(bulk(symbol, "fcc", a=a, cubic=True))


def ramp(**changes) -> HeatingParameters:
    values = {
        "first_temperature_k": 300.0,
        "last_temperature_k": 2100.0,
        "duration_ps": 0.18,
        "timestep_fs": 1.0,
        "seeds": 2,
        "min_length_a": 0.0,
        "resamples": 200,
        "checkpoint_steps": 50,
    }
    return HeatingParameters(**(values | changes))


def planted(failures: dict[int, int]):
    """Argon whose atoms of an atomic number have NaN forces from a step on, all systems being in one batch."""

    class Planted(type(lennard_jones.model())):
        calls = 0

        def forward(self, state, **options):
            found = super().forward(state, **options)
            self.calls += 1  # the first is that of step 0
            for z, step in failures.items():
                if self.calls - 1 >= step:
                    found["forces"][state.atomic_numbers == z] = float("nan")
            return found

    model = lennard_jones.model()
    model.__class__ = Planted
    potential = as_potential(model)
    potential.says_elements = True  # no trial evaluation, which would be counted
    return potential


def measure(potential, structures, parameters, workdir):
    items = GivenItems(items_of([(f"structure {k}", s) for k, s in enumerate(structures)]), "test")
    return Heating().measure(potential, MODEL, parameters, items, workdir)


def test_planted_failures_give_their_temperatures_and_the_exact_survival(tmp_path):
    """1800 K in 180 steps are 10 K a step: Cu fails at step 60 (900 K), Ag at 120 (1500 K), Al and Au survive."""
    structures = [fcc(x) for x in ("Al", "Cu", "Ag", "Au")]
    document, rows = measure(planted({29: 60, 47: 120}), structures, ramp(), tmp_path)
    ends = {(r["formula"], r["run"]): (r["outcome"], r["end_temperature_k"]) for r in rows}
    assert {k[0]: v for k, v in ends.items() if v[0] == "failed"} == {"Cu": ("failed", 900.0), "Ag": ("failed", 1500.0)}
    survival = document.metrics["survival"]
    share = dict(zip(survival["temperatures_k"], survival["share"], strict=True))
    assert (share[800.0], share[900.0], share[1400.0], share[1500.0], share[2100.0]) == (1.0, 0.75, 0.75, 0.5, 0.5)
    assert document.metrics["mean_failure_temperature_k"] == pytest.approx(1200.0)
    assert document.metrics["restricted_mean_k"] == pytest.approx((900 + 1500 + 2 * 2100) / 4)
    assert (document.metrics["n_runs"], document.metrics["n_structures_run"]) == (8, 4)
    assert document.metrics["ends_by_reason"] == {"not_finite": 4}
    low, high = document.metrics["restricted_mean_interval_k"]
    assert low < document.metrics["restricted_mean_k"] < high


def test_expansion_by_half_is_a_failure_and_the_reason_is_kept(tmp_path):
    """Argon boils at 87 K: heated to 2,000 K at 1 bar it leaves |V/V₀ − 1| = 0.5 behind, and is not lost before."""
    p = ramp(first_temperature_k=20.0, last_temperature_k=2000.0, duration_ps=4.0, timestep_fs=8.0, seeds=2,
             min_length_a=10.0, thermostat_tau_fs=40.0)  # fmt: skip
    _, rows = measure(as_potential(lennard_jones.smooth_model()), [fcc("Ar")], p, tmp_path)
    for row in rows:
        assert (row["outcome"], row["end_reason"], row["failure_reason"]) == ("failed", "volume_change", None)
        assert row["last_volume_ratio"] <= 1.5 + 1e-6
        assert row["n_cell_atoms"] == 32
        assert row["end_temperature_k"] == pytest.approx(20 + 1980 * row["end_ps"] / 4)
        assert row["volume_ratios"][0] == pytest.approx(1.0)


def test_a_killed_part_resumes_with_the_same_rows(tmp_path, monkeypatch):
    potential = as_potential(lennard_jones.smooth_model())
    p = ramp(first_temperature_k=20.0, last_temperature_k=60.0, timestep_fs=5.0, duration_ps=0.9)
    _, whole = measure(potential, [fcc("Ar"), fcc("Ar", 5.5)], p, tmp_path / "whole")

    class Killed(BaseException):
        pass

    original, seen = kept_runs._Keeper.progressed, []

    def dies(self, run):
        original(self, run)
        seen.append(run.tick)
        if run.tick == 120:
            raise Killed

    monkeypatch.setattr(kept_runs._Keeper, "progressed", dies)
    with pytest.raises(Killed):
        measure(potential, [fcc("Ar"), fcc("Ar", 5.5)], p, tmp_path / "killed")
    seen.clear()
    monkeypatch.setattr(kept_runs._Keeper, "progressed", lambda self, run: seen.append(run.tick))
    _, again = measure(potential, [fcc("Ar"), fcc("Ar", 5.5)], p, tmp_path / "killed")
    assert seen[0] > 50  # it did not begin again
    assert again == whole
    seen.clear()
    measure(potential, [fcc("Ar"), fcc("Ar", 5.5)], p, tmp_path / "killed")
    assert seen == []  # nothing that had ended is repeated


def test_a_full_disk_is_a_sentence_and_loses_nothing(tmp_path, monkeypatch):
    potential = as_potential(lennard_jones.smooth_model())
    p = ramp(first_temperature_k=20.0, last_temperature_k=60.0, duration_ps=0.1, timestep_fs=5.0)
    with monkeypatch.context() as full:
        full.setattr(kept_runs.shutil, "copyfile", _no_space)
        with pytest.raises(ResourceError, match=r"cannot be kept.*No space left on device.*free space"):
            measure(potential, [fcc("Ar")], p, tmp_path)
    _, rows = measure(potential, [fcc("Ar")], p, tmp_path)
    assert [r["outcome"] for r in rows] == ["survived"] * 2


def _no_space(*_):
    raise OSError(28, "No space left on device")


def test_what_the_time_ends_is_censored_and_counted(tmp_path):
    p = ramp(first_temperature_k=20.0, last_temperature_k=60.0, duration_ps=50.0, max_seconds=0.4)
    document, rows = measure(as_potential(lennard_jones.smooth_model()), [fcc("Ar")], p, tmp_path)
    assert [r["outcome"] for r in rows] == ["interrupted"] * 2
    assert all(20.0 <= r["end_temperature_k"] < 60.0 and r["end_reason"] == "out_of_time" for r in rows)
    assert document.metrics["n_interrupted_runs"] == 2
    assert document.metrics["restricted_mean_k"] == pytest.approx(60.0)  # nothing is known to have failed
    assert document.n_failed == 0


def test_bad_entries_are_counted_and_the_rest_runs(tmp_path):
    """Unreadable, overlapping, one atom alone: a row with a reason each; the first says nothing of the model."""
    overlapping = fcc("Ar")
    overlapping.append("Ar", [0.02, 0, 0])
    alone = AseAtomsAdaptor.get_structure(bulk("Ar", "fcc", a=5.3))
    items = items_of([("good", fcc("Ar")), ("overlapping", overlapping), ("alone", alone)])
    items.append(Item("broken", "broken", None))
    p = ramp(first_temperature_k=20.0, last_temperature_k=60.0, duration_ps=0.02, seeds=1)
    potential = as_potential(lennard_jones.smooth_model())
    document, rows = Heating().measure(potential, MODEL, p, GivenItems(items, "test"), tmp_path)
    reasons = {r["name"]: r["failure_reason"] for r in rows}
    assert reasons == {
        "good": None, "overlapping": "overlapping_atoms", "alone": "single_atom", "broken": "unreadable",
    }  # fmt: skip
    assert (document.metrics["n_runs"], document.metrics["n_not_run"], document.n_failed) == (1, 2, 2)
    assert document.metrics["n_structures_run"] == 1


def test_nothing_that_ran_has_no_survival():
    assert "survival" not in heating_metrics([], ramp())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"last_temperature_k": 300.0}, "it must go up"),
        ({"duration_ps": 0.001}, "expected at least 10"),
        ({"seeds": 0}, "greater than 0"),
    ],
)
def test_parameters_that_make_no_ramp_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        ramp(**changes)


def test_seeds_of_a_structure_differ_and_are_kept(tmp_path):
    p = ramp(first_temperature_k=20.0, last_temperature_k=60.0, duration_ps=0.1, timestep_fs=5.0)
    _, rows = measure(as_potential(lennard_jones.smooth_model()), [fcc("Ar")], p, tmp_path / "a")
    _, again = measure(as_potential(lennard_jones.smooth_model()), [fcc("Ar")], p, tmp_path / "b")
    assert not np.array_equal(rows[0]["volume_ratios"], rows[1]["volume_ratios"])
    assert rows[0]["volume_ratios"] == again[0]["volume_ratios"]
