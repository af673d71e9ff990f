"""The conductivity benchmark: planted trajectories through the whole analysis, a real small run, bad entries."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from walks import FRAME_FS, track

pytest.importorskip("pymatgen.analysis.diffusion")
pytest.importorskip("kinisi")
torch = pytest.importorskip("torch")

from aqvolt_flows.benchmarks.conductivity import LiConductivity, TransportReference  # noqa: E402
from aqvolt_flows.benchmarks.conductivity_scores import Known  # noqa: E402
from aqvolt_flows.benchmarks.items import GivenItems, Item  # noqa: E402
from aqvolt_flows.benchmarks.rdf import around_lithium  # noqa: E402
from aqvolt_flows.benchmarks.transport import nernst_einstein  # noqa: E402
from aqvolt_flows.dynamics import kept as kept_runs  # noqa: E402
from aqvolt_flows.dynamics.kept_status import KeptRun  # noqa: E402
from aqvolt_flows.frames import Frame, write_frames  # noqa: E402
from aqvolt_flows.models import ResolvedModel  # noqa: E402
from aqvolt_flows.potentials.given import as_potential  # noqa: E402
from aqvolt_flows.schemas.provenance import Failure  # noqa: E402
from aqvolt_flows.schemas.transport import ConductivityParameters  # noqa: E402
from aqvolt_flows.units import KB_EV_PER_K  # noqa: E402

MODEL = ResolvedModel("made", "made", "0" * 64)
TEMPERATURES = [500.0, 700.0, 900.0, 1100.0]


def salt(li: object = "Li", x: str = "Cl") -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.13), [li, x], [[0, 0, 0], [0.5, 0.5, 0.5]])


def soft_salt():
    """Screened charges and a repulsion; nothing but a crystal that vibrates."""
    from torch_sim.models.pair_potential import PairPotentialModel

    def pair(dr, zi, zj):
        charge = torch.where(zi == 3, 1.0, -1.0) * torch.where(zj == 3, 1.0, -1.0)
        smooth = (1 - (dr / 6.0) ** 2).clamp(min=0) ** 3
        return (7.2 * charge / dr * torch.exp(-dr / 3) + 400 * torch.exp(-dr / 0.34)) * smooth

    return PairPotentialModel(
        pair_fn=pair, cutoff=6.0, device=torch.device("cpu"), dtype=torch.float64, compute_forces=True,
        compute_stress=True,
    )  # fmt: skip


def law(temperature: float) -> float:
    return 2e-3 * float(np.exp(-0.30 / (KB_EV_PER_K * temperature)))


def write(made, path, dropped_frames: int = 10):
    """Write a track as frames of an MD run, after some frames of an equilibration that would spoil it."""
    frames, n = [], len(made.numbers)
    for k in range(-dropped_frames, len(made.positions)):
        wild = max(k, 0)
        positions = made.positions[wild] + (5.0 * np.random.default_rng(k + 99).normal(size=(n, 3)) if k < 0 else 0)
        frames.append(
            Frame(
                trajectory_id="t", step=round((k + dropped_frames) * FRAME_FS), temperature=500.0, energy=0.0,
                atomic_numbers=made.numbers.astype(np.int16), positions=positions, cell=made.cells[wild],
                forces=np.zeros((n, 3)), stress=np.zeros(6),
            )
        )  # fmt: skip
    write_frames(path, frames)


@pytest.fixture
def planted(monkeypatch, tmp_path):
    """Give what each run of a temperature shall have been: a track, or how it failed."""
    chosen = {}

    def run_kept(_potential, systems, parameters, folder, _max_seconds=None, _on_progress=None):
        folder.mkdir(parents=True, exist_ok=True)
        found = {}
        for number, system in enumerate(systems):
            name, outcome = system.trajectory_id, chosen[system.temperature_k](number)
            if isinstance(outcome, Failure):
                found[name] = KeptRun(name, "failed", 5, outcome, None)
                continue
            path = folder / f"{number}.parquet"
            write(outcome, path)
            found[name] = KeptRun(name, "completed", parameters.n_steps, None, path, 1.0)
        return found

    monkeypatch.setattr(kept_runs, "run_kept", run_kept)
    return chosen


def parameters(**changes) -> ConductivityParameters:
    values = {
        "temperatures_k": TEMPERATURES, "duration_ps": 51.0, "dropped_ps": 1.0, "frame_ps": 0.1,
        "target_temperature_k": 500.0,
    }  # fmt: skip
    return ConductivityParameters(**(values | changes))


def measure(items, p, workdir, potential=None):
    chosen = potential or as_potential(soft_salt())
    return LiConductivity().measure(chosen, MODEL, p, GivenItems(items, "test"), workdir)


def test_a_planted_arrhenius_law_comes_back_with_its_interval(planted, tmp_path):
    """D = 2e-3 exp(−0.30 eV/kT) cm²/s in 12 Å: Ea within 0.05 eV, σ(500 K) within its interval and 40 %."""
    for t in TEMPERATURES:
        planted[t] = lambda number, t=t: track(law(t), number, n_frames=501)
    measured = nernst_einstein(law(500.0), 32, 12.0**3, 500.0)
    item = Item("LiCl", "licl", salt(), TransportReference(Known(2 * measured)))
    document, rows = measure([item], parameters(), tmp_path)
    assert [r["resolved"] for r in rows] == [True] * 4
    assert [r["state"] for r in rows] == ["solid"] * 4
    (material,) = document.metrics["materials"]
    assert material["kind"] == "resolved"
    assert material["activation_ev"] == pytest.approx(0.30, abs=0.05)
    low, high = material["interval_ms_cm"]
    assert low < measured < high
    assert material["ms_cm"] == pytest.approx(measured, rel=0.4)
    assert document.metrics["mae_ms_cm"] == pytest.approx(abs(material["ms_cm"] - 2 * measured))
    assert document.metrics["mean_log10_error_exact"] == pytest.approx(abs(np.log10(material["ms_cm"] / 2 / measured)))
    assert document.metrics["with_halogens"]["n_materials"] == 1
    assert document.metrics["without_halogens"] is None
    assert rows[0]["time_ps"] == pytest.approx(50.0)  # the first ps is not analyzed


def test_vibration_gives_bounds_and_no_error_in_ms_cm(planted, tmp_path):
    for t in TEMPERATURES:
        planted[t] = lambda number: track(0.0, number, n_frames=501, vibration_a=0.25)
    items = [
        Item("a number", "a", salt(), TransportReference(Known(1e-3))),
        Item("a bound", "b", salt("Li", "Br"), TransportReference(Known(1e-7, bound=True))),
    ]
    document, rows = measure(items, parameters(), tmp_path)
    assert [m["kind"] for m in document.metrics["materials"]] == ["below", "below"]
    assert all(r["ms_cm"] is None and r["resolved"] is False for r in rows)
    assert document.metrics["mae_ms_cm"] is None
    assert (document.metrics["n_resolved"], document.metrics["n_below"], document.metrics["n_ordered"]) == (0, 2, 0)
    assert document.metrics["n_temperatures_bound"] == 8
    limit = nernst_einstein(9 / (6 * 32 * 5e4) / 10, 32, 12.0**3, 500.0)
    assert document.metrics["materials"][0]["ms_cm"] == pytest.approx(3.7 * limit, rel=0.05)


def test_a_molten_temperature_has_no_number_and_the_others_do(planted, tmp_path):
    for t in TEMPERATURES:
        planted[t] = lambda number, t=t: track(law(t), number, n_frames=501, framework_d_cm2_s=1e-5 * (t > 1000))
    document, rows = measure([Item("LiCl", "licl", salt())], parameters(), tmp_path)
    assert [r["state"] for r in rows] == ["solid"] * 3 + ["molten"]
    assert (rows[3]["failure_reason"], rows[3]["d_cm2_s"]) == ("molten", None)
    assert "Cl" in rows[3]["failure_message"]
    assert document.metrics["materials"][0]["temperatures_used_k"] == TEMPERATURES[:3]
    assert document.metrics["temperatures_by_state"] == {"molten": 1, "solid": 3}


def test_runs_that_left_physics_are_counted_and_the_rest_is_used(planted, tmp_path):
    why = Failure(reason="vaporized", message="step 5: V/V₀ reached 3")
    for t in TEMPERATURES:
        planted[t] = lambda number, t=t: why if t > 1000 or number < 4 else track(law(t), number, n_frames=501)
    document, rows = measure([Item("LiCl", "licl", salt())], parameters(replicas=2), tmp_path)
    assert [(r["n_runs"], r["n_runs_used"]) for r in rows] == [(2, 1), (2, 1), (2, 1), (2, 0)]
    assert [r["failure_reason"] for r in rows] == [None, None, None, "vaporized"]
    assert document.metrics["failed_by_reason"] == {"vaporized": 1}


def test_two_temperatures_are_said_and_extrapolate_nothing(planted, tmp_path):
    for t in (900.0, 1100.0):
        planted[t] = lambda number, t=t: track(law(t), number, n_frames=501)
    document, _ = measure([Item("LiCl", "licl", salt())], parameters(temperatures_k=[900.0, 1100.0]), tmp_path)
    (material,) = document.metrics["materials"]
    assert material["kind"] == "below"
    assert "2 of 2 temperatures are resolved; an extrapolation needs 3" in material["note"]


def test_distributions_stand_beside_those_of_aimd(planted, tmp_path):
    made = track(1e-6, 3, n_frames=501)
    planted[500.0] = lambda _number: made
    aimd = {500.0: around_lithium(made.numbers, made.positions[::7], made.cells[::7]), 900.0: {}}
    item = Item("LiCl", "licl", salt(), TransportReference(aimd=aimd))
    _, (row,) = measure([item], parameters(temperatures_k=[500.0]), tmp_path)
    (found,) = row["distributions"]
    assert found["element"] == "Cl"
    assert 0 < found["difference"] < 0.1  # of other frames of one run
    assert len(found["g"]) == 120


def test_bad_entries_are_rows_with_a_reason(planted, tmp_path):
    for t in TEMPERATURES:
        planted[t] = lambda number: track(0.0, number, n_frames=501)
    lithium = Structure(Lattice.cubic(3.5), ["Li", "Li"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    thin = salt({"Li": 0.99, "Na": 0.01})
    items = [
        Item("good", "good", salt()),
        Item("no Li", "a", salt("Na")),
        Item("Li only", "b", lithium),
        Item("thin", "c", thin, TransportReference(Known(1.0))),
        Item("broken", "d", None),
    ]
    document, rows = measure(items, parameters(max_cell_atoms=64), tmp_path)
    reasons = {r["name"]: r["failure_reason"] for r in rows}
    assert reasons == {
        "good": None, "no Li": "no_lithium", "Li only": "lithium_only", "thin": "no_ordering", "broken": "unreadable",
    }  # fmt: skip
    assert [m["name"] for m in document.metrics["materials"]] == ["good", "thin"]
    assert (document.metrics["n_not_resolved"], document.metrics["n_with_experiment"]) == (1, 1)


def test_a_real_run_of_a_disordered_crystal(tmp_path):
    """Two orderings, two temperatures, 0.6 ps: real dynamics through the same code; too short to resolve anything."""
    p = ConductivityParameters(
        temperatures_k=[200.0, 400.0], duration_ps=0.6, dropped_ps=0.1, frame_ps=0.02, timestep_fs=4.0, orderings=2,
    )  # fmt: skip
    document, rows = measure([Item("Li3Cl4", "x", salt({"Li": 0.75}))], p, tmp_path)
    reasons = {r["failure_reason"] for r in rows}
    assert reasons == {"too_short"}  # lags below 1 ps are none
    assert all(r["n_runs"] == 2 and r["n_cell_atoms"] == 56 for r in rows)
    assert document.atom_steps == 2 * 2 * 56 * p.n_steps
    assert document.metrics["materials"][0]["kind"] == "not_resolved"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dropped_ps": 60.0}, "leaves nothing"),
        ({"frame_ps": 20.0}, "expected at least 20"),
        ({"temperatures_k": [500.0, 500.0]}, "names one twice"),
        ({"temperatures_k": []}, "at least 1"),
    ],
)
def test_parameters_that_measure_nothing_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        parameters(**changes)
