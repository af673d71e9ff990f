"""What every potential must satisfy before it is trusted; derivatives are checked against its own energy."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.potentials import check_model, load_potential, model_hash
from aqvolt_flows.potentials.registry import batches

MODELS = ["7net-mf-0/R2SCAN", "chgnet/r2scan"]
#: Both energies of LiCl (2 atoms) at a = 5.10 Å were read off the packages' own calculators, eV.
LICL = {"7net-mf-0/R2SCAN": -12.5748, "chgnet/r2scan": -12.5816}


@pytest.fixture(scope="module", params=MODELS)
def potential(request):
    return load_potential(request.param)


def distorted():
    atoms = bulk("LiCl", "rocksalt", a=5.2, cubic=True)
    atoms.rattle(0.1, seed=1)
    return atoms


def strained(atoms, strain):
    copy = atoms.copy()
    copy.set_cell(atoms.cell[:] @ (np.eye(3) + strain), scale_atoms=True)
    return copy


def test_licl_has_its_minimum_near_the_measured_lattice_constant(potential):
    """5.13 Å at room temperature (Wyckoff 1963); a checkpoint loaded wrongly has no minimum there."""
    lattice = np.arange(4.8, 5.5, 0.1)
    energies = [r.energy for r in potential.evaluate([bulk("LiCl", "rocksalt", a=a) for a in lattice])]
    assert lattice[int(np.argmin(energies))] == pytest.approx(5.1, abs=0.11)
    assert energies[3] == pytest.approx(LICL[potential.name], abs=2e-3)


def test_forces_are_minus_the_gradient(potential):
    atoms, h = distorted(), 0.01
    steps = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[2, 1] += sign * h
        steps.append(moved)
    here, plus, minus = potential.evaluate([atoms, *steps])
    assert -(plus.energy - minus.energy) / (2 * h) == pytest.approx(here.forces[2, 1], abs=5e-3)
    np.testing.assert_allclose(here.forces.sum(axis=0), 0, atol=1e-3)


@pytest.mark.parametrize(("component", "i", "j"), [(0, 0, 0), (3, 1, 2)])
def test_stress_is_the_strain_derivative(potential, component, i, j):
    atoms, h = distorted(), 0.004
    strain = np.zeros((3, 3))
    strain[i, j] += h / 2
    strain[j, i] += h / 2
    here, plus, minus = potential.evaluate([atoms, strained(atoms, strain), strained(atoms, -strain)])
    derivative = (plus.energy - minus.energy) / (2 * h) / atoms.get_volume()
    assert derivative == pytest.approx(here.stress[component], abs=3e-4)


def test_a_batch_is_its_members_and_the_packages_own_calculator(potential):
    systems = [distorted(), bulk("LiCl", "rocksalt", a=5.1), bulk("LiF", "rocksalt", a=4.0, cubic=True)]
    together = potential.evaluate(systems)
    for atoms, result in zip(systems, together, strict=True):
        [alone] = potential.evaluate([atoms], max_batch_atoms=1)
        assert result.energy == pytest.approx(alone.energy, abs=1e-4)
        np.testing.assert_allclose(result.forces, alone.forces, atol=1e-4)
    own = systems[0].copy()
    own.calc = potential.calculator()
    assert own.get_potential_energy() == pytest.approx(together[0].energy, abs=1e-3)
    np.testing.assert_allclose(own.get_stress(), together[0].stress, atol=1e-4)


def test_a_potential_is_loaded_once(potential):
    assert load_potential(potential.name) is potential
    assert len(model_hash(potential.name)) == 64


@pytest.mark.parametrize(
    ("model", "error", "said"),
    [
        ("7net-mf0/R2SCAN", InputError, "did you mean '7net-mf-0/R2SCAN'"),
        ("mace:large", InputError, "known are"),
        ("fairchem:/nowhere.pt", ResourceError, "no checkpoint /nowhere.pt"),
    ],
)
def test_what_is_not_there_is_named(model, error, said):
    with pytest.raises(error, match=said):
        check_model(model)


def test_changed_weights_are_refused(monkeypatch, tmp_path):
    from aqvolt_flows.potentials import registry

    (tmp_path / "weights").write_bytes(b"not these")
    monkeypatch.setattr(registry, "_weights", lambda family, model: tmp_path / "weights")
    with pytest.raises(InputError, match="hash to"):
        check_model("chgnet/r2scan")


def test_batches_keep_order_and_limit():
    assert batches([3, 3, 9, 1, 1], 6) == [[0, 1], [2], [3, 4]]
    assert batches([], 6) == []
