from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from labelled_splits import label
from pymatgen.io.ase import AseAtomsAdaptor

from aqvolt_flows.training.edges import count_edges, edges_under


def test_uncapped_edges_are_pymatgens():
    """Independent: pymatgen's neighbor list of rattled rock salts, 2 and 8 atoms."""
    frames = [label("LiCl", 5.13, 1), label("LiF", 4.03, 2, cubic=True)]
    (found,) = count_edges(frames, 6.0, [10_000])
    expected = [len(AseAtomsAdaptor.get_structure(a).get_neighbor_list(6.0)[0]) for a in frames]
    assert found.edges == sum(expected)
    assert (found.frames, found.atoms, found.capped) == (2, 10, 0)
    assert found.most_per_atom == pytest.approx(max(e / len(a) for e, a in zip(expected, frames, strict=True)))


def test_a_cap_keeps_whole_shells():
    """Analytic: shells of 6, 12 and 8; the neighbor after the cap brings those within 0.01 Å^2 of it."""
    distances = np.repeat([1.0, 1.5, 2.0], [6, 12, 8])
    assert [edges_under(distances, cap) for cap in (5, 6, 17, 18, 26)] == [6, 18, 18, 26, 26]


@pytest.mark.slow  # imports fairchem
@pytest.mark.parametrize("cap", [5, 30, 300])
def test_capped_edges_are_fairchems(cap: int):
    """Independent: the graph that fairchem itself builds, perfect shells and rattled ones."""
    import torch
    from fairchem.core.datasets.atomic_data import AtomicData, atomicdata_list_to_batch
    from fairchem.core.graph.compute import generate_graph

    frames = [bulk("LiF", "rocksalt", a=4.03), label("LiCl", 5.13, 1), label("LiF", 4.03, 2, cubic=True)]
    batch = atomicdata_list_to_batch([AtomicData.from_ase(a, task_name="omat") for a in frames])
    graph = generate_graph(
        batch,
        cutoff=6.0,
        max_neighbors=cap,
        enforce_max_neighbors_strictly=False,
        radius_pbc_version=1,
        pbc=torch.ones(3, 3, dtype=torch.bool),
    )
    (found,) = count_edges(frames, 6.0, [cap])
    assert found.edges == graph["edge_index"].shape[1]
