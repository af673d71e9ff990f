"""Pairs against ASE's list, and the list with a skin against fresh ones along a hot run in a changing cell."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch_sim as ts
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list as reference_list

from aqvolt_flows.errors import InputError
from aqvolt_flows.potentials import neighbors
from aqvolt_flows.potentials.neighbors import NeighborOptions, Pairs, VerletList, available, search_with

CUTOFF = 5.0
ALGORITHMS = [a for a in ("nvalchemi", "n2", "cells", "vesin") if available(a)]


def systems() -> list[Atoms]:
    """Cells of 1, 8 and 2 atoms, dense, oblique, and with atoms far outside of their cell."""
    dense = bulk("LiF", "rocksalt", a=4.02 * 0.8, cubic=True)
    dense.rattle(0.05, seed=1)
    outside = bulk("LiCl", "rocksalt", a=5.1)
    outside.positions[1] += 7 * outside.cell[0] - 3 * outside.cell[1]
    return [bulk("Li", "bcc", a=3.4), dense, outside]


def state_of(chosen: list[Atoms]):
    return ts.io.atoms_to_state(chosen, device=torch.device("cpu"), dtype=torch.float64)


def ask(verlet: VerletList, state) -> Pairs:
    return verlet(state.positions, state.row_vector_cell, state.system_idx)


def as_set(pairs: Pairs) -> set[tuple[int, ...]]:
    rows = torch.cat([pairs.i[:, None], pairs.j[:, None], pairs.shifts.long()], dim=1)
    return {tuple(row) for row in rows.tolist()}


@pytest.mark.parametrize("skin", [0.0, 0.7])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_pairs_are_those_of_ase(algorithm, skin):
    state = state_of(systems())
    pairs = ask(VerletList(CUTOFF, NeighborOptions(algorithm, skin)), state)
    expected, first = set(), 0
    for atoms in systems():
        i, j, shifts = reference_list("ijS", atoms, CUTOFF)
        expected |= {
            (a + first, b + first, *s) for a, b, s in zip(i.tolist(), j.tolist(), shifts.tolist(), strict=True)
        }
        first += len(atoms)
    assert as_set(pairs) == expected
    assert len(pairs.i) == len(expected), "no pair twice"
    lengths = torch.linalg.vector_norm(pairs.vectors, dim=1)
    assert float(lengths.max()) < CUTOFF
    assert torch.equal(state.system_idx[pairs.i], pairs.system)


def test_a_portioned_search_is_the_whole_one(monkeypatch):
    state = state_of(systems() * 3)
    whole = ask(VerletList(CUTOFF, NeighborOptions("n2", 0.0)), state)
    monkeypatch.setattr(neighbors, "_MAX_CANDIDATES", 1)
    parts = ask(VerletList(CUTOFF, NeighborOptions("n2", 0.0)), state)
    assert torch.equal(whole.vectors, parts.vectors)
    assert torch.equal(whole.i, parts.i)


def test_a_list_used_again_is_a_fresh_one_along_a_hot_run_in_a_changing_cell():
    """Random walks with 0.08 Å a step, cells that shear and breathe by 1 % a step, drift, and a wrapped atom.

    The same pairs in the same order, bit for bit, although the list is searched for a part of the systems only.
    """
    rng = np.random.default_rng(3)
    batch = [bulk("LiCl", "rocksalt", a=5.13, cubic=True) for _ in range(3)]
    kept = VerletList(CUTOFF, NeighborOptions("auto", 0.6))
    partly = 0
    for step in range(40):
        for number, atoms in enumerate(batch):
            if number or step % 8 == 0:  # the first system mostly rests
                strain = 0.01 * rng.normal(size=(3, 3)) if step % 2 else np.zeros((3, 3))
                atoms.set_cell(atoms.cell[:] @ (np.eye(3) + strain), scale_atoms=True)
                atoms.positions += 0.08 * rng.normal(size=atoms.positions.shape) + 0.5
        if step == 20:
            batch[1].wrap()
        state = state_of(batch)
        before = kept.searches
        ours = ask(kept, state)
        fresh = ask(VerletList(CUTOFF, NeighborOptions("auto", 0.0)), state)
        for name in ("i", "j", "shifts", "vectors", "system"):
            assert torch.equal(getattr(ours, name), getattr(fresh, name)), f"{name} at step {step}"
        partly += 0 < kept.searches - before < 3
    assert kept.searches < 40 * 3 * 0.7, "it was used again"
    assert partly > 5, "systems were searched without the others"


def test_a_batch_of_other_systems_is_searched_anew():
    kept = VerletList(CUTOFF)
    ask(kept, state_of(systems()))
    other = state_of(systems()[1:])
    assert as_set(ask(kept, other)) == as_set(ask(VerletList(CUTOFF, NeighborOptions(skin=0.0)), other))


def test_a_cell_that_collapses_is_noticed():
    """Affine compression moves no atom relative to the cell; only the strain criterion sees it."""
    atoms = bulk("LiCl", "rocksalt", a=5.6, cubic=True)
    kept = VerletList(CUTOFF, NeighborOptions(skin=0.5))
    ask(kept, state_of([atoms]))
    atoms.set_cell(atoms.cell[:] * 0.85, scale_atoms=True)
    state = state_of([atoms])
    assert as_set(ask(kept, state)) == as_set(ask(VerletList(CUTOFF, NeighborOptions(skin=0.0)), state))
    assert kept.searches == 2


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(neighbors, "available", lambda algorithm: False)
    with pytest.raises(InputError, match="'vesin' is not installed; choose auto"):
        search_with("vesin")
