"""matgl warns and goes on where an older version wrote a checkpoint; here such a one needs its physics right."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

pytest.importorskip("matgl")

from aqvolt_flows.errors import InputError
from aqvolt_flows.potentials import load_potential, matgl, physics
from aqvolt_flows.potentials.physics import LatticeCheck
from aqvolt_flows.potentials.registry import path_hash


@pytest.fixture
def outdated(tmp_path):
    """An untrained M3GNet whose model.json says that an older version wrote it."""
    from matgl.apps.pes import Potential
    from matgl.models import M3GNet

    network = M3GNet(element_types=("Li", "Cl"), dim_node_embedding=8, dim_edge_embedding=8, units=8, nblocks=1)
    Potential(network).save(tmp_path / "model")
    file = tmp_path / "model" / "model.json"
    written = json.loads(file.read_text())
    file.write_text(json.dumps(written | {"@model_version": 1}))
    return tmp_path / "model"


def test_an_outdated_checkpoint_without_the_minimum_of_licl_is_refused(outdated):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match="written for an older matgl, and with the installed one LiCl has"):
            _ = load_potential(f"matgl:{outdated}@sha256:{path_hash(outdated)}").model


def test_an_outdated_checkpoint_with_the_minimum_loads(outdated, monkeypatch):
    good = LatticeCheck(np.linspace(4.6, 5.6, 11), np.zeros(11), 5.1)
    monkeypatch.setattr(physics, "lithium_chloride", lambda evaluate: good)
    assert matgl.load(f"matgl:{outdated}", "cpu").elements == {3, 17}


def test_a_folder_of_something_else_is_refused(outdated):
    import torch

    torch.save({"a": 1}, outdated / "model.pt")
    with pytest.raises(InputError, match="cannot be loaded by the installed matgl"):
        _ = matgl.load(f"matgl:{outdated}", "cpu").model
