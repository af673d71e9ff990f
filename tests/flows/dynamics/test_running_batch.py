"""Who is in the batch: room, memory that runs out, ends, failures; and noise that belongs to a trajectory."""

from __future__ import annotations

import argon
import numpy as np
import pytest
from argon import crystal, parameters, system

torch = pytest.importorskip("torch")

from aqvolt_flows.dynamics.memory import MemoryRecord, Room, is_out_of_memory, room_for  # noqa: E402
from aqvolt_flows.dynamics.noise import BLOCK_STEPS, Draws, TrajectoryNoise, block_of  # noqa: E402
from aqvolt_flows.dynamics.npt import NpTRun  # noqa: E402
from aqvolt_flows.dynamics.systems import refusal  # noqa: E402
from aqvolt_flows.errors import InputError  # noqa: E402


@pytest.fixture(scope="module")
def model():
    return argon.model()


class Wrapped:
    """A model that can refuse batches, count calls and spoil forces."""

    def __init__(self, model, max_atoms=10**9, error=None, spoil=None):
        self.inner, self.max_atoms, self.error, self.spoil = model, max_atoms, error, spoil
        self.device, self.dtype = model.device, model.dtype
        self.largest = self.calls = 0

    def __call__(self, state):
        self.calls += 1
        if state.n_atoms > self.max_atoms:
            raise self.error
        self.largest = max(self.largest, state.n_atoms)
        assert torch.isfinite(state.positions).all()  # whatever happens, no NaN reaches a model
        out = self.inner(state)
        return self.spoil(state, dict(out), self.calls) if self.spoil else out


def small(name: str, seed: int = 1):
    return system(seed=seed, name=name, atoms=crystal(5.3, 1))


def by_id(outcomes):
    return {o.system.trajectory_id: o for o in outcomes}


@pytest.mark.parametrize("ensemble", ["npt_nose_hoover_isotropic", "npt_crescale_full"])
def test_waiting_systems_take_the_place_of_those_that_end(model, ensemble):
    """Room for two of five: every run is what it is alone, whenever it starts and whoever runs beside it."""
    p = parameters(n_steps=30, stride=5, max_batch_atoms=8, ensemble=ensemble)
    counted = Wrapped(model)
    systems = [small(f"s{i}", seed=i) for i in range(5)]
    run = NpTRun(counted, systems, p)
    ticks = []
    outcomes = run.run(lambda r: ticks.append(dict(r.running)))
    assert counted.largest == 8
    assert [o.steps_done for o in outcomes] == [30] * 5
    assert all([f.step for f in o.frames] == [0, 5, 10, 15, 20, 25, 30] for o in outcomes)
    assert {"s2", "s3"} in [set(t) for t in ticks]
    for i in (0, 3, 4):
        [alone] = NpTRun(model, [systems[i]], p).run()
        np.testing.assert_allclose(alone.frames[-1].positions, outcomes[i].frames[-1].positions, atol=1e-5)
        np.testing.assert_allclose(alone.frames[-1].cell, outcomes[i].frames[-1].cell, atol=1e-5)


@pytest.mark.parametrize(
    "error", [torch.cuda.OutOfMemoryError("CUDA out of memory"), MemoryError(),
              RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")],
)  # fmt: skip
def test_when_memory_runs_out_half_steps_aside_and_nothing_is_lost(model, error):
    """Room for three of seven, found out while running; frames and ends are those of a run with room for all."""
    systems = [small(f"s{i}", seed=i) for i in range(7)]
    p = parameters(n_steps=12, stride=4)
    tight = Wrapped(model, max_atoms=28, error=error)
    told = []
    run = NpTRun(tight, systems, p, on_out_of_memory=told.append)
    for _ in range(3):
        run.advance()
    assert len(run.running) == 7
    tight.max_atoms = 12
    outcomes = run.run()
    assert told == pytest.approx([7 * 4 * 4 / systems[0].atoms.get_volume()])
    assert tight.largest == 28
    reference = NpTRun(model, systems, p).run()
    for ours, theirs in zip(outcomes, reference, strict=True):
        assert ours.failure is None
        assert [f.step for f in ours.frames] == [0, 4, 8, 12]
        np.testing.assert_allclose(ours.frames[-1].positions, theirs.frames[-1].positions, atol=1e-5)


def test_a_system_that_never_fits_fails_alone(model):
    tight = Wrapped(model, max_atoms=8, error=MemoryError())
    outcomes = by_id(NpTRun(tight, [small("a"), system(name="large"), small("b")], parameters(n_steps=5)).run())
    assert outcomes["large"].failure.reason == "out_of_memory"
    assert [outcomes[i].failure for i in "ab"] == [None, None]


def test_other_errors_of_a_model_are_not_taken_for_memory(model):
    with pytest.raises(RuntimeError, match="shapes"):
        NpTRun(Wrapped(model, 0, RuntimeError("shapes differ")), [small("a")], parameters()).run()
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory"))


@pytest.mark.parametrize("guard_every", [1, 7])
def test_a_run_that_turns_nan_ends_there_and_its_mates_do_not_notice(model, monkeypatch, guard_every):
    """Also when the flags are looked at every seventh step only, as on a GPU."""
    from aqvolt_flows.dynamics import npt

    def spoil(state, out, call):
        if call == 14:  # the start is call 1: this is step 13
            out["forces"] = out["forces"].clone()
            out["forces"][:4] = torch.nan
        return out

    monkeypatch.setattr(npt, "guard_steps", lambda _device: guard_every)
    p = parameters(n_steps=24, stride=3)
    outcomes = by_id(NpTRun(Wrapped(model, spoil=spoil), [small("bad"), small("good", seed=2)], p).run())
    bad = outcomes["bad"]
    assert (bad.failure.reason, bad.steps_done) == ("not_finite", 13)
    assert bad.failure.message.startswith("step 13:")
    assert [f.step for f in bad.frames] == [0, 3, 6, 9, 12]
    [alone] = NpTRun(model, [small("good", seed=2)], p).run()
    assert outcomes["good"].failure is None
    np.testing.assert_allclose(alone.frames[-1].positions, outcomes["good"].frames[-1].positions, atol=1e-5)


def rattled(a, displacement):
    atoms = crystal(a, 1)
    atoms.rattle(displacement, seed=1)
    return atoms


@pytest.mark.parametrize(
    ("changes", "atoms", "reason"),
    [
        ({"max_force_ev_per_a": 0.2}, rattled(5.3, 0.5), "force_limit"),
        ({"max_volume_ratio": 1.3}, crystal(4.6, 1), "vaporized"),
        ({"min_packing": 0.12, "max_volume_ratio": 0.0}, crystal(4.2, 1), "vaporized"),  # 0.27 at the start
        ({"max_volume_ratio": 1.5, "pressure_gpa": 0.5, "barostat_tau_fs": 100.0}, crystal(7.0, 1), "collapsed"),
        ({"max_volume_change": 0.2, "barostat_tau_fs": 300.0}, crystal(4.6, 1), "volume_change"),
        (
            {"max_force_ev_per_a": 1e9, "max_volume_ratio": 0.0, "min_packing": 0.0, "timestep_fs": 1.0},
            rattled(3.6, 0.3),
            "temperature_limit",
        ),
        ({"stride": 50, "lost_atom_cutoff_a": 4.2, "n_steps": 100}, crystal(6.4, 1), "lost_atoms"),  # 4.5 Å apart
    ],
)
def test_every_limit_ends_a_run_with_its_reason(model, changes, atoms, reason):
    cold = {"n_steps": 60, "stride": 1, "equilibration_ps": 0.0, "ensemble": "npt_nose_hoover_isotropic"}
    p = parameters(**(cold | changes))
    if reason == "lost_atoms":
        p = p.model_copy(update={"barostat_tau_fs": 1e6, "max_volume_change": 5.0})
    outcomes = by_id(NpTRun(model, [system(name="x", atoms=atoms, temperature=1.0), small("fine")], p).run())
    assert outcomes["x"].failure.reason == reason
    assert outcomes["x"].failure.message.startswith(f"step {outcomes['x'].steps_done}:")
    assert outcomes["fine"].failure is None


def test_an_id_twice_or_one_atom_is_refused_by_name(model):
    with pytest.raises(InputError, match="Trajectory a was given twice"):
        NpTRun(model, [small("a"), small("a")], parameters())
    with pytest.raises(InputError, match="lonely has one atom"):
        NpTRun(model, [system(name="lonely", atoms=crystal()[:1])], parameters())


def test_refusals_name_what_is_wrong():
    atoms = crystal(5.3, 1)
    assert refusal(atoms, {18}, "toy", 0.5) is None
    assert refusal(atoms, {1, 3}, "toy", 0.5).message == "toy has no parameters for Ar"
    atoms.positions[1] = atoms.positions[0] + [0.4, 0, 0]
    said = refusal(atoms, None, "toy", 0.5)
    assert said.reason == "overlapping_atoms"
    assert "Ar0 and Ar1 are 0.400 Å apart" in said.message or "Ar1 and Ar0 are 0.400 Å apart" in said.message
    assert refusal(atoms, None, "toy", 0.0) is None
    narrow = crystal(5.3, 1)
    narrow.cell[2, 2] = 0.7  # overlaps with its own image
    assert refusal(narrow, None, "toy", 0.5).reason == "overlapping_atoms"


def test_noise_depends_on_seed_and_step_only():
    draws = Draws(normals=3, gammas=2)
    ours, shapes = TrajectoryNoise(draws, torch.device("cpu")), [4.0, 47.5]
    ours.prepare([11, 12], shapes)
    steps = np.array([BLOCK_STEPS - 1, 5])
    seen = ours.at(steps, torch.tensor(steps))
    np.testing.assert_array_equal(seen[0], block_of(11, 0, draws, 4.0)[BLOCK_STEPS - 1])
    np.testing.assert_array_equal(ours.at(steps + 1, torch.tensor(steps + 1))[0], block_of(11, 1, draws, 4.0)[0])
    alone = TrajectoryNoise(draws, torch.device("cpu"))
    alone.prepare([12], shapes[1:])
    np.testing.assert_array_equal(alone.at(steps[1:], torch.tensor(steps[1:]))[0], seen[1])
    many = np.concatenate([block_of(12, b, draws, 47.5) for b in range(40)])
    assert many[:, :3].mean() == pytest.approx(0, abs=0.03)  # standard error 0.008
    assert many[:, 3:].mean() == pytest.approx(47.5, abs=0.4)  # of a gamma variate: its shape; standard error 0.07


def test_room_comes_from_the_record_or_from_a_probe(model, tmp_path):
    atoms = [crystal()] * 20
    record = MemoryRecord(tmp_path, "weights", model.device)
    asked = []

    def measure(model, atoms, by_density):
        asked.append(len(atoms))
        return 2e6

    room = room_for(model, atoms, 4096, record, measure=measure)
    assert asked == [32]
    assert room.max_size > 0
    assert room.size(32, 1000.0) == pytest.approx(32 * 32 / 1000)
    room_for(model, atoms, 4096, record, measure=measure)
    assert asked == [32]  # the record knows
    record.too_large(10.0)
    record.too_large(12.0)
    assert room_for(model, atoms, 4096, record, measure=measure).max_size == 5.0
    other = MemoryRecord(tmp_path, "other weights", model.device)
    assert other.read() == {}
    assert not Room(100, 5.0).fits(101, 1.0)
    assert not Room(100, 5.0).fits(10, 5.1)


@pytest.mark.parametrize("freed_mb", [0, 80])
def test_a_probe_measures_real_memory(model, freed_mb):
    """A model that takes 100 kB an atom is seen to; on the CPU the kernel's high-water mark is read.

    Freed heap of a long-lived process would take the smaller batch, and not the larger: the answer was twice as much.
    """
    from aqvolt_flows.dynamics.memory import probe

    class Hungry(Wrapped):
        def __call__(self, state):
            held = torch.ones(state.n_atoms * 12_500, dtype=torch.float64)
            return {"energy": held.sum()}

    blocks = [bytearray(100_000) for _ in range(freed_mb * 10)]
    last = bytearray(100_000)  # above the freed blocks: they stay in the heap
    del blocks
    measured = probe(Hungry(model), crystal(), by_density=False, probe_atoms=1024)
    if measured is None:
        pytest.skip("this system does not tell a process its peak memory")
    assert measured == pytest.approx(1e5, rel=0.2)
    del last


@pytest.mark.parametrize("n_steps", [100, 104])
def test_a_search_for_lost_atoms_that_does_not_fit_costs_no_run(model, monkeypatch, n_steps):
    """At the last step it is left out; before, half of the batch steps aside and every frame is written once."""
    from aqvolt_flows.dynamics.stability import Guard

    calls = []

    def search(self, batch):
        calls.append(len(batch))
        if len(calls) == 1:
            raise MemoryError
        return batch

    monkeypatch.setattr(Guard, "search_lost", search)
    outcomes = NpTRun(model, [small("a"), small("b", seed=2)], parameters(n_steps=n_steps, stride=4)).run()
    assert calls[0] == 2
    for o in outcomes:
        assert (o.failure, o.steps_done) == (None, n_steps)
        assert [f.step for f in o.frames] == list(range(0, n_steps + 1, 4))
