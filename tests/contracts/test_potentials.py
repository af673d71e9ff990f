"""What every potential must satisfy before it is trusted; derivatives are checked against its own energy."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.potentials import check_model, check_physics, load_potential, model_hash
from aqvolt_flows.potentials.registry import Evaluation, batches, path_hash

SHIPPED = ["7net-mf-0/R2SCAN", "chgnet/r2scan"]
#: Both energies of LiCl (2 atoms) at a = 5.10 Å were read off the packages' own calculators, eV.
LICL = {"7net-mf-0/R2SCAN": -12.5748, "chgnet/r2scan": -12.5816}


def small_m3gnet(folder: Path) -> Path:
    """Write an untrained M3GNet: no physics, but a differentiable energy, as matgl saves it."""
    import torch
    from matgl.apps.pes import Potential
    from matgl.models import M3GNet

    torch.manual_seed(0)
    network = M3GNet(element_types=("Li", "F", "Cl"), dim_node_embedding=16, dim_edge_embedding=16, units=16, nblocks=2)
    # scaled, so that its forces are of eV/Å
    Potential(network, data_std=3000.0, element_refs=[-1.0, -2.0, -3.0]).save(folder)
    return folder


@pytest.fixture(scope="module", params=[*SHIPPED, "matgl"])
def model(request, tmp_path_factory):
    if request.param != "matgl":
        return request.param
    if importlib.util.find_spec("matgl") is None:
        pytest.skip("matgl is not installed")
    return pinned(small_m3gnet(tmp_path_factory.mktemp("m3gnet") / "model"))


def pinned(folder):
    return f"matgl:{folder}@sha256:{path_hash(folder)}"


@pytest.fixture(scope="module")
def potential(model):
    return load_potential(model)


@pytest.fixture(scope="module")
def precise(model):
    return load_potential(model, dtype="float64")


def distorted(seed: int = 1) -> Atoms:
    atoms = bulk("LiCl", "rocksalt", a=5.2, cubic=True)
    atoms.rattle(0.1, seed=seed)
    return atoms


def dense() -> Atoms:
    """Rock-salt LiF with lattice parameters 20 % too short: 122 neighbors within 5 Å, more than torch-sim guesses."""
    atoms = bulk("LiF", "rocksalt", a=4.02 * 0.8, cubic=True)
    atoms.rattle(0.05, seed=1)
    return atoms


def strained(atoms: Atoms, strain: np.ndarray) -> Atoms:
    copy = atoms.copy()
    copy.set_cell(atoms.cell[:] @ (np.eye(3) + strain), scale_atoms=True)
    return copy


def mixed() -> list[Atoms]:
    """Sizes and species of all kinds: cells of 1, 2 and 8 atoms, a dense one, and atoms outside of their cell."""
    outside = distorted()
    outside.positions += np.arange(8)[:, None] % 3 * outside.cell[0] - 2 * outside.cell[2]
    return [distorted(), bulk("Li", "bcc", a=3.4), bulk("LiF", "rocksalt", a=4.0), dense(), outside]


@pytest.mark.parametrize("model", SHIPPED, indirect=True)
def test_licl_has_its_minimum_near_the_measured_lattice_constant(potential):
    """5.13 Å at room temperature (Wyckoff 1963); a checkpoint loaded wrongly has no minimum there."""
    found = check_physics(potential)
    assert found is not None
    assert found.minimum == pytest.approx(5.1, abs=0.06)
    assert np.interp(5.1, found.lattice, found.energies) == pytest.approx(LICL[potential.name], abs=2e-3)


def test_an_untrained_model_fails_the_check_of_physics(tmp_path):
    pytest.importorskip("matgl")
    with pytest.raises(InputError, match=r"With matgl:.* LiCl has .* \(expected 5.1 Å\)"):
        check_physics(load_potential(pinned(small_m3gnet(tmp_path / "m"))))


def test_forces_are_minus_the_gradient(precise):
    """Central differences in float64: an error of h² F''/6, below 1e-4 eV/Å for h = 0.001 Å."""
    atoms, h, moved = distorted(), 1e-3, []
    chosen = [(0, 0), (2, 1), (5, 2)]
    for index, axis in chosen:
        for sign in (1, -1):
            copy = atoms.copy()
            copy.positions[index, axis] += sign * h
            moved.append(copy)
    here, *others = precise.evaluate([atoms, *moved])
    slopes = [(plus.energy - minus.energy) / (2 * h) for plus, minus in zip(others[::2], others[1::2], strict=True)]
    assert np.abs(here.forces).max() > 0.02, "else the comparison would say nothing"
    assert [here.forces[i, axis] for i, axis in chosen] == pytest.approx([-s for s in slopes], abs=1e-4)
    np.testing.assert_allclose(here.forces.sum(axis=0), 0, atol=1e-8)


def test_stress_is_the_strain_derivative(precise):
    """All six components; a strained copy has h/2 twice off the diagonal, so dE/dh is the Voigt component · V.

    CHGNet's angles bend sharply near 180°, which rock salt is full of; hence 2e-5 eV/Å³ and not less.
    """
    atoms, h, copies = distorted(), 1e-3, []
    for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)):
        strain = np.zeros((3, 3))
        strain[i, j] += h / 2
        strain[j, i] += h / 2
        copies += [strained(atoms, strain), strained(atoms, -strain)]
    here, *others = precise.evaluate([atoms, *copies])
    slopes = [(plus.energy - minus.energy) / (2 * h) for plus, minus in zip(others[::2], others[1::2], strict=True)]
    assert np.abs(here.stress).max() > 1e-3
    assert list(here.stress) == pytest.approx([s / atoms.get_volume() for s in slopes], abs=2e-5)


def test_a_batch_of_n_is_n_singles(potential):
    systems = mixed()
    for together, atoms in zip(potential.evaluate(systems), systems, strict=True):
        [alone] = potential.evaluate([atoms])
        assert together.energy == pytest.approx(alone.energy, abs=1e-4)
        np.testing.assert_allclose(together.forces, alone.forces, atol=1e-4)
        np.testing.assert_allclose(together.stress, alone.stress, atol=1e-5)


def test_portions_of_a_batch_change_nothing(potential):
    """Memory is bounded by evaluating portions; the batch stays one."""
    from aqvolt_flows.potentials.torchsim import evaluate_batched

    systems = mixed()
    whole = potential.evaluate(systems)
    parts = evaluate_batched(potential.torchsim_model(max_atoms_per_call=9), systems, 2048)
    for a, b in zip(whole, parts, strict=True):
        assert a.energy == pytest.approx(b.energy, abs=1e-5)
        np.testing.assert_allclose(a.forces, b.forces, atol=1e-5)


@pytest.mark.filterwarnings(
    "ignore"
)  # of the packages that are compared with: matgl builds tensors from lists, imports old names
def test_the_package_s_own_calculator_agrees(potential):
    """Independent: sevenn, chgnet and matgl with their own graphs, one structure at a time."""
    calculator = potential.ase_calculator()
    for atoms, ours in zip(mixed()[:3], potential.evaluate(mixed()[:3]), strict=True):
        own = atoms.copy()
        own.calc = calculator
        assert own.get_potential_energy() == pytest.approx(ours.energy, abs=1e-3)
        np.testing.assert_allclose(own.get_forces(), ours.forces, atol=2e-3)
        np.testing.assert_allclose(own.get_stress(), ours.stress, atol=2e-4)


def test_single_and_double_precision_agree(potential, precise):
    for single, double in zip(potential.evaluate(mixed()), precise.evaluate(mixed()), strict=True):
        assert single.energy == pytest.approx(double.energy, abs=1e-3)
        np.testing.assert_allclose(single.forces, double.forces, atol=2e-3)


def test_atoms_beyond_the_cutoff_feel_nothing(potential):
    alone = Atoms("Li", cell=np.eye(3) * 20.0, pbc=True)
    [found] = potential.evaluate([alone])
    assert np.isfinite(found.energy)
    assert np.abs(found.forces).max() == 0.0
    assert np.abs(found.stress).max() == 0.0


def test_an_element_it_was_not_trained_on_is_named(potential):
    assert {3, 17} <= potential.elements
    strange = bulk("LiCl", "rocksalt", a=5.1)
    strange.numbers[0] = 86
    with pytest.raises(InputError, match="not trained on Rn, which RnCl contains"):
        potential.evaluate([bulk("LiCl", "rocksalt", a=5.1), strange])


def test_chgnet_has_no_reference_energy_of_ytterbium():
    """Its r2SCAN composition model has 6e-14 eV for Yb, −39.6 eV for Lu: read off chgnet's table."""
    assert 70 not in load_potential("chgnet/r2scan").elements
    assert 71 in load_potential("chgnet/r2scan").elements


def test_a_potential_is_loaded_once(potential, precise):
    assert load_potential(potential.name) is potential
    assert load_potential(potential.name, dtype="float64") is precise
    assert len(model_hash(potential.name)) == 64
    with pytest.raises(InputError, match="no precision 'float16'"):
        load_potential(potential.name, dtype="float16")


@pytest.mark.parametrize(
    ("model", "error", "said"),
    [
        ("7net-mf0/R2SCAN", InputError, "did you mean '7net-mf-0/R2SCAN'"),
        ("nequip:large", InputError, "known are"),
        ("fairchem:/nowhere.pt", ResourceError, "no checkpoint /nowhere.pt"),
        ("fairchem:", InputError, "known are"),
        ("matgl:/nowhere", ResourceError, "holds no model.json"),
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


def test_physics_is_not_checked_where_it_cannot_be():
    class Other:
        name = "other"
        elements = frozenset({1, 8})

        def evaluate(self, systems, max_batch_atoms=2048):
            return [Evaluation(0.0, np.zeros((2, 3)), np.zeros(6))]

    assert check_physics(Other()) is None


def test_batches_keep_order_and_limit():
    assert batches([3, 3, 9, 1, 1], 6) == [[0, 1], [2], [3, 4]]
    assert batches([], 6) == []
