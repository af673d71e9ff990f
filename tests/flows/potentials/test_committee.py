"""A committee behind the contract of potentials, and runs that end where it does not know what it sees."""

from __future__ import annotations

import json

import argon
import numpy as np
import pytest

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.potentials import check_model, load_potential, model_hash
from aqvolt_flows.potentials.committee import describe_committee, read_committee

SHIPPED = ["7net-mf-0/R2SCAN", "chgnet/r2scan"]


@pytest.fixture(scope="module")
def committee(tmp_path_factory):
    folder = tmp_path_factory.mktemp("committee")
    (folder / "two.json").write_bytes(describe_committee(SHIPPED, folder))
    return f"committee:{folder / 'two.json'}"


def rattled(seed=1, a=5.2):
    from ase.build import bulk

    atoms = bulk("LiCl", "rocksalt", a=a, cubic=True)
    atoms.rattle(0.1, seed=seed)
    return atoms


class TestCommittee:
    def test_it_is_the_mean_of_its_members_and_knows_their_spread(self, committee):
        from aqvolt_flows.loop.doubt import committee_doubt

        check_model(committee)
        potential = load_potential(committee)
        systems = [rattled(), rattled(2, 4.6), rattled(3)[:2]]
        alone = [load_potential(m).evaluate(systems) for m in SHIPPED]
        for index, (found, each) in enumerate(
            zip(potential.evaluate(systems), potential.evaluate_members(systems), strict=True)
        ):
            expected = [members[index] for members in alone]
            assert found.energy == pytest.approx(np.mean([e.energy for e in expected]), abs=1e-4)
            np.testing.assert_allclose(found.forces, np.mean([e.forces for e in expected], axis=0), atol=1e-4)
            np.testing.assert_allclose(found.stress, np.mean([e.stress for e in expected], axis=0), atol=1e-5)
            difference = np.linalg.norm(expected[0].forces - expected[1].forces, axis=1)
            doubt = committee_doubt(each.energies, each.forces)
            np.testing.assert_allclose(doubt.atoms, difference / 2, atol=1e-4)  # of two, half their difference
        assert potential.elements == load_potential(SHIPPED[0]).elements & load_potential(SHIPPED[1]).elements

    @pytest.mark.filterwarnings("ignore")  # of the packages that are compared with
    def test_ase_s_average_of_the_packages_own_calculators_agrees(self, committee):
        potential, atoms = load_potential(committee), rattled()
        [ours] = potential.evaluate([atoms])
        own = atoms.copy()
        own.calc = potential.ase_calculator()
        assert own.get_potential_energy() == pytest.approx(ours.energy, abs=1e-3)
        np.testing.assert_allclose(own.get_forces(), ours.forces, atol=2e-3)

    def test_the_model_returns_the_spread_of_each_atom(self, committee):
        import torch_sim as ts

        potential, atoms = load_potential(committee), rattled()
        model = potential.torchsim_model()
        out = model(ts.io.atoms_to_state([atoms, atoms], device=model.device, dtype=model.dtype))
        [found] = potential.evaluate_members([atoms])
        expected = np.sqrt(np.var(found.forces, axis=0).sum(-1))
        np.testing.assert_allclose(out["force_sigma"].numpy(), np.tile(expected, 2), atol=1e-5)

    def test_its_hash_is_that_of_its_members_in_any_order_and_anywhere(self, committee, tmp_path):
        assert describe_committee(SHIPPED[::-1], tmp_path) == describe_committee(SHIPPED, tmp_path)
        (tmp_path / "again.json").write_bytes(describe_committee(SHIPPED, tmp_path))
        assert model_hash(f"committee:{tmp_path / 'again.json'}") == model_hash(committee)

    def test_members_by_path_move_with_the_file(self, tmp_path):
        (tmp_path / "a").mkdir()
        for name in ("x.pt", "y.pt"):
            (tmp_path / "a" / name).write_bytes(name.encode())
        ends = {"x.pt": "#omat", "y.pt": f"@sha256:{'ab' * 32}"}  # a level of theory, and a pinned hash
        models = [f"fairchem:{tmp_path / 'a' / name}{end}" for name, end in ends.items()]
        content = describe_committee(models, tmp_path / "a")
        assert str(tmp_path) not in content.decode()
        (tmp_path / "a" / "c.json").write_bytes(content)
        (tmp_path / "a").rename(tmp_path / "b")
        found = {e["model"] for e in read_committee(tmp_path / "b" / "c.json")}
        assert found == {f"fairchem:{tmp_path / 'b' / name}{end}" for name, end in ends.items()}

    @pytest.mark.parametrize(
        ("members", "releases", "said"),
        [
            (SHIPPED[:1], (), "committee of 1 has no spread"),
            ([SHIPPED[0]] * 2, (), "is in the committee twice"),
            (SHIPPED, ("aa" * 32, "bb" * 32), "trained on 2 releases"),
        ],
    )
    def test_what_is_no_committee(self, members, releases, said, tmp_path):
        with pytest.raises(InputError, match=said):
            describe_committee(members, tmp_path, releases)

    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "other/1", "members": []}', '{"members": [1]}'])
    def test_files_that_are_none(self, content, tmp_path):
        path = tmp_path / "c.json"
        path.write_text(content)
        with pytest.raises(InputError, match="is not a committee"):
            read_committee(path)

    def test_a_member_that_was_changed_is_refused(self, tmp_path):
        path = tmp_path / "c.json"
        content = json.loads(describe_committee(SHIPPED, tmp_path))
        content["members"][0]["sha256"] = "ab" * 32
        path.write_text(json.dumps(content))
        with pytest.raises(InputError, match=r"hashes to .* expected abababababab"):
            load_potential(f"committee:{path}")
        with pytest.raises(ResourceError, match="no checkpoint"):
            check_model(f"committee:{tmp_path / 'none.json'}")


def argon_committee(scale):
    """Two Lennard-Jones argons whose depths differ: σ_F is |F| times half the relative difference."""
    from torch_sim.models.lennard_jones import LennardJonesModel

    from aqvolt_flows.potentials.committee_torchsim import CommitteeModel

    first = argon.model()
    second = LennardJonesModel(
        sigma=argon.SIGMA,
        epsilon=argon.EPSILON * scale,
        cutoff=argon.CUTOFF,
        device=first.device,
        dtype=first.dtype,
        compute_forces=True,
        compute_stress=True,
    )
    return CommitteeModel([first, second])


class TestGuard:
    def run(self, scale, **limits):
        from aqvolt_flows.dynamics.npt import NpTRun

        parameters = argon.parameters(n_steps=60, stride=5, **limits)
        [outcome] = NpTRun(argon_committee(scale), [argon.system(temperature=60.0)], parameters).run()
        return outcome

    def test_a_run_ends_where_the_committee_is_lost_and_keeps_its_frames(self):
        """Depths that differ by half: σ_F = 0.2 |⟨F⟩|, above 1e-4 eV/Å as soon as atoms move."""
        outcome = self.run(1.5, max_force_sigma_ev_per_a=1e-4, uncertain_steps=20)
        assert outcome.failure is not None
        assert outcome.failure.reason == "uncertain"
        assert "for 20 steps" in outcome.failure.message
        assert 20 <= outcome.steps_done < 60
        steps = [f.step for f in outcome.frames]
        assert steps == list(range(0, outcome.steps_done, 5)), "frames up to there are kept"

    def test_it_is_ended_early_and_not_failed(self):
        from aqvolt_flows.dynamics.stability import status_of

        outcome = self.run(1.5, max_force_sigma_ev_per_a=1e-4, uncertain_steps=20)
        assert status_of(outcome.failure, outcome.steps_done) == "ended_early"

    def test_one_uncertain_step_is_none(self):
        assert self.run(1.5, max_force_sigma_ev_per_a=1e-4, uncertain_steps=61).failure is None
        assert self.run(1.5, max_force_sigma_ev_per_a=1.0).failure is None

    def test_a_committee_that_agrees_runs_as_its_members_do(self):
        """Equal members: the mean is each, bit for bit, and σ_F is zero."""
        from aqvolt_flows.dynamics.npt import NpTRun

        together = self.run(1.0, max_force_sigma_ev_per_a=1e-12)
        [alone] = NpTRun(argon.model(), [argon.system(temperature=60.0)], argon.parameters(n_steps=60, stride=5)).run()
        assert together.failure is None
        for a, b in zip(together.frames, alone.frames, strict=True):
            np.testing.assert_array_equal(a.positions, b.positions)

    def test_a_single_model_has_no_spread(self):
        from aqvolt_flows.dynamics.npt import NpTRun

        run = NpTRun(argon.model(), [argon.system()], argon.parameters(max_force_sigma_ev_per_a=0.1))
        with pytest.raises(InputError, match="explore with a committee"):
            run.run()

    def test_a_checkpoint_in_between_changes_nothing(self):
        from aqvolt_flows.dynamics.npt import NpTRun

        parameters = argon.parameters(n_steps=60, stride=5, max_force_sigma_ev_per_a=1e-4, uncertain_steps=20)
        system = argon.system(temperature=60.0)
        first = NpTRun(argon_committee(1.5), [system], parameters)
        for _ in range(10):
            first.advance()
        state = first.snapshot()
        second = NpTRun(argon_committee(1.5), [system], parameters)
        second.restore(state)
        [a], [b] = second.run(), [self.run(1.5, max_force_sigma_ev_per_a=1e-4, uncertain_steps=20)]
        assert (a.steps_done, a.failure) == (b.steps_done, b.failure)
